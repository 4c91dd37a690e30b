"""`llama-factory monitor`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from llama_factory.cli.options import Changes, Folder, Json
from llama_factory.cli.terminal import TerminalProgress, console, print_json

if TYPE_CHECKING:
    from llama_factory.monitoring.observe import Health


def monitor(
    folder: Folder,
    changes: Changes = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the series here: a name that ends in .svg or .png.")
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Ask the released version its held-out rows again; loads the model.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Drift of new rows, decay of what was learned, users and the machine; what alerts mean."""
    from llama_factory import run

    progress = TerminalProgress()
    found = run.monitor(folder, changes or [], progress, picture=picture, measure=measure)
    if as_json:
        points = {name: point.to_json() for name, point in found.points.items()}
        print_json({"series": points, "diagnosis": list(found.diagnosis)})
        return
    _print(found)
    if picture is not None:
        print(f"Picture: {picture}")


def _print(found: "Health") -> None:
    table = Table("series", "value", "", "what it means")
    for name, point in sorted(found.points.items()):
        mark = "[red]ALERT[/]" if point.alert else "[green]ok[/]"
        value = "-" if point.value is None else f"{point.value:.3g}"
        table.add_row(name, value, mark, point.words)
    console.print(table)
    for line in found.diagnosis or ("No alert.",):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
