"""Regular expression: 1 where a pattern is found in the answer."""

import re
from collections.abc import Sequence
from typing import Self

from pydantic import model_validator

from llama_factory.core.sentences import kind_of_sentence
from llama_factory.evaluation.metrics import METRICS, Metric
from llama_factory.evaluation.task_rows import TaskRow

NO_PATTERN = kind_of_sentence(
    "settings.no_pattern", "'{pattern}' is not a regular expression: {error}."
)


@METRICS.register("regex")
class Regex(Metric):
    """Share of answers that a pattern is found in."""

    pattern: str = ""
    """Python regular expression. With a group, what the group holds must be the expected answer.
    Empty: the expected answer of each row is itself the pattern."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(NO_PATTERN(pattern=self.pattern, error=error)) from error
        return self

    @property
    def label(self) -> str:
        """See `Metric.label`."""
        return f"regex:{self.pattern}" if self.pattern else "regex"

    def score(self, expected: str, answer: str) -> float:
        """See `Metric.score`."""
        match = re.search(self.pattern or expected, answer)
        if match is None or not (self.pattern and match.groups()):
            return float(match is not None)
        return float((match.group(1) or "").strip() == expected.strip())

    def unfit(self, rows: Sequence[TaskRow]) -> str:
        """See `Metric.unfit`."""
        wrong = () if self.pattern else (_problem(row) for row in rows)
        return super().unfit(rows) or next(filter(None, wrong), "")


def _problem(row: TaskRow) -> str:
    try:
        re.compile(row.expected)
    except re.error as error:
        return (
            f"{row.place} expects '{row.expected}', which is not a regular expression: {error}. "
            "Mend the row, or give the metric a `pattern`."
        )
    return ""
