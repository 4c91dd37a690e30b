"""Gradient norms that stick out: a sign of a row or a rate that does harm."""

from collections import deque
from collections.abc import Iterable
from statistics import median

WINDOW = 50
"""Updates whose norms are the measure."""
FEWEST = 8
"""Norms whose median is the usual one."""
EARLY = 10
"""How much higher a spike must be before there are so many: the first norms differ anyway."""


class SpikeWatch:
    """Compares each gradient norm with the median of the last ones.

    Args:
        factor: a spike is above this many medians.
        norms: of earlier updates, when a run goes on.
    """

    def __init__(self, factor: float, norms: Iterable[float] = ()) -> None:
        self._factor = factor
        self._norms = deque(norms, maxlen=WINDOW)

    def see(self, norm: float) -> float | None:
        """Take the next finite norm; returns how many medians it is if it is a spike."""
        usual = median(self._norms) if self._norms else 0.0
        most = self._factor * (1 if len(self._norms) >= FEWEST else EARLY)
        self._norms.append(norm)
        return norm / usual if usual and norm > most * usual else None
