"""Rows that ask the same and answer differently, and the rules that settle such conflicts alone.

What no rule settles goes to people: see `review/`.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from llama_factory.core.sentences import kind_of_sentence
from llama_factory.core.settings import Settings
from llama_factory.core.types import Example, Message, ToolCall
from llama_factory.text.similar_questions import MAX_EDITS, comparable_form, num_edits

Rule = Literal["majority", "newest", "trusted_source", "none"]


TRUSTS_NOBODY = kind_of_sentence(
    "settings.trusts_nobody",
    "rule 'trusted_source' needs names in 'trusted'. Add the files or groups to trust, as in "
    "trusted: [handbook.jsonl].",
)


class ConflictSettings(Settings):
    """What happens to rows that ask the same and answer differently."""

    rule: Rule = "majority"
    """`majority`: the answer of more than half of the rows. `newest`: that of the last file, and in
    it of the last line. `trusted_source`: that of the files or groups in `trusted`. `none`: people
    decide everything. Questions that are only nearly the same always go to people."""
    trusted: tuple[str, ...] = ()
    """Names of files or groups for `rule: trusted_source`; the first one that has a row decides."""
    review: Literal["undecided", "all"] = "undecided"
    """Which conflicts people see. `undecided`: those the rule cannot settle. `all`: every one; the
    rule then only proposes."""
    always_second: bool = False
    """Whether every decision needs two who agree; the rule's proposal counts as one of them. Off,
    a first reviewer decides alone unless a proposal says otherwise."""
    long_answers: Literal["allow", "review"] = "allow"
    """Two long answers to one question are ordinary in instruction data. `review` takes them for
    conflicts all the same."""
    label_characters: int = Field(60, ge=1)
    """Longest answer that is a label or a fact and has to be the same everywhere. Higher finds more
    conflicts."""

    @model_validator(mode="after")
    def _trust_somebody(self) -> Self:
        if self.rule == "trusted_source" and not self.trusted:
            raise ValueError(TRUSTS_NOBODY())
        return self


@dataclass(frozen=True)
class Conflict:
    """Rows that ask the same, or nearly, and teach different answers.

    Attributes:
        rows: in the order they were read.
        is_exact: whether the questions are equal once normalised, and not only nearly.
    """

    rows: tuple[Example, ...]
    is_exact: bool

    @cached_property
    def claims(self) -> frozenset[str]:
        """The different things that the rows teach, as hashes of question and answer."""
        return frozenset(map(claim, self.rows))

    @property
    def id(self) -> str:
        """Hash of what is in dispute; the rows' order, number and files do not change it."""
        return digest(sorted(self.claims))


@dataclass(frozen=True)
class Decision:
    """What a rule makes of a conflict: keys of the rows kept and dropped, and why."""

    kept: tuple[str, ...]
    dropped: tuple[str, ...]
    why: str


def same_question(one: Example, other: Example) -> bool:
    """Whether two rows ask the same: equal once normalised, or nearly so.

    Plain text asks nothing. Instructions to the system, tools, pictures and kind of row must be
    equal: with others, another answer may be right.
    """
    if _setting(one) != _setting(other):
        return False
    edits = 0
    for mine, theirs in zip(one.prompt, other.prompt, strict=True):
        found = num_edits(mine.content, theirs.content)
        if found is None or (found and mine.role == "system"):
            return False
        edits += found
    return edits <= MAX_EDITS


def conflict_among(rows: Sequence[Example], settings: ConflictSettings) -> Conflict | None:
    """The conflict among rows that ask the same, if any; rows that contradict none are left out.

    Tagged rows (KTO) contradict when one likes the answer that the other dislikes, preference
    pairs when one prefers what the other rejects: both have many answers to a question by design.

    Args:
        rows: rows of which each asks the same as at least one other, in reading order.
        settings: says whether long answers may differ.
    """
    if settings.long_answers == "allow":
        rows = [row for row in rows if len(row.answer) <= settings.label_characters]
    views = [(row, _view(row)) for row in rows]
    held = {digest(view) for _, view in views}
    found = tuple(row for row, view in views if _is_contradicted(row, view, held))
    return Conflict(found, len(set(map(question_key, found))) == 1) if found else None


