"""`llama-factory compare`."""

import json
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated

import typer

from llama_factory.cli.options import Changes, Folder, Json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama_factory.evaluation.changes import RowChange
    from llama_factory.evaluation.compare import Comparison, ScoreChange

MOST_CHARACTERS = 70
"""Of a question or answer in the table; `--json` has them whole."""
VERDICTS = {True: "[green]better[/]", False: "[red]worse[/]", None: "within chance"}


def compare(
    folder: Folder,
    before: Annotated[str, typer.Argument(help="Version id or alias.")] = "previous",
    after: Annotated[str, typer.Argument(help="Version id or alias.")] = "production",
    rows: Annotated[int, typer.Option(help="Most rows shown of each kind.", min=0)] = 5,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Two versions on the same held-out rows: differences with 95 % intervals, rows that changed.

    What a version was not yet asked is asked now and kept in the workspace's `evaluations`.
    """
    from llama_factory import run
    from llama_factory.cli.progress import TerminalProgress

    found = run.compare(folder, (before, after), changes or [], TerminalProgress())
    if as_json:
        print(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
        return
    _print_scores(found)
    _print_rows("got worse", found.worse, rows)
    _print_rows("got better", found.better, rows)


def _print_scores(found: "Comparison") -> None:
    from rich.markup import escape
    from rich.table import Table

    from llama_factory.cli.tables import console

    table = Table("task", "metric")
    for name in ("rows", found.before, found.after, "difference (95 %)"):
        table.add_column(name, justify="right")
    table.add_column("")
    for each in found.scores:
        numbers = f"{each.before.value:.3f}", f"{each.after.value:.3f}", _difference(each)
        count, verdict = str(each.difference.count), VERDICTS[each.is_better]
        table.add_row(escape(each.task), escape(each.metric), count, *numbers, verdict)
    console.print(table)


def _difference(change: "ScoreChange") -> str:
    found = change.difference
    if found.low is None or found.high is None:
        return f"{found.value:+.3f}"
    return f"{found.value:+.3f} ({found.low:+.3f} .. {found.high:+.3f})"


def _print_rows(title: str, rows: "Sequence[RowChange]", most: int) -> None:
    from llama_factory.cli.tables import console

    console.print(f"[bold]{len(rows)} rows {title}[/]")
    for row in rows[:most]:
        asked, expected, before, after = map(
            _short, (row.prompt, row.expected, row.before, row.after)
        )
        console.print(f"  {row.task}: {asked}", markup=False, soft_wrap=True)
        console.print(f"    expected  {expected}", markup=False, soft_wrap=True)
        console.print(f"    before    {before}", markup=False, soft_wrap=True)
        console.print(f"    after     {after}", markup=False, soft_wrap=True)


def _short(text: str) -> str:
    return shorten(text, MOST_CHARACTERS, placeholder=" …")
