"""`llama-factory data forget`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llama_factory.cli.options import Folder, Json
from llama_factory.cli.review import login_name
from llama_factory.cli.terminal import console, print_json
from llama_factory.core.errors import DataError

if TYPE_CHECKING:
    from llama_factory.jobs.forgetting import MarkedRow

MOST_LISTED = 20
MOST_CHARACTERS = 80


def forget(
    folder: Folder,
    text: Annotated[
        str, typer.Argument(help="A text of the row, or its key; none lists what is marked.")
    ] = "",
    why: Annotated[str, typer.Option(help="Why it is to be forgotten; kept with the mark.")] = "",
    who: Annotated[
        str | None, typer.Option("--reviewer", help="Who marks it; empty: the login name.")
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take the mark back.")] = False,
    as_json: Json = False,
) -> None:
    """Mark a taught row: no round teaches or replays it again; what a retraining would take."""
    from llama_factory import curate

    if not text:
        marks = curate.forgotten(folder)
        print_json([each.to_json() for each in marks]) if as_json else _print(marks)
        return
    key = _key_of(folder, text, marked=undo)
    if undo:
        mark = curate.remember(folder, key, login_name(who))
        print_json({"key": mark.key}) if as_json else print(f"{mark.key} may be taught again.")
        return
    marked = curate.forget(folder, key, login_name(who), why)
    print_json(marked.to_json()) if as_json else _print([marked])


def _key_of(folder: Path, text: str, *, marked: bool) -> str:
    """The key of the one row that a text means; a key means itself."""
    from llama_factory import curate

    if len(text) == 32 and set(text) <= set("0123456789abcdef"):
        return text
    if marked:
        rows = [each.row for each in curate.forgotten(folder) if each.row]
        named = [row for row in rows if any(text in turn.content for turn in row.messages)]
    else:
        named = [each.row for each in curate.taught(folder, text).rows if not each.is_test]
    keys = {row.key: row for row in named}
    if len(keys) == 1:
        return next(iter(keys))
    if not keys:
        raise DataError(f"no row that was taught holds {text!r}. Give another text of it.")
    listed = "\n".join(
        f"  {key}  {row.file}:{row.line}  {_short(row.prompt[-1].content)}"
        for key, row in list(keys.items())[:MOST_LISTED]
    )
    raise DataError(f"{len(keys)} rows or more hold {text!r}. Name one by its key:\n{listed}")


def _print(marks: "list[MarkedRow]") -> None:
    if not marks:
        print("No row is marked to be forgotten.")
    for each in marks:
        mark, work = each.mark, each.retraining
        asked = _short(each.row.prompt[-1].content) if each.row else "no version keeps its text"
        console.print(f"{mark.key}  {mark.place.file}:{mark.place.line}  {asked}", markup=False)
        console.print(f"  marked by {mark.who}, {mark.when}: {mark.why}", markup=False)
        console.print(f"  {work.sentence}", markup=False, soft_wrap=True)


def _short(text: str) -> str:
    from llama_factory.cli.case_view import visible

    plain = " ".join(visible(text).split())
    return plain if len(plain) <= MOST_CHARACTERS else f"{plain[: MOST_CHARACTERS - 1]}…"
