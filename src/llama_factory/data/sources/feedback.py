"""What users said of answers, as the server keeps it by day, and the rows that it becomes.

Each line holds the whole conversation, so that it outlives the server's memory of it. Lines are
only added: later feedback of the same caller names the earlier one that it replaces.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from llama_factory.core.types import Example, Message

GROUP = "feedback"
"""Group of the rows that feedback becomes."""
PATTERN = "feedback-*.jsonl"
"""Names of the files, one a day."""

Rating = Literal["up", "down"]
Kind = Literal["answer", "pair", "judged"]
KINDS: tuple[Kind, ...] = ("answer", "pair", "judged")
"""The rows that feedback may become: the right answer, its preference over the one given, and
single answers that are liked or not."""


@dataclass(frozen=True)
class Feedback:
    """What one caller said of one answer.

    Attributes:
        id: of this feedback; its case in the review has the same one.
        completion_id: of the answer.
        rating: whether the answer was liked.
        when: in UTC, ISO 8601.
        version: that gave the answer.
        row: the conversation, which ends with that answer; private data is masked.
        key: id of the API key that it came with; empty where none is needed.
        user: hash of the user that the request named; empty where it named none.
        correction: what the answer should have been.
        tags: the caller's own words for what is wrong.
        comment: the same at length, for people.
        replaces: id of the feedback of the same caller on the same answer that no longer counts.
        index: which of the request's answers it is about.
        file: where it lies, as the rows name it.
        line: in that file.
    """

    id: str
    completion_id: str
    rating: Rating
    when: str
    version: str
    row: Example
    key: str = ""
    user: str = ""
    correction: str = ""
    tags: tuple[str, ...] = ()
    comment: str = ""
    replaces: str = ""
    index: int = 0
    file: str = ""
    line: int = 0

    @property
    def caller(self) -> tuple[str, str]:
        """Who it is: key and user."""
        return self.key, self.user

    @property
    def claimed(self) -> Example:
        """What it claims, as one row: a better answer than the one given, or how good that was."""
        placed = replace(self.row, group=GROUP, file=self.file, line=self.line)
        if self.correction.strip():
            return _corrected(placed, self.correction)
        return replace(placed, is_desirable=self.rating == "up")

    def to_json(self) -> dict[str, Any]:
        """Plain values for one line; its place is left out."""
        values = asdict(replace(self, row=_NO_ROW)) | {"row": self.row.to_json()}
        return {name: value for name, value in values.items() if name not in ("file", "line")}

    @staticmethod
    def from_json(line: Mapping[str, Any], file: str = "", number: int = 0) -> "Feedback":
        """The inverse of `to_json`; what else the line holds is the server's.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: something is missing or of another
                type.
        """
        values = {name: line[name] for name in _SAVED if name in line}
        if values["rating"] not in ("up", "down"):
            raise ValueError("the rating is neither up nor down")
        row, tags = Example.from_json(line["row"]), tuple(map(str, values.get("tags", ())))
        if len(row.messages) < 2:
            raise ValueError("a conversation has a question and an answer")
        return Feedback(**{**values, "row": row, "tags": tags, "file": file, "line": number})


_NO_ROW = Example((), "", "", 0)
_SAVED = tuple(name for name in Feedback.__dataclass_fields__ if name not in ("file", "line"))


def _corrected(row: Example, text: str) -> Example:
    """The preference pair of a better answer over the one given."""
    given = row.messages[-1]
    turns = (*row.prompt, Message(given.role, text))
    return replace(row, messages=turns, rejected=given, is_desirable=None)


@dataclass(frozen=True)
class FeedbackBook:
    """All feedback of a folder, in the order in which it came.

    Attributes:
        all: every one.
        damaged: places of lines that cannot be read and are left out.
    """

    all: tuple[Feedback, ...]
    damaged: tuple[str, ...] = ()

    @property
    def current(self) -> tuple[Feedback, ...]:
        """Those that no later one replaces."""
        gone = {each.replaces for each in self.all}
        return tuple(each for each in self.all if each.id not in gone)


def read_feedback(folder: Path) -> FeedbackBook:
    """Read all feedback of a folder; a missing one holds none."""
    listed: list[Feedback] = []
    damaged: list[str] = []
    for path in sorted(folder.glob(PATTERN)):
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            try:
                listed.append(_parsed(line, path, number))
            except (AttributeError, KeyError, TypeError, ValueError):
                damaged.append(f"{path.name}:{number}: this line cannot be read and is left out.")
    return FeedbackBook(tuple(listed), tuple(damaged))


def _parsed(line: bytes, path: Path, number: int) -> Feedback:
    day = path.name.removeprefix("feedback-")
    return Feedback.from_json(json.loads(line), f"{GROUP}/{day}", number)


def rows_of_kind(claimed: Example, kind: Kind, *, is_liked: bool = False) -> Iterator[Example]:
    """The rows of one kind that accepted feedback becomes.

    Args:
        claimed: what was accepted: a preference pair, or an answer that is liked or not.
        kind: `answer` to teach the better answer, `pair` to prefer it, `judged` for single answers
            that are liked or not.
        is_liked: whether the answer that the pair is better than was liked all the same.
    """
    given = claimed.rejected
    if given is None:
        if kind == "judged" and claimed.is_desirable is not None:
            yield claimed
        return
    better = replace(claimed, rejected=None)
    if kind == "pair":
        yield claimed
    elif kind == "answer":
        yield better
    else:
        yield replace(better, is_desirable=True)
        if not is_liked:
            yield replace(better, messages=(*claimed.prompt, given), is_desirable=False)
