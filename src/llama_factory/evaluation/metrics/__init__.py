"""How one answer is judged against the expected one; one file each."""

from typing import ClassVar

from llama_factory.core.settings import Registry, Settings, import_parts


class Metric(Settings):
    """A score of one answer. Declares its range and which end is better."""

    lowest: ClassVar[float] = 0.0
    highest: ClassVar[float] = 1.0
    higher_is_better: ClassVar[bool] = True

    def score(self, expected: str, answer: str) -> float:
        """The score of one answer, between `lowest` and `highest`."""
        raise NotImplementedError


METRICS: Registry[Metric] = Registry("metric")
import_parts(__name__, __path__)
