"""Metrics: how answers become scores; one registered metric a file."""

import math
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from llama_factory.core.errors import ConfigError, DataError
from llama_factory.core.settings import Registry, Settings, import_parts
from llama_factory.evaluation.task_rows import AnsweredRow, ScoredRow, TaskRow, rows_with_scores

if TYPE_CHECKING:
    from llama_factory.model.adapted import AdaptedModel

Need = Literal["answer", "options"]


class Metric(Settings):
    """A score of a task. Declares its range, which end is better, and what rows it needs.

    `score` is all that most metrics write. Those that look at more than two texts write
    `score_rows` instead, and those that are no mean over rows write `total`.
    """

    lowest: ClassVar[float] = 0.0
    highest: ClassVar[float] = 1.0
    higher_is_better: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({"answer"})
    """What the rows must have: an expected answer, options."""

    @property
    def label(self) -> str:
        """The name of its scores: the metric's, then `:` and settings that change them."""
        return METRICS.name_of(self)

    def check(self) -> None:
        """Refuse, before hours of answering, what would stop this metric afterwards.

        Raises:
            ConfigError: a library, a file or a setting is missing.
        """

    def score(self, expected: str, answer: str) -> float:
        """The score of one answer, between `lowest` and `highest`.

        Raises:
            ConfigError: this metric needs more than two texts, or cannot be used here.
        """
        raise ConfigError(
            f"evaluation.metrics: '{self.label}' needs more than an expected answer and an "
            "answer, so it cannot be used here. Name it in a task of a suite."
        )

    def score_rows(self, rows: Sequence[AnsweredRow]) -> list[ScoredRow]:
        """The score of every row, in their order; the total of any of them is `total`."""
        return [
            ScoredRow(row.row.expected, row.text, self.score(row.row.expected, row.text))
            for row in rows
        ]

    def total(self, rows: Sequence[ScoredRow]) -> float:
        """The score of all rows together: the mean, or NaN where no row has a score."""
        scores = [row.score for row in rows_with_scores(rows)]
        return sum(scores) / len(scores) if scores else math.nan

    def unfit(self, rows: Sequence[TaskRow]) -> str:
        """Why this metric cannot score these rows; empty where it can."""
        return next((reason for row in rows if (reason := self._unfit_row(row))), "")

    def _unfit_row(self, row: TaskRow) -> str:
        if "answer" in self.needs and row.example.is_text:
            return f"{row.place} is plain text, which has no expected answer (perplexity fits it)."
        if "options" in self.needs and not row.options:
            return f"{row.place} has no options to choose from."
        return ""


class ModelMetric(Metric):
    """A score of the model's likelihoods. No answer is generated for it."""

    def measure(
        self, model: "AdaptedModel", rows: Sequence[TaskRow], *, batch_tokens: int
    ) -> list[ScoredRow]:
        """The score of every row, in their order.

        Args:
            model: in eval mode.
            rows: of one task.
            batch_tokens: most tokens that go through the model at once.
        """
        raise NotImplementedError


def require_fits(metric: Metric, rows: Sequence[TaskRow], task: str) -> None:
    """Refuse a metric that cannot score a task's rows, before any of them is answered.

    Raises:
        DataError: with the reason and the row.
        ConfigError: the metric cannot be used on this machine or lacks a setting.
    """
    metric.check()
    if reason := metric.unfit(rows):
        raise DataError(f"task '{task}': metric '{metric.label}' does not fit: {reason}")


def require_package(package: str, *, metric: str) -> None:
    """Refuse a metric whose library is missing.

    Raises:
        ConfigError: the package is not installed.
    """
    if find_spec(package) is None:
        name = package.replace("_", "-")
        raise ConfigError(
            f"evaluation.metrics: '{metric}' needs the package {name}, which is not installed. "
            f"Install it with `pip install {name}`, or leave this metric out."
        )


class _Metrics(Registry[Metric]):
    """The metrics; `custom: file.py` is short for `{type: custom, path: file.py}`."""

    def parse(self, value: Any) -> Metric:
        if isinstance(value, str) and value.startswith("custom:"):
            value = {"type": "custom", "path": value.removeprefix("custom:").strip()}
        elif isinstance(value, dict) and list(value) == ["custom"]:
            value = {"type": "custom", "path": value["custom"]}
        return super().parse(value)


METRICS: Registry[Metric] = _Metrics("metric")
import_parts(__name__, __path__)
