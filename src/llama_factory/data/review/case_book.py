"""The files of a review folder, which only grow, and the state of all cases that follows."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from llama_factory.core import files
from llama_factory.core.errors import DataError, suggest
from llama_factory.core.records import numbered_records
from llama_factory.core.sentences import kind_of_sentence as kind
from llama_factory.core.types import Example
from llama_factory.data.conflict_rules import Conflict, claim, question_key
from llama_factory.data.review.cases import Case, Vote, short

MANY_CASES = kind("problem.many_cases", "'{id}' begins the ids of {count} cases. Give more of it.")
NO_CASE = kind(
    "problem.no_case",
    "there is no case '{id}' among {count}.{hint} `llama-factory data review FOLDER "
    "--list` shows those that are open.",
)

CASES, DECISIONS = "cases.jsonl", "decisions.jsonl"

Verdict = Literal["accepted", "rejected", "waiting"]


@dataclass(frozen=True)
class CaseBook:
    """All cases of a folder as they stand.

    Attributes:
        cases: by id, in the order they came up.
        logs: everything that was decided, by case.
        damaged: places of lines that cannot be read and are left out, with why.
    """

    cases: dict[str, Case]
    logs: Mapping[str, list[Vote]]
    damaged: tuple[str, ...]

    def case(self, name: str) -> Case:
        """A case by its id or the beginning of it.

        Raises:
            DataError: no case, or more than one, is called so.
        """
        found = [case for key, case in self.cases.items() if name and key.startswith(name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise DataError(MANY_CASES(id=name, count=len(found)))
        nearest = suggest(name, self.cases) or suggest(name, map(short, self.cases))
        raise DataError(NO_CASE(id=name, count=len(self.cases), hint=nearest))

    def covering(self, conflict: Conflict) -> Case | None:
        """The newest case that all of a conflict is a part of, if it came up before."""
        keys = [self._by_claim.get(key, frozenset()) for key in conflict.claims]
        ids = frozenset.intersection(*keys)
        return next((self.cases[key] for key in reversed(self.cases) if key in ids), None)

    def ruling(self, conflict: Conflict) -> frozenset[str] | None:
        """Keys of the conflict's rows that may be taught; None where nothing is decided yet."""
        case = self.covering(conflict)
        if case is None or case.result is None:
            return None
        accepted = set(map(claim, case.accepted()))
        return frozenset(row.key for row in conflict.rows if claim(row) in accepted)

    def verdict(self, row: Example) -> Verdict | None:
        """What people decided about a row, whatever it comes with; None where nobody was asked.

        A row that comes alone contradicts nothing and is no conflict, but may have lost one
        before. What only a rule settled is left to the rule: with other rows it may decide
        otherwise.
        """
        return self._verdicts.get(claim(row)) if self._verdicts else None

    @cached_property
    def disputed(self) -> tuple[Example, ...]:
        """One row for each question that some case is about: only such rows have a verdict."""
        asked: dict[str, Example] = {}
        for case in self.cases.values():
            for row in case.rows:
                asked.setdefault(question_key(row), row)
        return tuple(asked.values())

    def parts_of(self, conflict: Conflict) -> tuple[str, ...]:
        """Ids of the cases in which only a part of a conflict was in dispute."""
        keys = [self._by_claim.get(key, frozenset()) for key in conflict.claims]
        touching = sorted(frozenset[str]().union(*keys))
        return tuple(
            key for key in touching if set(map(claim, self.cases[key].rows)) <= conflict.claims
        )

    def is_accepted(self, case: Case) -> bool:
        """Whether a case's rows are taught: it is resolved, and no later decision covers it."""
        later = self.cases.get(case.replaced_by)
        return case.result is not None and not (later and self._decides(later))

    def _decides(self, case: Case) -> bool:
        later = self.cases.get(case.replaced_by)
        return case.result is not None or (later is not None and self._decides(later))

    @cached_property
    def _verdicts(self) -> dict[str, Verdict]:
        """By claim; where cases disagree, the one decided last counts."""
        found: dict[str, Verdict] = {}
        conflicts = [case for case in self.cases.values() if case.kind == "conflict"]
        for case in conflicts:
            if case.state in ("open", "unresolved"):
                found.update(dict.fromkeys(map(claim, case.rows), "waiting"))
        settled = [case for case in conflicts if self.is_accepted(case) and case.is_by_people]
        for case in sorted(settled, key=lambda case: case.votes[-1].when):
            accepted = case.accepted()
            found.update(dict.fromkeys(map(claim, case.rows), "rejected"))
            found.update(dict.fromkeys(map(claim, accepted), "accepted"))
        return found

    @cached_property
    def _by_claim(self) -> dict[str, frozenset[str]]:
        """Ids of the cases in which something is claimed: by a row, or in an accepted edit."""
        found: dict[str, set[str]] = {}
        for case in self.cases.values():
            if case.kind == "conflict":
                for row in (*case.rows, *case.accepted()):
                    found.setdefault(claim(row), set()).add(case.id)
        return {key: frozenset(ids) for key, ids in found.items()}


def read_book(folder: Path) -> CaseBook:
    """Replay everything that was ever written in a review folder."""
    damaged: list[str] = []
    cases = {case.id: case for case in _records(folder / CASES, Case.from_json, damaged)}
    logs: dict[str, list[Vote]] = {}
    for vote in _records(folder / DECISIONS, Vote.from_json, damaged):
        logs.setdefault(vote.case, []).append(vote)
    later = {part: case.id for case in cases.values() for part in case.replaces}
    return CaseBook(
        {
            key: replace(case, log=tuple(logs.get(key, ())), replaced_by=later.get(key, ""))
            for key, case in cases.items()
        },
        logs,
        tuple(damaged),
    )


def _records(path: Path, parse: Any, damaged: list[str]) -> tuple[Any, ...]:
    """What the lines of a file stand for; those that cannot be read are noted with their place."""
    if not path.exists():
        return ()
    records, notes = _parsed(path, parse, files.stamp(path.stat()))
    damaged += notes
    return records


@lru_cache(maxsize=2)
def _parsed(path: Path, parse: Any, _state: Any) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    """Kept until the file grows: deciding many cases one by one reads them once."""
    records: list[Any] = []
    notes: list[str] = []
    for number, line in numbered_records(path):
        try:
            records.append(parse(line))
        except (AttributeError, KeyError, TypeError, ValueError):
            what = "half-written" if line is None else "not as this program writes it"
            notes.append(f"{path.name}:{number}: this line is {what} and is left out.")
    return tuple(records), tuple(notes)
