"""Cases that people decide: what is in dispute, who decided what, and who must look next.

Pure: a case's state follows from its votes. `folder.py` keeps them on disk.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from llama_factory.core.errors import DataError
from llama_factory.core.sentences import kind_of_sentence as kind
from llama_factory.core.types import Example, Message
from llama_factory.data.conflict_rules import claim, digest, question_key
from llama_factory.data.reading import RawRow, Refused, group_of, to_example
from llama_factory.text.similar_questions import comparable_form

NO_ANSWER = kind(
    "problem.case_no_answer",
    "case {case} has no answer to keep: its row was refused. Give the mended row as "
    "JSON, or drop it.",
)
NO_SUCH_ANSWER = kind(
    "problem.case_no_such_answer",
    "case {case} has no answer {number}. Choose from 1 to {most}, several as 1,3, or drop all.",
)
ONE_WRITTEN = kind(
    "problem.case_one_written",
    "case {case}: only one answer written by a reviewer can be kept, {count} are chosen. "
    "Write one that says both.",
)
EMPTY_ANSWER = kind(
    "problem.case_empty_answer",
    "an answer written by hand must not be empty. Write it, or drop all.",
)
TOOLS = kind(
    "problem.case_tools",
    "case {case}: its answers call tools, which text cannot stand for. Keep one of them "
    "or drop all.",
)
STILL_BROKEN = kind(
    "problem.still_broken",
    "{file}:{line}: this is still not valid JSON ({why}, line {row}, column {column}). "
    "Mend it, or drop the row.",
)
STILL_REFUSED = kind("problem.still_refused", "{file}:{line}: the row is still refused: {why}")

Kind = Literal["conflict", "refused", "feedback", "knowledge"]
Level = Literal["rule", "first", "second", "referee", "taken_back"]
State = Literal["open", "resolved", "unresolved", "replaced"]
_LEVELS: tuple[Level, ...] = ("first", "second", "referee")


@dataclass(frozen=True)
class Choice:
    """What somebody wants done with a case; keeping nothing and editing nothing drops its rows.

    Attributes:
        keep: ids of the options to keep.
        edited: an answer (of a conflict) or a row as JSON (of a refused row) to take instead.
        is_unresolved: the right answer cannot be found out; the rows stay out.
    """

    keep: tuple[str, ...] = ()
    edited: str = ""
    is_unresolved: bool = False

    def agrees_with(self, other: "Choice") -> bool:
        """Whether two choices come to the same, up to spacing and punctuation of what is edited."""
        mine, theirs = comparable_form(self.edited), comparable_form(other.edited)
        is_same = set(self.keep) == set(other.keep) and mine == theirs
        return is_same and self.is_unresolved == other.is_unresolved

    def to_json(self) -> dict[str, Any]:
        """Plain values for one line."""
        values: dict[str, Any] = {"keep": list(self.keep)}
        values |= {"edited": self.edited} if self.edited else {}
        return values | ({"unresolved": True} if self.is_unresolved else {})

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "Choice":
        """The inverse of `to_json`."""
        return Choice(
            tuple(values["keep"]), values.get("edited", ""), values.get("unresolved", False)
        )


@dataclass(frozen=True)
class Vote:
    """One decision as it was logged.

    Attributes:
        level: the step of review at which it was made.
        reviewer: who decided; the rule's name for the level `rule`.
        when: in UTC, ISO 8601.
    """

    case: str
    level: Level
    reviewer: str
    choice: Choice
    when: str
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values for one line of decisions.jsonl."""
        return {
            "case": self.case,
            "level": self.level,
            "reviewer": self.reviewer,
            "choice": self.choice.to_json(),
            "when": self.when,
            "note": self.note,
        }

    @staticmethod
    def from_json(line: Mapping[str, Any]) -> "Vote":
        """The inverse of `to_json`.

        Raises:
            KeyError, TypeError, ValueError: something is missing or of another type.
        """
        choice = asdict(Choice.from_json(line["choice"]))
        return _checked(Vote).validate_python({**line, "choice": choice})


@dataclass(frozen=True)
class Option:
    """One of the things that a case can come to.

    Attributes:
        id: hash of the claim; empty for an answer that a reviewer wrote.
        text: the answer, its tag, the tools it calls and the answer it is better than.
        rows: the rows that give this answer.
        by: the reviewer who wrote it.
    """

    id: str
    text: str
    rows: tuple[Example, ...] = ()
    by: str = ""


