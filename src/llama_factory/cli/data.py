"""The commands that clean and add rows: `data check`, `data clean`, `data augment`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from llama_factory.cli.options import Changes, Json, SettingsFile
from llama_factory.cli.terminal import TerminalProgress, console, print_json
from llama_factory.core.errors import ConfigError, DataError, suggest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llama_factory.core.types import Example
    from llama_factory.data.augment import AugmentPlan
    from llama_factory.data.augment.augmented_files import AugmentReport
    from llama_factory.data.cleaning_report import DataReport
    from llama_factory.data.reading import Refused


def check(
    path: Annotated[Path, typer.Argument(help="File or folder of rows.")],
    settings: SettingsFile = None,
    changes: Changes = None,
    strict: Annotated[bool, typer.Option(help="Exit with 1 where a row is refused.")] = False,
    as_json: Json = False,
) -> None:
    """What a round would make of these rows: kept, changed, dropped, refused, and why."""
    from llama_factory import run

    report = run.clean_data(path, None, settings, changes or [], TerminalProgress())
    if as_json:
        print_json(report.to_json())
    else:
        print_data_report(report)
    if strict and report.num_refused:
        raise typer.Exit(1)


def clean(
    path: Annotated[Path, typer.Argument(help="File or folder of rows.")],
    output: Annotated[Path, typer.Argument(help="New folder for the clean rows.")],
    settings: SettingsFile = None,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Write the clean rows: train.jsonl, held_out.jsonl, refused.jsonl and report.json."""
    from llama_factory import run

    report = run.clean_data(path, output, settings, changes or [], TerminalProgress())
    if as_json:
        print_json(report.to_json())
        return
    print_data_report(report)
    kept, held = sum(report.kept.values()), sum(report.held_out.values())
    print(f"{kept} rows to teach and {held} to test: {output}")


DEFAULT = "synonym_replacement"


