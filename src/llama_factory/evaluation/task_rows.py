"""One row of a task as it is asked, answered, scored and stored. No model and no metric in here."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llama_factory.core import files
from llama_factory.core.types import Example


@dataclass(frozen=True)
class TaskRow:
    """One row of a task.

    Attributes:
        example: the prompt and the expected answer.
        options: the answers to choose from; empty where the answer is free.
    """

    example: Example
    options: tuple[str, ...] = ()

    @property
    def expected(self) -> str:
        """The expected answer."""
        return self.example.answer

    @property
    def place(self) -> str:
        """File and line, for errors."""
        return f"{self.example.file}:{self.example.line}"


@dataclass(frozen=True)
class AnsweredRow:
    """A row with a model's answer: what a metric scores.

    Attributes:
        row: what was asked.
        text: the answer without special tokens.
        num_tokens: generated tokens, the end token included.
        is_cut: whether the length limit came before the end token.
    """

    row: TaskRow
    text: str
    num_tokens: int = 0
    is_cut: bool = False


@dataclass(frozen=True)
class ScoredRow:
    """A row's score by one metric: totals and their resamples are computed from these.

    Attributes:
        expected: the expected answer.
        answer: the model's, or the option with the highest likelihood; empty for perplexity.
        score: NaN where the row has no score; totals leave such rows out.
        weight: how much the row counts, such as its number of tokens.
        options: the answers to choose from, where the metric knows them.
    """

    expected: str
    answer: str
    score: float
    weight: float = 1.0
    options: tuple[str, ...] = ()


def rows_with_scores(rows: Sequence[ScoredRow]) -> list[ScoredRow]:
    """The rows whose score is a number."""
    return [row for row in rows if not math.isnan(row.score)]


@dataclass(frozen=True)
class Prediction:
    """What a model did with one row of one task; one line of `predictions.jsonl`.

    Attributes:
        task: name of the task.
        prompt: the last message of the prompt, or the plain text.
        expected: the right answer; empty for plain text.
        answer: the model's answer; empty for plain text, which asks nothing.
        scores: by metric; NaN where the row has no score.
        nats: negative log-likelihood of the expected answer or plain text.
        tokens: number of tokens that `nats` sums over; 0 where the row does not fit the model.
        num_tokens: tokens of the answer.
        is_cut: whether the answer reached its length limit before it ended.
        measured: results of metrics that need the model: chosen option, score, weight.
        key: content hash of the row.
    """

    task: str
    prompt: str
    expected: str
    answer: str
    scores: Mapping[str, float] = field(default_factory=dict)
    nats: float = 0.0
    tokens: int = 0
    num_tokens: int = 0
    is_cut: bool = False
    measured: Mapping[str, tuple[str, float, float]] = field(default_factory=dict)
    key: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values for one line of JSON; NaN, which JSON lacks, becomes null."""
        scores = {name: _or_none(score) for name, score in self.scores.items()}
        measured = {name: (a, _or_none(s), w) for name, (a, s, w) in self.measured.items()}
        return asdict(self) | {"scores": scores, "measured": measured}

    @staticmethod
    def from_json(row: Mapping[str, Any]) -> "Prediction":
        """The inverse of `to_json`."""
        scores = {name: _or_nan(score) for name, score in row.get("scores", {}).items()}
        stored = row.get("measured", {}).items()
        measured = {name: (a, _or_nan(s), w) for name, (a, s, w) in stored}
        return Prediction(**{**row, "scores": scores, "measured": measured})


def read_predictions(path: Path) -> list[Prediction]:
    """The predictions in a file; none where there is no file."""
    return list(map(Prediction.from_json, files.read_jsonl(path)))


def by_task(predictions: Iterable[Prediction]) -> dict[str, list[Prediction]]:
    """Predictions of each task, in order."""
    groups: dict[str, list[Prediction]] = {}
    for each in predictions:
        groups.setdefault(each.task, []).append(each)
    return groups


def _or_none(score: float) -> float | None:
    return None if math.isnan(score) else score


def _or_nan(score: float | None) -> float:
    return math.nan if score is None else score
