"""What a model did with one row, kept so that people can see what a score means."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llama_factory.core import files


@dataclass(frozen=True)
class Prediction:
    """One row of one task as a model sees it.

    Attributes:
        task: name of the task.
        prompt: what was asked last, or the plain text.
        expected: the right answer; empty for plain text.
        answer: what the model answers; empty for plain text, which asks nothing.
        scores: by metric; NaN where the row cannot be judged.
        nats: negative log-likelihood of the expected answer or plain text.
        tokens: how many tokens that is; 0 where the row does not fit the model.
        num_tokens: tokens of the answer.
        is_cut: whether the answer met its limit before it ended.
        measured: what metrics measured with the model itself: option found, score, weight.
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
        """Plain values for one line of JSON, which knows no NaN: null where a row is not judged."""
        scores = {name: _or_none(score) for name, score in self.scores.items()}
        measured = {name: (a, _or_none(s), w) for name, (a, s, w) in self.measured.items()}
        return asdict(self) | {"scores": scores, "measured": measured}

    @staticmethod
    def from_json(row: Mapping[str, Any]) -> "Prediction":
        """The inverse of `to_json`."""
        scores = {name: _or_nan(score) for name, score in row.get("scores", {}).items()}
        found = row.get("measured", {}).items()
        measured = {name: (a, _or_nan(s), w) for name, (a, s, w) in found}
        return Prediction(**{**row, "scores": scores, "measured": measured})


def _or_none(score: float) -> float | None:
    return None if math.isnan(score) else score


def _or_nan(score: float | None) -> float:
    return math.nan if score is None else score


def read(path: Path) -> list[Prediction]:
    """The predictions that a file keeps; none where there is no file."""
    return list(map(Prediction.from_json, files.read_jsonl(path)))


def by_task(predictions: Iterable[Prediction]) -> dict[str, list[Prediction]]:
    """Predictions of each task, in order."""
    found: dict[str, list[Prediction]] = {}
    for each in predictions:
        found.setdefault(each.task, []).append(each)
    return found