@dataclass(frozen=True)
class Case:
    """A question that people decide: a conflict, a refused or proposed row, what a user said.

    Attributes:
        id: what is in dispute, as a hash; that of the feedback.
        kind: a conflict among rows, a row that was refused, feedback, or a question that is often
            answered from documents.
        rows: the rows in conflict, in reading order; none for a refused row; of feedback the one
            row that it claims, of documents the row that is proposed.
        is_exact: whether the questions are equal once normalised, and not only nearly.
        proposal: what the automatic rule would do.
        why: the rule's reason, why the row was refused, who said what of the answer, or how often
            it was asked.
        always_second: whether a first reviewer alone is never enough where no rule agrees.
        file: where a refused row came from.
        line: its line in that file.
        text: a refused row as it stood there.
        replaces: earlier cases that are a part of this one.
        replaced_by: the later case that this one is a part of.
        log: everything that was ever decided, oldest first.
    """

    id: str
    kind: Kind
    rows: tuple[Example, ...] = ()
    is_exact: bool = True
    proposal: Choice | None = None
    why: str = ""
    always_second: bool = False
    file: str = ""
    line: int = 0
    text: str = ""
    replaces: tuple[str, ...] = ()
    replaced_by: str = ""
    log: tuple[Vote, ...] = ()

    @cached_property
    def options(self) -> tuple[Option, ...]:
        """What can be kept: the different answers, then those that reviewers wrote.

        Numbers stay the same as answers are added.
        """
        listed: dict[str, list[Example]] = {}
        for row in self.rows:
            listed.setdefault(claim(row), []).append(row)
        found = [Option(key, _option_text(rows[0]), tuple(rows)) for key, rows in listed.items()]
        written: dict[str, str] = {}
        for vote in self.log:
            written.setdefault(vote.choice.edited, vote.reviewer)
        return (*found, *(Option("", text, by=who) for text, who in written.items() if text))

    @property
    def votes(self) -> tuple[Vote, ...]:
        """The decisions that count: those that nobody took back."""
        counted: list[Vote] = []
        for vote in self.log:
            if vote.level == "taken_back":
                del counted[-1:]
            else:
                counted.append(vote)
        return tuple(counted)

    @property
    def level(self) -> Level | None:
        """The step of review that the next decision belongs to; None where none is needed."""
        if self.result is not None:
            return None
        return _LEVELS[min(len(self.votes), 2)]

    @property
    def result(self) -> Choice | None:
        """What the votes come to; None while they come to nothing."""
        votes = self.votes
        if not votes:
            return None
        first = votes[0].choice
        if votes[0].level == "rule":
            return first
        if len(votes) == 1:
            return None if self._needs_second(first) else first
        second = votes[1].choice
        if second.agrees_with(first):
            return second
        decided = [vote.choice for vote in votes[2:] if not vote.choice.is_unresolved]
        return decided[0] if decided else None

    @property
    def state(self) -> State:
        """Where the case stands."""
        if self.result is not None:
            return "resolved"
        if self.replaced_by:
            return "replaced"
        return "unresolved" if len(self.votes) > 2 else "open"

    @property
    def is_by_people(self) -> bool:
        """Whether a person decided last; the rule never decides after people."""
        return bool(self.votes) and self.votes[-1].level != "rule"

    def _needs_second(self, first: Choice) -> bool:
        if self.proposal is None:
            return self.always_second
        return not first.agrees_with(self.proposal)

    def keep(self, *numbers: int) -> Choice:
        """Keep options by number, from 1.

        Raises:
            DataError: a number is out of range, or two answers that reviewers wrote are chosen.
        """
        if not self.options:
            raise DataError(NO_ANSWER(case=short(self.id)))
        for number in numbers:
            if not 1 <= number <= len(self.options):
                raise DataError(
                    NO_SUCH_ANSWER(case=short(self.id), number=number, most=len(self.options))
                )
        chosen = [self.options[number - 1] for number in numbers]
        written = list(dict.fromkeys(option.text for option in chosen if not option.id))
        if len(written) > 1:
            raise DataError(ONE_WRITTEN(case=short(self.id), count=len(written)))
        kept = tuple(dict.fromkeys(option.id for option in chosen if option.id))
        return Choice(kept, written[0] if written else "")

    def accepted(self) -> tuple[Example, ...]:
        """The rows to teach, if the case is resolved: one for each option kept, edits included."""
        if self.result is None:
            return ()
        kept = [option.rows[0] for option in self.options if option.id in self.result.keep]
        edited = self.rewritten(self.result.edited) if self.result.edited else ()
        return (*kept, *edited)

    def rewritten(self, text: str) -> tuple[Example, ...]:
        """The rows that an edit makes: every question of the case with that answer.

        Raises:
            DataError: the text is no answer, or no row.
        """
        if self.kind == "refused":
            return (mended(self, text),)
        if not text.strip():
            raise DataError(EMPTY_ANSWER())
        if self.kind == "feedback":
            return tuple(_better(row, text) for row in self.rows)
        rows = [row for row in self.rows if not row.messages[-1].tool_calls]
        if not rows:
            raise DataError(TOOLS(case=short(self.id)))
        asked: dict[str, Example] = {}
        for row in rows:
            asked.setdefault(question_key(row), row)
        return tuple(_answered(row, text) for row in asked.values())

    def to_json(self) -> dict[str, Any]:
        """Plain values for one line of cases.jsonl; what is not set is left out."""
        proposal = self.proposal.to_json() if self.proposal else None
        line: dict[str, Any] = {"id": self.id, "kind": self.kind}
        line |= {"rows": [row.to_json() for row in self.rows], "is_exact": self.is_exact}
        line |= {"proposal": proposal, "why": self.why, "always_second": self.always_second}
        line |= {"file": self.file, "line": self.line, "text": self.text}
        return line | {"replaces": list(self.replaces)}

    @staticmethod
    def from_json(line: Mapping[str, Any]) -> "Case":
        """The inverse of `to_json`, without the log.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: something is missing or of another
                type.
        """
        values = {name: line[name] for name in _SAVED}
        values["rows"] = [asdict(Example.from_json(row)) for row in line["rows"]]
        values["proposal"] = (
            asdict(Choice.from_json(line["proposal"])) if line["proposal"] else None
        )
        case = _checked(Case).validate_python(values)
        if not all(row.messages for row in case.rows) or (case.kind != "refused") > len(case.rows):
            raise ValueError("a conflict needs rows, and a row turns")
        return case


