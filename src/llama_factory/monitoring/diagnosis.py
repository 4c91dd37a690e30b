"""What alerts mean together: the usual causes, each with the numbers that speak for it."""

from collections.abc import Mapping, Sequence
from typing import Any

from llama_factory.monitoring.inputs import LABELS, LANGUAGE, LENGTH, LOSS, WORDS
from llama_factory.monitoring.outputs import ANSWER_LENGTH, FEEDBACK, REFUSALS
from llama_factory.monitoring.series import Point

REPLAYING = ("replay", "agem")
"""Strategies that teach earlier rows again."""
MUCH_DRIFT = 1.15
"""General perplexity against the base model's above which a round moved the whole model."""


def diagnose(points: Mapping[str, Point], report: Mapping[str, Any]) -> list[str]:
    """Sentences about what is wrong, the likeliest cause first; none where nothing is.

    Args:
        points: the newest value of each series.
        report: of the released version.
    """
    alerts = {name: point for name, point in points.items() if point.alert}
    lost = [point for name, point in alerts.items() if name.startswith("decay.")]
    found = _of_loss(lost, report) if lost else []
    shifted = [alerts[name] for name in (LANGUAGE, LABELS, LENGTH, WORDS, LOSS) if name in alerts]
    if shifted:
        found.append(
            "The data shifted: " + "; ".join(point.words for point in shifted) + ". Look at the "
            "newest rows before they are taught; if they are meant, a round teaches them."
        )
    if FEEDBACK in alerts:
        found.append(_of_users(alerts[FEEDBACK], has_loss=bool(lost)))
    found += [f"{alerts[n].words}." for n in (REFUSALS, ANSWER_LENGTH) if n in alerts]
    others = (point for name, point in alerts.items() if name.startswith("machine."))
    return [*found, *(f"{point.words}." for point in others)]


def _of_loss(lost: Sequence[Point], report: Mapping[str, Any]) -> list[str]:
    """Why earlier knowledge went: too high a rate, or nothing that protects it."""
    told = "; ".join(point.words for point in lost)
    version = lost[0].version
    found = [f"Knowledge was lost in {version}: {told}. `llama-factory rollback` goes back."]
    ratio = _guard_ratio(report)
    if ratio is not None and ratio > MUCH_DRIFT:
        steps = report.get("training", {}).get("steps")
        after = f" after {steps} updates" if steps else ""
        found.append(
            f"The learning rate may be too high: general perplexity is x {ratio:.2f} of the base "
            f"model's{after}, so the round moved more than what it taught. Lower "
            "training.learning_rate."
        )
    strategies = report.get("strategies", {})
    if not set(strategies) & set(REPLAYING):
        names = ", ".join(strategies) or "none"
        found.append(
            f"Replay is missing: no earlier row was taught again (strategies: {names}). Set "
            "strategies to default or safe."
        )
    return found


def _of_users(point: Point, *, has_loss: bool) -> str:
    text = f"Users are unhappy since release {point.version}: {point.words}."
    if has_loss:
        return text
    return (
        f"{text} The held-out rows show no loss, so they do not ask what users ask: look at "
        "`llama-factory feedback`, and accept corrections as rows."
    )


def _guard_ratio(report: Mapping[str, Any]) -> float | None:
    guard = report.get("evaluation", {}).get("guard_perplexity")
    base = report.get("base_guard_perplexity")
    return guard / base if guard and base else None
