"""The commands that measure: `evaluate` and `compare`."""

from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from llama_factory.cli.options import Base, Changes, Folder, Json, Version
from llama_factory.cli.terminal import TerminalProgress, console, print_json
from llama_factory.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from llama_factory.evaluation.comparison import Comparison, RowChange, ScoreChange
    from llama_factory.evaluation.scoring import TaskResult
    from llama_factory.evaluation.suites import SuiteResult
    from llama_factory.jobs.cross_validation import CrossValidation


ModelOrSettings = Annotated[
    str,
    typer.Argument(
        help="A workspace, or adapter folders with commas; with --folds a settings file."
    ),
]
Suites = Annotated[
    list[str] | None,
    typer.Option(
        help="rounds, guard, canaries, robustness, efficiency, or a suite file (.yaml), which can "
        "also hold multiple_choice (local files as MMLU's) and harness (tasks of "
        "lm-evaluation-harness). Empty: rounds, guard and canaries."
    ),
]
Output = Annotated[Path | None, typer.Option(help="Folder of predictions and results.json.")]
Folds = Annotated[
    int | None,
    typer.Option(help="Cross-validate a settings file: train it so many times.", min=2),
]


def evaluate(
    source: ModelOrSettings,
    suite: Suites = None,
    version: Version = None,
    base: Base = None,
    output: Output = None,
    folds: Folds = None,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Measure a model with 95 % intervals; predictions are kept, a stopped run goes on."""
    if folds is not None:
        _cross_validate(source, folds, suite, output, changes or [], as_json=as_json)
        return
    from llama_factory import use
    from llama_factory.jobs.model_reference import ModelReference

    found = use.evaluate(
        ModelReference(source, version, base, changes or []),
        suite or [],
        output,
        TerminalProgress(),
    )
    if as_json:
        print_json([each.to_json() for each in found])
        return
    print_suites(found)


def print_suites(found: "Sequence[SuiteResult]") -> None:
    """The tables of some suites."""
    for each in found:
        _print_results(each.suite, each.tasks)


def _cross_validate(
    source: str,
    folds: int,
    suite: list[str] | None,
    output: Path | None,
    changes: list[str],
    *,
    as_json: bool,
) -> None:
    from llama_factory import run

    if suite:
        raise ConfigError("--suite: with --folds the rows of the settings file are the test.")
    path = Path(source)
    folder = output or Path("outputs") / f"{path.stem}-folds"
    found = run.cross_validate(path, folds, folder, changes, TerminalProgress())
    if as_json:
        print_json(found.to_json())
        return
    _print_results(f"{folds} folds", [*found.folds, found.result])
    _print_spread(found)
    print(f"Results: {folder}")


def _print_results(title: str, tasks: "Iterable[TaskResult]") -> None:
    from llama_factory.evaluation.wording import interval

    table = Table(title, "rows", "score")
    for name in ("value", "95 %"):
        table.add_column(name, justify="right")
    for task in tasks:
        label, count = escape(task.task), str(task.count)
        for name, found in task.scores.items():
            value, between = f"{found.value:.3f}", interval(found, 3) or "-"
            table.add_row(label, count, escape(name), value, between)
            label = count = ""
        for line in _details(task.details):
            table.add_row("", "", line, "", "")
        table.add_section()
    console.print(table)


def _details(details: "Mapping[str, object]") -> list[str]:
    return [f"{name} {value}" for name, value in details.items()]


def _print_spread(found: "CrossValidation") -> None:
    spread = ", ".join(f"{name} {value:.3f}" for name, value in found.spread.items())
    print(f"Standard deviation between the folds: {spread}")


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

    found = run.compare(folder, (before, after), changes or [], TerminalProgress())
    if as_json:
        print_json(found.to_json())
        return
    _print_changes(found)
    _print_rows("got worse", found.worse, rows)
    _print_rows("got better", found.better, rows)


def _print_changes(found: "Comparison") -> None:
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
