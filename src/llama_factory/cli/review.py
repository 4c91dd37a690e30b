"""`llama-factory data review`."""

import getpass
import json
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llama_factory.cli.options import Json
from llama_factory.cli.terminal import print_json
from llama_factory.core.errors import DataError
from llama_factory.core.signals import Stopped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llama_factory.data.review.cases import Case, Choice

KEYS = "number: keep (1,3 keeps two)  d: drop all  e: write  s: skip  b: back  q: quit  # note"
REFUSED_KEYS = "e: mend the row  d: drop it  number: take that one  s: skip  b: back  q: quit"
UNRESOLVED_KEY = "  u: leave unresolved"
_NUMBERS = re.compile(r"\d+(?:[\s,，、]+\d+)*")


def review(
    folder: Annotated[Path, typer.Argument(help="The workspace, or a folder of cases.")],
    reviewer: Annotated[
        str | None, typer.Option(help="Who decides; empty: the login name.")
    ] = None,
    only_list: Annotated[bool, typer.Option("--list", help="List what is open.")] = False,
    case_id: Annotated[
        str | None, typer.Option("--case", help="One case: its id or the beginning of it.")
    ] = None,
    choose: Annotated[
        str | None, typer.Option(help="Decide it: 2, or 1,3, or drop, or unresolved.")
    ] = None,
    edit: Annotated[
        str | None, typer.Option(help="Decide it with this answer, or this row as JSON.")
    ] = None,
    take_back: Annotated[bool, typer.Option(help="Take its last decision back.")] = False,
    note: Annotated[str, typer.Option(help="Why; kept with the decision.")] = "",
    as_json: Json = False,
) -> None:
    """Decide about rows that contradict each other or were refused, and what users said.

    Who decided and when is kept.
    """
    desk = Desk(_review_folder(folder), login_name(reviewer))
    desk.warn_of_damage()
    wanted = _wanted(choose, edit, take_back)
    if case_id:
        desk.one(case_id, wanted, note, as_json=as_json)
    elif wanted:
        raise DataError("which case is meant? Name it with --case ID; --list shows them.")
    elif only_list or as_json:
        desk.list_open(as_json=as_json)
    else:
        desk.work()


@dataclass
class Desk:
    """One reviewer at work on the cases of a folder.

    Attributes:
        decided: places of the cases decided in this sitting, the last one last.
    """

    folder: Path
    reviewer: str
    decided: list[int] = field(default_factory=list)

    def warn_of_damage(self) -> None:
        """Say which lines on disk cannot be read."""
        from llama_factory.data.review.case_book import read_book

        for place in read_book(self.folder).damaged:
            print(f"{self.folder}/{place}", file=sys.stderr)

    def show(self, case: "Case", title: str, earlier: "Mapping[str, Case]") -> None:
        """One case with all decisions about it, and about parts of it in `earlier`."""
        from llama_factory.cli import case_view
        from llama_factory.data.review.cases import short

        level = f"waits for its {case_view.PEOPLE[case.level]}" if case.level else case.state
        case_view.print_case(case, f"{title}  {case.kind} {short(case.id)}  {level}", earlier)

    def list_open(self, *, as_json: bool) -> None:
        """The cases that wait for anybody."""
        from llama_factory.cli import case_view
        from llama_factory.data.review import folder as review

        cases = review.open_cases(self.folder)
        if as_json:
            print(json.dumps([case_view.to_json(case) for case in cases], ensure_ascii=False))
            return
        if cases:
            case_view.print_list(cases)
        self._sum_up()

    def one(
        self, case_id: str, wanted: tuple[str, str] | None, note: str, *, as_json: bool
    ) -> None:
        """Do what the flags ask to one case, and show it."""
        from llama_factory.cli import case_view

        case = self.case(case_id)
        verb, text = wanted or ("show", "")
        if verb == "take back":
            case = self.take_back(case, note)
        elif verb != "show":
            choice = _edited(case, text) if verb == "edit" else choice_of(case, text)
            case = self.decide(case, choice, note)
        if as_json:
            print_json(case_view.to_json(case))
        else:
            self.show(case, "case", self.cases())

    def case(self, case_id: str) -> "Case":
        """A case as it stands now."""
        from llama_factory.data.review.case_book import read_book

        return read_book(self.folder).case(case_id)

    def cases(self) -> "Mapping[str, Case]":
        """All cases by id as they stand now."""
        from llama_factory.data.review.case_book import read_book

        return read_book(self.folder).cases

    def decide(self, case: "Case", choice: "Choice", note: str) -> "Case":
        """Log a decision."""
        from llama_factory.data.review import folder as review

        return review.decide(self.folder, case.id, self.reviewer, choice, note)

    def take_back(self, case: "Case", note: str = "") -> "Case":
        """Log that the last decision about a case does not count."""
        from llama_factory.data.review import folder as review

        return review.take_back(self.folder, case.id, self.reviewer, note)

    def work(self) -> None:
        """Go through all cases that this reviewer may decide."""
        from llama_factory.data.review import folder as review

        cases = review.open_cases(self.folder, self.reviewer)
        place: int | None = 0
        try:
            while place is not None and place < len(cases):
                known = self.cases()
                case = known[cases[place].id]
                self.show(case, f"{place + 1} of {len(cases)}", known)
                print(_keys(case))
                place = self._ask(cases, place)
        except Stopped:
            print(f"\nYour {len(self.decided)} decisions are saved.")
            raise
        self._sum_up()

    def _ask(self, cases: list["Case"], place: int) -> int | None:
        """Ask until something is done; returns the place of the next case, None to leave."""
        while True:
            line = _read_line("> ")
            if line is None or line == "q":
                return None
            if line == "s":
                return place + 1
            try:
                if line == "b":
                    return self._back(cases)
                if self._take(cases[place], line):
                    self.decided.append(place)
                    return place + 1
            except DataError as error:
                print(error)
                if not self._is_mine(cases[place]):
                    return place + 1

    def _take(self, case: "Case", line: str) -> bool:
        """Do what was typed; returns whether anything was decided."""
        from llama_factory.data.review.cases import Choice

        wanted, _, note = (part.strip() for part in line.partition("#"))
        if not wanted:
            return False
        if wanted == "e":
            text = _write(case)
            if not text:
                return False
            choice = Choice(edited=text)
        else:
            choice = choice_of(case, wanted)
        print(_outcome(self.decide(case, choice, note)))
        return True

    def _back(self, cases: list["Case"]) -> int:
        """Take this reviewer's last decision back; returns the place of its case."""
        if not self.decided:
            raise DataError("nothing has been decided yet in this sitting.")
        case = self.case(cases[self.decided[-1]].id)
        if case.votes[-1].reviewer.casefold() != " ".join(self.reviewer.split()).casefold():
            raise DataError("somebody has decided that case after you; it cannot be taken back.")
        self.take_back(case)
        return self.decided.pop()

    def _is_mine(self, case: "Case") -> bool:
        from llama_factory.data.review import folder as review

        mine = review.open_cases(self.folder, self.reviewer)
        return any(each.id == case.id for each in mine)

    def _sum_up(self) -> None:
        from llama_factory.data.review import folder as review

        found = review.summary(self.folder)
        states = ", ".join(f"{count} {state}" for state, count in found.states.items())
        print(f"Cases: {states or 'none'}. Rows accepted: {found.num_rows}.")


