"""`llama-factory data augment`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama_factory.cli.options import Json
from llama_factory.core.errors import ConfigError, DataError, suggest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llama_factory.core.types import Example
    from llama_factory.data.augment import AugmentPlan
    from llama_factory.data.augment.augmented_files import AugmentReport
    from llama_factory.data.reading import Refused

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
    from llama_factory.data.augment import AugmentPlan, parse_methods
    from llama_factory.data.augment.augmented_files import write_augmented

    _require_rows_to_teach(path, output)
    options: dict[str, dict[str, Any]] = {name: {"type": name} for name in methods or [DEFAULT]}
    if rate is not None:
        options = {name: {"type": name, "rate": rate} for name in options}
    _change(options, changes or [])
    plan = AugmentPlan(parse_methods(options.values(), synonyms), copies, seed)
    report = write_augmented(_rows(path), output, plan, overwrite=overwrite)
    if as_json:
        print(json.dumps(report.to_json() | {"output": str(output)}, ensure_ascii=False, indent=2))
        return
    _print_report(report, plan, output)


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
    """Add what `--set METHOD.SETTING=VALUE` says to the options of the methods."""
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


def _print_report(report: "AugmentReport", plan: "AugmentPlan", output: Path) -> None:
    from rich.markup import escape

    from llama_factory.cli.data.tables import MOST_REFUSED, print_refused
    from llama_factory.cli.tables import console

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