def decide(conflict: Conflict, settings: ConflictSettings) -> Decision | None:
    """What the rule of the settings makes of a conflict; None where a person must look."""
    rule = RULES[settings.rule]
    chosen = rule(conflict.rows, settings) if conflict.is_exact else None
    if chosen is None:
        return None
    kept_claim, why = chosen
    kept = [row.key for row in conflict.rows if claim(row) == kept_claim]
    dropped = [row.key for row in conflict.rows if claim(row) != kept_claim]
    return Decision(tuple(dict.fromkeys(kept)), tuple(dict.fromkeys(dropped)), why)


def question_key(row: Example) -> str:
    """Hash of what a row asks, once normalised."""
    return digest([_setting(row), [comparable_form(turn.content) for turn in row.prompt]])


def claim(row: Example) -> str:
    """Hash of what a row teaches: its question, its answer, and the judgement of the answer."""
    return digest([question_key(row), *_view(row)])


def digest(value: Any) -> str:
    """128-bit hash of a JSON value, as 32 hex digits."""
    text = json.dumps(value, ensure_ascii=False)
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def _setting(row: Example) -> list[Any]:
    """All of a question but its words. Plain text equals nothing, so that it asks nothing."""
    turns = [[turn.role, *map(_call, turn.tool_calls)] for turn in row.prompt]
    kind = [row.is_text and row.key, row.rejected is None, row.is_desirable is None]
    return [turns, row.tools, list(row.images), *kind]


def _is_contradicted(row: Example, view: list[Any], held: set[str]) -> bool:
    """Whether another of the views held is the contrary of this one."""
    answer, rejected, is_desirable = view
    if row.is_desirable is not None:
        return digest([answer, rejected, not is_desirable]) in held
    if row.rejected:
        return digest([rejected, answer, is_desirable]) in held
    return len(held) > 1


def _view(row: Example) -> list[Any]:
    """What a row claims: the answer, the answer it is better than, and its tag."""
    rejected = _turn(row.rejected) if row.rejected else None
    return [_answer(row), rejected, row.is_desirable]


def _answer(row: Example) -> list[Any]:
    return _turn(row.messages[-1])


def _turn(turn: Message) -> list[Any]:
    return [comparable_form(turn.content), *map(_call, turn.tool_calls)]


def _call(call: ToolCall) -> list[str]:
    try:
        arguments = json.dumps(json.loads(call.arguments), sort_keys=True)
    except ValueError:
        arguments = call.arguments
    return [call.name, arguments]


Chosen = tuple[str, str]
"""The claim that is kept, and why."""


def _majority(rows: Sequence[Example], _settings: ConflictSettings) -> Chosen | None:
    winner, count = Counter(map(claim, rows)).most_common(1)[0]
    if count * 2 <= len(rows):
        return None
    return winner, f"majority: {count} of {len(rows)} rows give this answer"


def _newest(rows: Sequence[Example], _settings: ConflictSettings) -> Chosen:
    files = list(dict.fromkeys(row.file for row in rows))
    newest = max(rows, key=lambda row: (files.index(row.file), row.line))
    return claim(newest), f"newest: {newest.file}:{newest.line} came last"


def _trusted_source(rows: Sequence[Example], settings: ConflictSettings) -> Chosen | None:
    for name in settings.trusted:
        claims = {claim(row) for row in rows if name in (row.file, row.group)}
        if claims:
            return (claims.pop(), f"trusted source: {name}") if len(claims) == 1 else None
    return None


def _none(_rows: Sequence[Example], _settings: ConflictSettings) -> None:
    return None


RULES: dict[Rule, Callable[[Sequence[Example], ConflictSettings], Chosen | None]] = {
    "majority": _majority,
    "newest": _newest,
    "trusted_source": _trusted_source,
    "none": _none,
}
