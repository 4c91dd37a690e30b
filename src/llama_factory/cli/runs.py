"""`llama-factory runs`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llama_factory.cli.options import Json

if TYPE_CHECKING:
    from llama_factory.jobs.runs import RunRow

COLORS = {"running": "green", "finished": "bold", "stopped": "yellow"}


def runs(
    folder: Annotated[Path, typer.Argument(help="Folder with runs or workspaces.")] = Path(),
    as_json: Json = False,
) -> None:
    """Runs at or below a folder: running, finished or stopped, steps, last loss, age."""
    from llama_factory import run

    rows = run.runs(folder)
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False))
    elif not rows:
        print(f"{folder}: no run was found here. `llama-factory train` makes one.")
    else:
        _print(rows, folder)


def _print(rows: "list[RunRow]", folder: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    from llama_factory.cli.tables import console

    table = Table("run", "state", "steps", "loss", "held-out loss", "last seen")
    for row in rows:
        table.add_row(
            Text(str(Path(row.folder).relative_to(folder))),
            f"[{COLORS[row.state]}]{row.state}[/]",
            f"{row.step}/{'?' if row.num_steps is None else row.num_steps}",
            _number(row.loss),
            _number(row.eval_loss),
            f"{_age(row.seconds_since)} ago",
        )
    console.print(table)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
