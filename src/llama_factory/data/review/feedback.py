"""Feedback of users among the cases that people decide, and what was accepted of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llama_factory.core.types import Example
from llama_factory.data.review.case_book import CaseBook, read_book
from llama_factory.data.review.cases import Case
from llama_factory.data.review.folder import add_new
from llama_factory.data.sources.feedback import Feedback, FeedbackBook, read_feedback

FeedbackState = Literal["waiting", "accepted", "rejected", "replaced"]
TAKEN = {"reviewed": ("accepted",), "all": ("accepted", "waiting"), "none": ()}
"""What rounds take of feedback, by the setting `data.feedback`."""


@dataclass(frozen=True)
class JudgedFeedback:
    """Feedback as it stands.

    Attributes:
        feedback: as it came.
        state: whether a person accepted it.
        claimed: what it comes to: a preference pair, or an answer that is liked or not. A reviewer
            may have written another answer than the caller.
        case: of the review; None where nobody was asked yet.
    """

    feedback: Feedback
    state: FeedbackState
    claimed: Example
    case: Case | None = None

    @property
    def is_correction(self) -> bool:
        """Whether it says what the answer should have been."""
        return self.claimed.rejected is not None


def note_feedback(review: Path, feedback: FeedbackBook) -> list[Case]:
    """Make each feedback a case that waits for a person; returns those that are new."""
    known = read_book(review).cases
    new = [each for each in feedback.current if each.id not in known]
    return add_new(review, [_case(each, known) for each in new])


def judge_feedback(folder: Path, review: Path) -> list[JudgedFeedback]:
    """All feedback of a folder with what people decided about it, oldest first."""
    feedback, book = read_feedback(folder), read_book(review)
    current = {each.id for each in feedback.current}
    return [_judged(each, book, is_current=each.id in current) for each in feedback.all]


def taken_feedback(folder: Path, review: Path, taken: str) -> list[JudgedFeedback]:
    """The feedback that a round may take, as the setting `data.feedback` says."""
    states: Sequence[str] = TAKEN[taken]
    return [each for each in judge_feedback(folder, review) if each.state in states]


def _judged(each: Feedback, book: CaseBook, *, is_current: bool) -> JudgedFeedback:
    case = book.cases.get(each.id)
    if not is_current:
        return JudgedFeedback(each, "replaced", each.claimed, case)
    if case is None or case.result is None:
        return JudgedFeedback(each, "waiting", each.claimed, case)
    accepted = case.accepted()
    if not accepted:
        return JudgedFeedback(each, "rejected", each.claimed, case)
    return JudgedFeedback(each, "accepted", accepted[-1], case)


def _case(each: Feedback, known: dict[str, Case]) -> Case:
    replaces = (each.replaces,) if each.replaces in known else ()
    return Case(each.id, "feedback", (each.claimed,), why=_why(each), replaces=replaces)


def _why(each: Feedback) -> str:
    """`thumbs down for v0002 by key ann, 2026-11-30: wrong price, "It is 5 euros."`."""
    who = f"key {each.key}" if each.key else "a caller without a key"
    user = f", user {each.user}" if each.user else ""
    what = ", ".join([*each.tags, *([f'"{each.comment}"'] if each.comment else [])])
    head = f"thumbs {each.rating} for {each.version} by {who}{user}, {each.when}"
    return f"{head}: {what}" if what else head
