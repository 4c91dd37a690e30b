"""The course of a round: loss and learning rate by update, and the numbers of now."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llama_factory.web.charts.curves import Plot, Sample, plot, thin

NUM_LABELS = 5
MOST_UPDATES = 400
"""Looked at, evenly chosen: a picture has no room for more."""
OTHERS = ("gradient_norm", "throughput", "memory_used_gib", "lr")
"""Drawn beside the loss."""
SHOWN = (
    *("loss", "lr", "gradient_norm", "throughput", "tokens_per_second"),
    *("memory_used_gib", "gpu_utilisation", "elapsed_time", "remaining_time"),
)
"""Numbers of the newest update, in this order."""


@dataclass(frozen=True)
class TrainingCourse:
    """A round as it is drawn.

    Attributes:
        loss: curves of the loss, by source where sources are told apart.
        others: other curves by name.
        step: updates done.
        num_steps: updates planned.
        numbers: of the newest update, by name.
    """

    loss: Plot | None
    others: Mapping[str, Plot]
    step: int
    num_steps: int
    numbers: Mapping[str, str]


def course_of(updates: Sequence[Mapping[str, Any]]) -> TrainingCourse | None:
    """The course; None before the first update."""
    if not updates:
        return None
    newest, updates = updates[-1], thin(updates, MOST_UPDATES)
    steps = [int(each["current_steps"]) for each in updates]
    span = steps[-1] - steps[0]
    marks = {steps[0] + round(span * n / NUM_LABELS) for n in range(NUM_LABELS + 1)}
    labels = {float(step): str(step) for step in sorted(marks)}
    names = [name for name in newest if name == "loss" or name.endswith("_loss")]
    losses = {name: _series(updates, name) for name in names}
    drawn = {name: plot({name: _series(updates, name)}, labels) for name in OTHERS}
    return TrainingCourse(
        plot(losses, labels),
        {name: each for name, each in drawn.items() if each is not None},
        steps[-1],
        int(newest.get("total_steps") or steps[-1]),
        {name: _written(newest[name]) for name in SHOWN if newest.get(name) is not None},
    )


def _series(updates: Sequence[Mapping[str, Any]], name: str) -> list[Sample]:
    known = [(each["current_steps"], each.get(name)) for each in updates]
    numbers = [
        (step, value)
        for step, value in known
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    return [Sample(float(step), float(value)) for step, value in thin(numbers)]


def _written(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