def choice_of(case: "Case", text: str) -> "Choice":
    """What somebody typed: numbers, `drop` or `d`, `unresolved` or `u`.

    Raises:
        DataError: it is none of these, or a number is out of range.
    """
    from llama_factory.data.review.cases import Choice

    word = text.strip().lower()
    if word in ("d", "drop"):
        return Choice()
    if word in ("u", "unresolved"):
        return Choice(is_unresolved=True)
    if _NUMBERS.fullmatch(word):
        return case.keep(*map(int, re.findall(r"\d+", word)))
    raise DataError(
        f"'{text}' is no choice. Give a number, several as 1,3, `drop` (d) or `unresolved` (u)."
    )


def _edited(case: "Case", text: str) -> "Choice":
    """An edit, whose text may not be empty."""
    from llama_factory.data.review.cases import Choice

    case.rewritten(text)
    return Choice(edited=text)


def _review_folder(folder: Path) -> Path:
    """Where the cases lie; those of a workspace take in what is in quarantine."""
    from llama_factory import curate
    from llama_factory.data.review.case_book import CASES
    from llama_factory.versions.workspace import Workspace

    if (folder / CASES).is_file():
        return folder
    return curate.note_cases(Workspace.open(folder))


def login_name(given: str | None) -> str:
    """Who decides: the name given, or that of the login.

    Raises:
        DataError: there is no such name.
    """
    if given is not None:
        return given
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise DataError("this user has no login name. Give one with --reviewer NAME.") from None


def _wanted(choose: str | None, edit: str | None, take_back: bool) -> tuple[str, str] | None:
    """What the flags ask to do, with its text; None where a case is only to be shown."""
    if sum((choose is not None, edit is not None, take_back)) > 1:
        raise DataError("--choose, --edit and --take-back exclude each other. Give one of them.")
    if take_back:
        return "take back", ""
    if edit is not None:
        return "edit", edit
    return None if choose is None else ("choose", choose)


def _keys(case: "Case") -> str:
    keys = REFUSED_KEYS if case.kind == "refused" else KEYS
    return keys + (UNRESOLVED_KEY if case.level == "referee" else "")


def _outcome(case: "Case") -> str:
    from llama_factory.cli.case_view import PEOPLE, describe_choice

    if case.result is not None:
        return f"Settled: {describe_choice(case, case.result)}."
    if case.state == "unresolved":
        return "Unresolved: its rows stay out."
    return f"Noted; it now waits for its {PEOPLE[case.level or 'first']}, another person."


def _write(case: "Case") -> str:
    """What the reviewer writes: in $EDITOR on a terminal, else on one line."""
    start = case.text if case.kind == "refused" else case.options[0].text
    if sys.stdin.isatty() and (os.environ.get("VISUAL") or os.environ.get("EDITOR")):
        import click

        suffix = ".json" if case.kind == "refused" else ".txt"
        return (click.edit(start, extension=suffix) or "").strip()
    return _read_line("new text (one line, empty for none): ") or ""


def _read_line(prompt: str) -> str | None:
    """One line as typed; None where there are no more."""
    try:
        return input(prompt).strip()
    except EOFError:
        print()
        return None