_SAVED = (
    *("id", "kind", "rows", "is_exact", "proposal", "why"),
    *("always_second", "file", "line", "text", "replaces"),
)


@cache
def _checked(record: type[Any]) -> TypeAdapter[Any]:
    """Builds a record from plain values; one of another type, written by hand, is an error."""
    return TypeAdapter(record)


def short(case_id: str) -> str:
    """The beginning of an id: enough to name a case."""
    return case_id[:8]


def refused_id(file: str, text: str) -> str:
    """The id of the case of a refused row: the same row in the same group is one case."""
    return digest([_group(file), text])


def mended(case: Case, text: str) -> Example:
    """The row that a person made of a refused one.

    Raises:
        DataError: it is still no row; the message says why.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            STILL_BROKEN(
                file=case.file, line=case.line, why=error.msg, row=error.lineno, column=error.colno
            )
        ) from None
    row = to_example(RawRow(case.line, value), group=_group(case.file), file=case.file, layout=None)
    if isinstance(row, Refused):
        raise DataError(STILL_REFUSED(file=case.file, line=case.line, why=row.reason))
    return row


def _group(file: str) -> str:
    return group_of(Path(file))


def _option_text(row: Example) -> str:
    calls = [f"{call.name}({call.arguments})" for call in row.messages[-1].tool_calls]
    worse = [f"better than: {row.rejected.content}"] if row.rejected else []
    tag = {None: [], True: ["(liked)"], False: ["(disliked)"]}[row.is_desirable]
    return "\n".join([each for each in (row.answer, *calls, *worse, *tag) if each])


def _answered(row: Example, text: str) -> Example:
    last: Message = replace(row.messages[-1], content=text)
    return replace(row, messages=(*row.messages[:-1], last))


def _better(row: Example, text: str) -> Example:
    """The preference pair of an answer that a reviewer wrote over the one that was given."""
    given = row.rejected or row.messages[-1]
    turns = (*row.prompt, Message(given.role, text))
    return replace(row, messages=turns, rejected=given, is_desirable=None)
