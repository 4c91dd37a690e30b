"""What users said of answers, as people look through it, decide about it and take it elsewhere."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from llama_factory.core import files
from llama_factory.core.errors import ConfigError, DataError, VersionError, suggest
from llama_factory.data.review import folder as review
from llama_factory.data.review.case_book import read_book
from llama_factory.data.review.cases import Case, Choice, short
from llama_factory.data.review.feedback import FeedbackState, JudgedFeedback, judge_feedback
from llama_factory.data.review.feedback import note_feedback as note
from llama_factory.data.sources.feedback import (
    Feedback,
    Kind,
    Rating,
    read_feedback,
    rows_of_kind,
)
from llama_factory.rounds.feedback import taught_in
from llama_factory.versions import releases, store
from llama_factory.versions.workspace import Workspace

_AGO = re.compile(r"(\d{1,5})([dh])")


@dataclass(frozen=True)
class FeedbackFilter:
    """Which feedback is meant; None takes all.

    Attributes:
        rating: up or down.
        version: that gave the answer.
        since: a day such as 2026-11-30, or how long ago: 7d, 12h.
        state: waiting, accepted, rejected or replaced.
    """

    rating: Rating | None = None
    version: str | None = None
    since: str | None = None
    state: FeedbackState | None = None

    def takes(self, each: JudgedFeedback) -> bool:
        """Whether it is meant."""
        feedback = each.feedback
        wanted = (
            (self.rating, feedback.rating),
            (self.version, feedback.version),
            (self.state, each.state),
        )
        if any(chosen not in (None, seen) for chosen, seen in wanted):
            return False
        return self.since is None or feedback.when >= _moment(self.since)


@dataclass(frozen=True)
class FeedbackRow:
    """One feedback in a list.

    Attributes:
        judged: it, and what people decided.
        taught_in: the version of the released lineage that was taught it; empty where none was.
    """

    judged: JudgedFeedback
    taught_in: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        each, case = self.judged, self.judged.case
        right = each.claimed.answer if each.is_correction else ""
        votes = case.votes if case else ()
        return each.feedback.to_json() | {
            "state": each.state,
            "right": right,
            "reviewers": [vote.reviewer for vote in votes],
            "taught_in": self.taught_in,
        }


def list_feedback(workspace: Workspace, chosen: FeedbackFilter) -> list[FeedbackRow]:
    """The feedback of a workspace, oldest first."""
    judged = judge_feedback(workspace.feedback, workspace.review)
    taught = _taught(workspace)
    rows = (FeedbackRow(each, taught.get(each.feedback.id, "")) for each in judged)
    return [row for row in rows if chosen.takes(row.judged)]


def decide_feedback(
    workspace: Workspace,
    ids: Sequence[str],
    reviewer: str,
    *,
    accept: bool,
    answer: str = "",
    why: str = "",
) -> list[Case]:
    """Accept or reject feedback; decisions are those of the review, and may be taken back there.

    Args:
        workspace: whose feedback.
        ids: of the feedback, or the beginnings of them.
        reviewer: who decides.
        accept: whether it is taught.
        answer: the right answer, in place of the caller's correction or of none.
        why: kept with the decision.

    Raises:
        DataError: there is none of this id, or it was decided before.
    """
    book = read_feedback(workspace.feedback)
    note(workspace.review, book)
    # All are looked up first: a wrong name among several decides nothing.
    named = [_find(book.all, name) for name in ids]
    return [_decide(workspace, each, reviewer, accept, answer, why) for each in named]


def export_feedback(
    workspace: Workspace, path: Path, chosen: FeedbackFilter, kinds: Sequence[Kind]
) -> int:
    """Write the rows that feedback becomes; returns how many.

    Raises:
        DataError: the file exists.
    """
    if path.exists():
        raise DataError(f"{path} exists. Give a new file's name.")
    rows = [
        row
        for each in list_feedback(workspace, chosen)
        for kind in kinds
        for row in rows_of_kind(
            each.judged.claimed, kind, is_liked=each.judged.feedback.rating == "up"
        )
    ]
    files.write_jsonl(path, (row.to_json() for row in rows))
    return len(rows)


def _decide(
    workspace: Workspace, each: Feedback, reviewer: str, accept: bool, answer: str, why: str
) -> Case:
    if not accept:
        choice = Choice()
    elif answer:
        choice = Choice(edited=answer)
    else:
        choice = read_book(workspace.review).case(each.id).keep(1)
    return review.decide(workspace.review, each.id, reviewer, choice, why)


def _find(known: Sequence[Feedback], name: str) -> Feedback:
    found = [each for each in known if name and each.id.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"'{name}' begins the ids of {len(found)} feedbacks. Give more of it.")
    hint = suggest(name, [short(each.id) for each in known])
    raise DataError(f"there is no feedback '{name}' among {len(known)}.{hint}")


def _taught(workspace: Workspace) -> dict[str, str]:
    try:
        lineage, _ = store.readable_lineage(store.get(workspace, releases.PRODUCTION, verify=False))
        return taught_in(lineage)
    except VersionError:
        return {}


def _moment(since: str) -> str:
    """A time in UTC as feedback names it, so that texts compare as times do."""
    if ago := _AGO.fullmatch(since):
        span = timedelta(**{{"d": "days", "h": "hours"}[ago[2]]: int(ago[1])})
        return (datetime.now(UTC) - span).isoformat(timespec="seconds")
    try:
        moment = datetime.fromisoformat(since)
    except ValueError:
        raise ConfigError(
            f"--since: '{since}' is no time. Give a day such as 2026-11-30, or 7d, or 12h."
        ) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC).isoformat(timespec="seconds")
