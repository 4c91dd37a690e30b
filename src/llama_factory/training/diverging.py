"""Whether a run ended far above its beginning: then it began with better weights than it made."""

import math
from collections.abc import Mapping, Sequence
from statistics import median

SHARE, MOST_UPDATES = 8, 10
"""The beginning and the end of a run are this part of its updates each, at most so many."""
LOSS_RISE = 1.0
"""A loss that ended higher than its beginning by this, and by more than that was, has diverged."""
NORM_FACTOR = 100.0
"""Gradients that ended so many times as long as they began have exploded."""


def told(rows: Sequence[Mapping[str, float]]) -> str:
    """What is wrong with the course of a run, in words; nothing where nothing is.

    Args:
        rows: `loss` and `gradient_norm` of every update.
    """
    losses, norms = (_finite(rows, name) for name in ("loss", "gradient_norm"))
    found = []
    if len(losses) > 1:
        begin, end = _ends(losses)
        if end - begin > max(LOSS_RISE, abs(begin)):
            found.append(
                f"the loss ended at {end:.3g}, far above its beginning ({begin:.3g}; highest "
                f"{max(losses):.3g})"
            )
    if len(norms) > 1:
        begin, end = _ends(norms)
        if begin and end > NORM_FACTOR * begin:
            found.append(f"gradients grew to {end / begin:.0f} times their length")
    if not found:
        return ""
    return (
        f"The run diverged: {' and '.join(found)}. The model is likely worse than before. Lower "
        "training.learning_rate, or leave max_grad_norm at 1."
    )


def _finite(rows: Sequence[Mapping[str, float]], name: str) -> list[float]:
    return [row[name] for row in rows if math.isfinite(row.get(name, math.nan))]


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """The usual value at the beginning, and at the end."""
    size = min(MOST_UPDATES, max(1, len(values) // SHARE))
    return median(values[:size]), median(values[-size:])
