"""Complaints of users: whether a version answers rightly now what was answered wrongly before.

The corrections were taught, so this shows that they were learned and nothing about other questions;
what the gate asks are held-out rows (`rounds/gate.py`).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from llama_factory.core.types import Example, Task
from llama_factory.evaluation.metrics.exact_match import normalised
from llama_factory.evaluation.task_rows import Prediction

GROUP = "complaints"
RIGHT_FROM = 0.8
"""Score of the gate's metric, a fraction, from which an answer counts as the right one."""

How = Literal["", "word for word", "contains it", "score"]


@dataclass(frozen=True)
class Complaint:
    """A question that was answered wrongly, with the right answer.

    Attributes:
        id: of the feedback.
        taught_in: the version whose round taught the right answer.
        row: the question with the right answer.
        given: the wrong answer.
    """

    id: str
    taught_in: str
    row: Example
    given: str


@dataclass(frozen=True)
class AnsweredComplaint:
    """A complaint with the answers of two versions.

    Attributes:
        id: of the feedback.
        taught_in: the version whose round taught the right answer.
        question: its last turn.
        given: the answer that somebody complained of.
        right: the right answer.
        before: what the parent answers.
        after: what the new version answers.
        was_right: by what the parent's answer is right; empty where it is wrong.
        is_right: by what the new one is.
        nats_before: of the right answer, a token, under the parent; None where it does not fit.
        nats_after: likewise under the new version.
    """

    id: str
    taught_in: str
    question: str
    given: str
    right: str
    before: str
    after: str
    was_right: How
    is_right: How
    nats_before: float | None
    nats_after: float | None


@dataclass(frozen=True)
class ComplaintReport:
    """All complaints of a lineage, answered by a version and its parent."""

    answered: tuple[AnsweredComplaint, ...]

    @property
    def num_right(self) -> int:
        """How many the new version answers rightly."""
        return sum(bool(each.is_right) for each in self.answered)

    @property
    def num_right_before(self) -> int:
        """How many its parent does."""
        return sum(bool(each.was_right) for each in self.answered)

    @property
    def sentence(self) -> str:
        """`8 of 8 complaints are answered rightly now (0 before)`; empty where there are none."""
        if not self.answered:
            return ""
        verb = "complaint is" if len(self.answered) == 1 else "complaints are"
        now = f"{self.num_right} of {len(self.answered)} {verb} answered rightly now"
        return f"{now} ({self.num_right_before} before)"

    def to_json(self, *, keep_rows: bool = True) -> dict[str, Any]:
        """Plain values for report.json, without any text if no row may be kept."""
        rows = [asdict(each) for each in self.answered] if keep_rows else []
        counts = {"num_right": self.num_right, "num_right_before": self.num_right_before}
        return {"sentence": self.sentence, "num": len(self.answered), **counts, "rows": rows}


def tasks_of(complaints: Iterable[Complaint]) -> list[Task]:
    """Complaints as tasks to be answered, one for each version that was taught some."""
    by_version: dict[str, dict[str, Example]] = {}
    for each in complaints:
        by_version.setdefault(each.taught_in, {})[each.row.key] = each.row
    return [Task(version, GROUP, tuple(rows.values())) for version, rows in by_version.items()]


def report_complaints(
    complaints: Sequence[Complaint],
    before: Iterable[Prediction],
    after: Iterable[Prediction],
    metric: str,
) -> ComplaintReport:
    """Compare the answers of two versions with what people said is right.

    Args:
        complaints: of which some may not have been asked (`evaluation.max_rows`): these are left
            out.
        before: of the parent.
        after: of the new version.
        metric: the gate's, a fraction from 0 to 1.
    """
    old, new = ({each.key: each for each in answers} for answers in (before, after))
    asked = [each for each in complaints if each.row.key in old and each.row.key in new]
    return ComplaintReport(tuple(_answered(each, old, new, metric) for each in asked))


def how_right(answer: Prediction, given: str, metric: str) -> How:
    """By what an answer is right: it is the right one up to case and spaces, contains it, or scores
    high. The very answer that was complained of never is.
    """
    wanted, found = normalised(answer.expected), normalised(answer.answer)
    if found == wanted:
        return "word for word"
    if not found or found == normalised(given):
        return ""
    if wanted and _contains(found, wanted):
        return "contains it"
    score = answer.scores.get(metric, math.nan)
    return "score" if RIGHT_FROM <= score <= 1 else ""


def _answered(
    each: Complaint, old: Mapping[str, Prediction], new: Mapping[str, Prediction], metric: str
) -> AnsweredComplaint:
    before, after = old[each.row.key], new[each.row.key]
    return AnsweredComplaint(
        each.id,
        each.taught_in,
        after.prompt,
        each.given,
        after.expected,
        before.answer,
        after.answer,
        how_right(before, each.given, metric),
        how_right(after, each.given, metric),
        _nats(before),
        _nats(after),
    )


def _nats(answer: Prediction) -> float | None:
    return answer.nats / answer.tokens if answer.tokens else None


def _contains(text: str, part: str) -> bool:
    """Whether a text contains another as whole words; `24 months` does not contain `4 months`."""
    start = text.find(part)
    while start >= 0:
        end = start + len(part)
        ends = (text[start - 1 : start] + part[:1], part[-1:] + text[end : end + 1])
        if not any(len(pair) == 2 and _is_one_word(pair) for pair in ends):
            return True
        start = text.find(part, start + 1)
    return False


def _is_one_word(pair: str) -> bool:
    """Whether two characters stand in one word; those of Chinese are words by themselves."""
    return all(each.isalnum() and (each.isascii() or each.isdigit()) for each in pair)
