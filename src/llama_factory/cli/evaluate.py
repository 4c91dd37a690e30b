"""`llama-factory evaluate`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llama_factory.cli.export import Base, Version
from llama_factory.cli.options import Changes, Json
from llama_factory.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llama_factory.evaluation.marks import TaskResult
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
        "also hold harness: tasks of lm-evaluation-harness. Empty: rounds, guard and canaries."
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
    from llama_factory import run
    from llama_factory.cli.progress import TerminalProgress
    from llama_factory.jobs.trained import Source

    found = run.evaluate(
        Source(source, version, base, changes or []), suite or [], output, TerminalProgress()
    )
    if as_json:
        print(json.dumps([each.to_json() for each in found], indent=2, ensure_ascii=False))
        return
    for each in found:
        _print(each.suite, each.tasks)


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
    from llama_factory.cli.progress import TerminalProgress

    if suite:
        raise ConfigError("--suite: with --folds the rows of the settings file are the test.")
    path = Path(source)
    folder = output or Path("outputs") / f"{path.stem}-folds"
    found = run.cross_validate(path, folds, folder, changes, TerminalProgress())
    if as_json:
        print(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
        return
    _print(f"{folds} folds", [*found.folds, found.result])
    _print_spread(found)
    print(f"Results: {folder}")


def _print(title: str, tasks: "Iterable[TaskResult]") -> None:
    from rich.markup import escape
    from rich.table import Table

    from llama_factory.cli.tables import console
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
