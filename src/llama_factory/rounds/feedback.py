"""Feedback in a round: which rows it becomes, and what the version keeps about those it taught."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llama_factory.core import files
from llama_factory.core.progress import Progress
from llama_factory.core.types import Example, Message
from llama_factory.data.prepare import PreparedData
from llama_factory.data.review.feedback import JudgedFeedback, note_feedback, taken_feedback
from llama_factory.data.row_columns import hash_of
from llama_factory.data.seen import Seen
from llama_factory.data.sources.feedback import GROUP, KINDS, read_feedback, rows_of_kind
from llama_factory.data.sources.files import DataSource, source_of
from llama_factory.evaluation.complaints import Complaint
from llama_factory.rounds.settings import LearningConfig
from llama_factory.training.objectives import Objective
from llama_factory.versions.version import ModelVersion
from llama_factory.versions.workspace import Workspace

CORRECTIONS, THUMBS = "corrections.jsonl", "thumbs.jsonl"
"""Rows of feedback as a round takes them, in a folder of the cache."""
TAUGHT = "data/feedback.jsonl"
"""In a version: the feedback that its round taught."""


@dataclass(frozen=True)
class TaughtFeedback:
    """One feedback that a round taught: who, when, about which version's answer.

    Attributes:
        id: of the feedback, as `llama-factory feedback` shows it.
        question: the turns before the answer; none where rows may not be kept.
        given: the answer that the caller spoke of.
        right: what the answer should have been; empty for thumbs alone.
        reviewers: who accepted it.
    """

    id: str
    completion_id: str
    when: str
    version: str
    key: str
    user: str
    rating: str
    reviewers: tuple[str, ...]
    question: tuple[Message, ...] = ()
    tools: str = ""
    given: str = ""
    right: str = ""

    @property
    def row(self) -> Example:
        """The question with the right answer."""
        turns = (*self.question, Message("assistant", self.right))
        return Example(turns, "feedback", self.id, 0, tools=self.tools)

    def to_json(self) -> dict[str, Any]:
        """Plain values for one line."""
        return asdict(self) | {"question": [turn.to_json() for turn in self.question]}

    @staticmethod
    def from_json(line: dict[str, Any]) -> "TaughtFeedback":
        """The inverse of `to_json`."""
        turns = tuple(map(Message.from_json, line["question"]))
        return TaughtFeedback(
            **{**line, "question": turns, "reviewers": tuple(line["reviewers"])},
        )


@dataclass(frozen=True)
class RoundFeedback:
    """The feedback that a round may take.

    Attributes:
        taken: what people let it take.
        objective: what the round trains.
        seen: what the lineage was taught.
    """

    taken: Sequence[JudgedFeedback]
    objective: Objective
    seen: Seen

    def sources(self, folder: Path) -> list[DataSource]:
        """The rows of it that were not taught yet, written into a folder of the cache.

        A correction is never held out: whoever complained expects it to be taught.
        """
        known = [each.taught.column("key") for each in self.seen]
        sources = []
        for name, is_correction in ((CORRECTIONS, True), (THUMBS, False)):
            mine = (each for each in self.taken if each.is_correction == is_correction)
            rows = [row for each in mine for row in self.rows(each)]
            new = [row for row in rows if not any(hash_of(row.key) in keys for keys in known)]
            if new:
                files.write_jsonl(folder / name, (row.to_json() for row in new))
                sources.append(replace(source_of(folder / name), is_taught=is_correction))
        return sources

    def rows(self, each: JudgedFeedback) -> Iterator[Example]:
        """The rows of one feedback that the round's objective can use."""
        kinds = KINDS if self.objective.is_choosy else KINDS[:1]
        is_liked = each.feedback.rating == "up"
        for kind in kinds:
            for row in rows_of_kind(each.claimed, kind, is_liked=is_liked):
                if not self.objective.misfit(row):
                    yield row

    def taught_by(self, data: PreparedData) -> list[TaughtFeedback]:
        """What of it is among the rows of a round, also where somebody else said the same."""
        if not any(each.file in (CORRECTIONS, THUMBS) for each in data.report.sets):
            return []
        places = {(row.file, row.line) for row in data.train if row.group == GROUP}
        pairs = [(each, list(self.rows(each))) for each in self.taken]
        keys = {row.key for _, rows in pairs for row in rows if (row.file, row.line) in places}
        return [_taught(each) for each, rows in pairs if any(row.key in keys for row in rows)]


def open_feedback(
    workspace: Workspace, config: LearningConfig, seen: Seen, progress: Progress
) -> RoundFeedback:
    """What a round may take of the workspace's feedback; new feedback becomes cases for people."""
    book = read_feedback(workspace.feedback)
    for place in book.damaged:
        progress.say(f"Feedback: {place}")
    if config.data.feedback == "reviewed":
        note_feedback(workspace.review, book)
    taken = taken_feedback(workspace.feedback, workspace.review, config.data.feedback)
    return RoundFeedback(taken, config.training.objective, seen)


def write_taught(folder: Path, taught: Iterable[TaughtFeedback]) -> None:
    """Write what a round taught into its folder."""
    lines = [each.to_json() for each in taught]
    if lines:
        files.write_jsonl(folder / TAUGHT, lines)


def forget_texts(folder: Path) -> None:
    """Keep of the taught feedback only who gave it and when."""
    path = folder / TAUGHT
    if path.exists():
        lines = map(TaughtFeedback.from_json, list(files.read_jsonl(path)))
        silent = (replace(each, question=(), tools="", given="", right="") for each in lines)
        files.write_jsonl(path, [each.to_json() for each in silent])


def read_taught(folder: Path) -> list[TaughtFeedback]:
    """What the round of a version taught; nothing where it taught no feedback."""
    return list(map(TaughtFeedback.from_json, files.read_jsonl(folder / TAUGHT)))


def complaints_in(folders: Mapping[str, Path]) -> tuple[Complaint, ...]:
    """The complaints that versions were taught, those of a question that came last alone.

    Args:
        folders: of versions by id, oldest first.
    """
    by_question: dict[str, Complaint] = {}
    for version, folder in folders.items():
        for each in read_taught(folder):
            if each.right:
                row = each.row
                by_question.pop(row.prompt_key, None)
                by_question[row.prompt_key] = Complaint(each.id, version, row, each.given)
    return tuple(by_question.values())


def taught_in(lineage: Iterable[ModelVersion]) -> dict[str, str]:
    """Ids of the feedback that a lineage was taught, each with the version that was taught it."""
    return {each.id: version.id for version in lineage for each in read_taught(version.folder)}


def _taught(each: JudgedFeedback) -> TaughtFeedback:
    source, votes = each.feedback, each.case.votes if each.case else ()
    return TaughtFeedback(
        id=source.id,
        completion_id=source.completion_id,
        when=source.when,
        version=source.version,
        key=source.key,
        user=source.user,
        rating=source.rating,
        reviewers=tuple(vote.reviewer for vote in votes),
        question=each.claimed.prompt,
        tools=each.claimed.tools,
        given=source.row.answer,
        right=each.claimed.answer if each.is_correction else "",
    )