def augment(
    path: Annotated[Path, typer.Argument(help="File of rows, of any kind.")],
    output: Annotated[Path, typer.Argument(help="The new file (.jsonl).")],
    methods: Annotated[
        list[str] | None, typer.Option("--method", help=f"Again for more. Default: {DEFAULT}.")
    ] = None,
    copies: Annotated[int, typer.Option(help="Rows that each method makes of one row.")] = 1,
    seed: Annotated[int, typer.Option(help="Same seed and rows, same result.")] = 0,
    synonyms: Annotated[
        Path | None, typer.Option(help="Dictionary; one group of synonyms a line.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Share of words, letters or marks changed. Higher: more.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change one method's setting: --set typo.rate=0.1"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output.")] = False,
    as_json: Json = False,
) -> None:
    """Add rows that ask the same in other words; answers stay as they are."""
    from llama_factory import use
    from llama_factory.data.augment import AugmentPlan, parse_methods
    from llama_factory.data.augment.augmented_files import write_augmented

    _require_rows_to_teach(path, output)
    options: dict[str, dict[str, Any]] = {name: {"type": name} for name in methods or [DEFAULT]}
    if rate is not None:
        options = {name: {"type": name, "rate": rate} for name in options}
    _change(options, changes or [])
    plan = AugmentPlan(parse_methods(options.values(), synonyms), copies, seed)
    with use.local_writers(plan.methods):
        report = write_augmented(_rows(path), output, plan, overwrite=overwrite)
    if as_json:
        print_json(report.to_json() | {"output": str(output)})
        return
    _print_augmented(report, plan, output)


def _rows(path: Path) -> "Iterator[Example | Refused]":
    from llama_factory.data.reading import read_examples

    try:
        yield from read_examples(path)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _require_rows_to_teach(path: Path, output: Path) -> None:
    from llama_factory.data.reading import is_test_file

    if not path.is_file():
        names = (each.name for each in path.parent.glob("*"))
        raise DataError(f"{path} is no file.{suggest(path.name, names)}")
    for each in (path, output):
        if is_test_file(each):
            raise DataError(f"{each} holds rows for testing; these are never augmented.")
    if output.suffix != ".jsonl":
        raise DataError(f"{output}: the output is JSON lines. Name it {output.stem}.jsonl.")


def _change(options: dict[str, dict[str, Any]], changes: list[str]) -> None:
    """Set the options that `--set METHOD.SETTING=VALUE` names."""
    import yaml

    for change in changes:
        place, equals, value = change.partition("=")
        name, dot, setting = place.partition(".")
        if not (equals and dot):
            raise ConfigError(f"--set {change}: write it as METHOD.SETTING=VALUE: typo.rate=0.1")
        if name not in options:
            hint = suggest(name, options)
            raise ConfigError(f"--set {change}: '{name}' is not among --method.{hint}")
        options[name][setting] = yaml.safe_load(value)


def _print_augmented(report: "AugmentReport", plan: "AugmentPlan", output: Path) -> None:
    total = report.num_rows + report.added.total()
    console.print(f"[bold]{report.num_rows:,} rows[/] became {total:,}: {escape(str(output))}")
    for name, count in report.added.items():
        console.print(f"  {name} {count:,} of {report.num_rows * plan.num_copies:,} possible")
    if not report.added.total():
        console.print("No row was changed. Plain text never is: all of it is taught.")
    for sample in report.samples:
        console.print(f"  {sample.method}", style="dim")
        for sign, text, colour in (("-", sample.before, "red"), ("+", sample.after, "green")):
            line = " ".join(text.split())[:300]
            console.print(f"    {sign} {line}", markup=False, soft_wrap=True, style=colour)
    if report.num_refused:
        console.print(f"[red]refused[/] {report.num_refused} rows, left out:")
        for refused in report.refused[:MOST_REFUSED]:
            print_refused(refused)


MOST_REFUSED = 20


def print_data_report(report: "DataReport") -> None:
    """A table of all sets, then what was changed, dropped and refused, with examples."""
    console.print(_sets(report))
    for step, count in report.changed.items():
        console.print(f"[yellow]changed[/] {count} rows by {step}")
        _print_samples(report, step, "")
    for told in report.unread_warnings:
        console.print(f"[yellow]unread[/]  {escape(told)}", soft_wrap=True)
    for reason, count in report.dropped.items():
        console.print(f"[yellow]dropped[/] {count} rows: {escape(reason)}")
        _print_samples(report, None, reason)
    if report.num_refused:
        console.print(f"[red]refused[/] {report.num_refused} rows or files:")
        for refused in report.refused[:MOST_REFUSED]:
            print_refused(refused)
        if report.num_refused > MOST_REFUSED:
            console.print(f"  ... and {report.num_refused - MOST_REFUSED} more")


def print_refused(refused: "Refused") -> None:
    """One line: where, and why."""
    console.print(f"  {refused}", markup=False, soft_wrap=True)


def _sets(report: "DataReport") -> Table:
    table = Table("set", "file", show_footer=len(report.sets) > 1)
    numbers = ("rows", "kept", "dropped", "refused")
    rows = [
        (each.num_rows, each.num_kept, each.num_dropped, each.num_refused) for each in report.sets
    ]
    for number, name in enumerate(numbers):
        total = sum(row[number] for row in rows)
        table.add_column(name, justify="right", footer=str(total))
    for each, row in zip(report.sets, rows, strict=True):
        table.add_row(escape(each.name), escape(each.file), *map(str, row))
    return table


def _print_samples(report: "DataReport", step: str | None, reason: str) -> None:
    for sample in report.samples:
        if sample.reason != reason or step not in (None, sample.step):
            continue
        console.print(f"  {sample.file}:{sample.line}", style="dim", markup=False)
        before = sample.before.replace("\n", "⏎")
        console.print(f"    - {before}", markup=False, soft_wrap=True, style="red")
        if sample.after:
            after = sample.after.replace("\n", "⏎")
            console.print(f"    + {after}", markup=False, soft_wrap=True, style="green")
