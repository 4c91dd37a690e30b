"""Review by people: cases and decisions on disk, from which the rows to teach follow.

A case goes from the automatic rule's proposal to a first reviewer; to a second one if the first
disagrees with the proposal, or where there is none and `always_second` is on; and to a third
person, the referee, if the two disagree. `cases.jsonl` and `decisions.jsonl` only grow; the state
is always derived from them, so that nothing decided is ever lost or edited.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llama_factory.core import files
from llama_factory.core.errors import DataError, suggest
from llama_factory.core.records import append_records
from llama_factory.core.sentences import kind_of_sentence as kind
from llama_factory.core.times import now
from llama_factory.core.types import Example
from llama_factory.data import conflict_rules as rules
from llama_factory.data.conflict_rules import Conflict, ConflictSettings, claim
from llama_factory.data.review.case_book import (
    CASES,
    DECISIONS,
    CaseBook,
    read_book,
)
from llama_factory.data.review.cases import Case, Choice, Level, State, Vote, refused_id, short

NOT_DECIDED = kind(
    "problem.case_not_decided", "case {case}: nobody has decided it, nothing to take back."
)
NOT_TEACHABLE = kind(
    "problem.case_not_teachable",
    "case {case}: what {who} wrote on {when} cannot be taught: {why} Take it back: "
    "`llama-factory data review FOLDER --case {id} --take-back`.",
)
REPLACED = kind("problem.case_replaced", "case {case} {what}. Decide that one.")
SETTLED = kind(
    "problem.case_settled",
    "case {case} is settled: {who} decided on {when}. If that was wrong, it can be taken "
    "back (--take-back).",
)
NOT_DISPUTED = kind(
    "problem.case_not_disputed",
    "case {case}: only when two reviewers disagree can it be left unresolved. Skip it instead.",
)
SAME_REVIEWER = kind(
    "problem.case_same_reviewer",
    "{name} has already decided case {case} ({level} reviewer, {when}). The {wanted} "
    "must be somebody else.",
)
NO_OPTION = kind(
    "problem.case_no_option",
    "case {case} has no option '{option}'.{hint} It has {count} answers; choose them by "
    "number with Case.keep.",
)
NO_REVIEWER = kind(
    "problem.no_reviewer", "the reviewer's name is empty. Give one with --reviewer NAME."
)

REFUSED_SUFFIX = ".rows.jsonl"
WAIT_SECONDS = 10.0
"""How long one reviewer's write waits for another's."""


@dataclass(frozen=True)
class ReviewSummary:
    """How the review of a folder stands.

    Attributes:
        states: number of cases by state.
        levels: number of open cases by who must look next.
        reviewers: number of decisions that count by reviewer, the rule's left out.
        num_rows: rows accepted.
        damaged: lines that cannot be read, with their places.
    """

    states: Mapping[State, int]
    levels: Mapping[Level, int]
    reviewers: Mapping[str, int]
    num_rows: int
    damaged: tuple[str, ...]


def open_cases(folder: Path, reviewer: str | None = None) -> list[Case]:
    """Cases that wait for a decision; of a reviewer, only those that this one may decide."""
    waiting = [case for case in read_book(folder).cases.values() if case.state == "open"]
    if reviewer is None:
        return waiting
    name = _reviewer(reviewer)
    return [case for case in waiting if _earlier(case, name) is None]


def add_cases(
    folder: Path, conflicts: Iterable[Conflict], settings: ConflictSettings
) -> list[Case]:
    """Note conflicts; what is known already, or is a part of it, is not asked again.

    The rule's decision is the proposal, and with `review: undecided` it is final and logged.

    Returns:
        The cases that are new.
    """
    with _writing(folder):
        book = read_book(folder)
        new: dict[str, Case] = {}
        votes: list[Vote] = []
        for conflict in conflicts:
            if conflict.id in new or book.covering(conflict):
                continue
            case = _new_case(conflict, settings, book)
            new[case.id] = case
            if case.proposal and settings.review == "undecided" and case.id not in book.logs:
                rule = f"rule {settings.rule}"
                votes.append(Vote(case.id, "rule", rule, case.proposal, now(), case.why))
        # votes first: one without its case is found again, a case without its vote would be asked
        append_records(folder / DECISIONS, (vote.to_json() for vote in votes))
        _add(folder, new.values())
    return _fresh(folder, new)


def add_refused(folder: Path, quarantine: Path, *, always_second: bool = False) -> list[Case]:
    """Note the refused rows in a quarantine folder, so that people may mend or drop them.

    Returns:
        The cases that are new.
    """
    refused = [
        Case(
            id=refused_id(file, row["row"] or str(row["line"])),
            kind="refused",
            why=row["reason"],
            always_second=always_second,
            file=file,
            line=row["line"],
            text=row["row"],
        )
        for file, row in _refused_rows(quarantine)
    ]
    return add_new(folder, refused)


def add_new(folder: Path, cases: Sequence[Case]) -> list[Case]:
    """Note those of some cases that are not known yet, and return them."""
    if not cases:
        return []
    with _writing(folder):
        known = read_book(folder).cases
        new = {case.id: case for case in cases if case.id not in known}
        _add(folder, new.values())
    return _fresh(folder, new)


def decide(folder: Path, case_id: str, reviewer: str, choice: Choice, note: str = "") -> Case:
    """Log what a reviewer decides.

    Args:
        folder: the review folder.
        case_id: its id or the beginning of it.
        reviewer: who decides.
        choice: made by `Case.keep`; `Choice()` drops all, `Choice(edited=TEXT)` writes an answer.
        note: why.

    Returns:
        The case as it stands now.

    Raises:
        DataError: there is no such case, it is settled, the choice is none of its options, or the
            reviewer has decided it before.
    """
    name = _reviewer(reviewer)
    with _writing(folder):
        case = read_book(folder).case(case_id)
        _require_open(case)
        _require_another(case, name, choice)
        _require_possible(case, choice)
        assert case.level is not None
        vote = Vote(case.id, case.level, name, choice, now(), note)
        append_records(folder / DECISIONS, [vote.to_json()])
    return replace(case, log=(*case.log, vote))


def take_back(folder: Path, case_id: str, reviewer: str, note: str = "") -> Case:
    """Log that the last decision about a case, a person's or the rule's, no longer counts.

    Raises:
        DataError: there is no such case, or nobody has decided it yet.
    """
    name = _reviewer(reviewer)
    with _writing(folder):
        case = read_book(folder).case(case_id)
        if not case.votes:
            raise DataError(NOT_DECIDED(case=short(case.id)))
        vote = Vote(case.id, "taken_back", name, Choice(), now(), note)
        append_records(folder / DECISIONS, [vote.to_json()])
    return replace(case, log=(*case.log, vote))


def accepted_rows(folder: Path) -> Iterator[Example]:
    """The rows of all resolved cases, edited and mended ones included, to be checked like any.

    Those of feedback are left out: what they become depends on the round (`feedback.py`).

    Raises:
        DataError: what somebody wrote is no row (any more).
    """
    book = read_book(folder)
    for case in book.cases.values():
        if case.kind != "feedback" and book.is_accepted(case):
            yield from _accepted(case)


def summary(folder: Path) -> ReviewSummary:
    """How many cases stand where, who decided how many, and what cannot be read."""
    book = read_book(folder)
    cases = book.cases.values()
    people = [vote for case in cases for vote in case.votes if vote.level != "rule"]
    return ReviewSummary(
        states=Counter(case.state for case in cases),
        levels=Counter(case.level for case in cases if case.state == "open" and case.level),
        reviewers=Counter(vote.reviewer for vote in people),
        num_rows=sum(len(_accepted(case)) for case in cases if book.is_accepted(case)),
        damaged=book.damaged,
    )


def _accepted(case: Case) -> tuple[Example, ...]:
    try:
        return case.accepted()
    except DataError as error:
        last = case.votes[-1]
        raise DataError(
            NOT_TEACHABLE(
                case=short(case.id), who=last.reviewer, when=last.when, why=error, id=short(case.id)
            )
        ) from None


def _new_case(conflict: Conflict, settings: ConflictSettings, book: CaseBook) -> Case:
    decision = rules.decide(conflict, settings)
    kept = decision.kept if decision else ()
    claims = dict.fromkeys(claim(row) for row in conflict.rows if row.key in kept)
    return Case(
        id=conflict.id,
        kind="conflict",
        rows=conflict.rows,
        is_exact=conflict.is_exact,
        proposal=Choice(tuple(claims)) if decision else None,
        why=decision.why if decision else "",
        always_second=settings.always_second,
        replaces=book.parts_of(conflict),
    )


def _require_open(case: Case) -> None:
    if case.result is None and not case.replaced_by:
        return
    if case.result is None:
        what = "has become a part of case {}, which has more answers"
        if case.kind == "feedback":
            what = "is replaced by case {}, which the same caller said later"
        raise DataError(REPLACED(case=short(case.id), what=what.format(short(case.replaced_by))))
    last = case.votes[-1]
    raise DataError(SETTLED(case=short(case.id), who=last.reviewer, when=last.when))


def _require_another(case: Case, name: str, choice: Choice) -> None:
    """Each level needs another person; only `unresolved` may be chosen by anyone."""
    if choice.is_unresolved:
        if case.level != "referee":
            raise DataError(NOT_DISPUTED(case=short(case.id)))
        return
    earlier = _earlier(case, name)
    if earlier:
        raise DataError(
            SAME_REVIEWER(
                name=name,
                case=short(case.id),
                level=earlier.level,
                when=earlier.when,
                wanted=case.level,
            )
        )


def _require_possible(case: Case, choice: Choice) -> None:
    known = {option.id for option in case.options if option.id}
    strange = [key for key in choice.keep if key not in known]
    if strange:
        raise DataError(
            NO_OPTION(
                case=short(case.id),
                option=strange[0],
                hint=suggest(strange[0], known),
                count=len(known),
            )
        )
    if choice.edited:
        case.rewritten(choice.edited)


def _earlier(case: Case, name: str) -> Vote | None:
    """A person's vote at the first or second level; upper and lower case make no difference."""
    own = [vote for vote in case.votes if vote.reviewer.casefold() == name.casefold()]
    return own[0] if own and own[0].level != "rule" else None


def _reviewer(name: str) -> str:
    plain = " ".join(unicodedata.normalize("NFKC", name).split())
    if not plain:
        raise DataError(NO_REVIEWER())
    return plain


def _refused_rows(quarantine: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(quarantine.glob(f"*{REFUSED_SUFFIX}")):
        for row in files.read_jsonl(path):
            yield path.name.removesuffix(REFUSED_SUFFIX), row


def _add(folder: Path, cases: Iterable[Case]) -> None:
    append_records(folder / CASES, (case.to_json() for case in cases))


def _fresh(folder: Path, new: Mapping[str, Case]) -> list[Case]:
    if not new:
        return []
    cases = read_book(folder).cases
    return [cases[key] for key in new]


def _writing(folder: Path) -> AbstractContextManager[None]:
    return files.locked(folder / ".lock", what="writing decisions", seconds=WAIT_SECONDS)
