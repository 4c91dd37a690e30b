"""`llama-factory gate`."""

from typing import TYPE_CHECKING

import typer
from rich.table import Table

from llama_factory.cli.options import Changes, Folder, Json
from llama_factory.cli.terminal import console, print_json

if TYPE_CHECKING:
    from llama_factory.rounds.calibrate import Calibration

gate = typer.Typer(help="What the gate can tell with its rows.", no_args_is_help=True)


@gate.callback()
def _group() -> None:
    """What the gate can tell with the rows that there are."""


@gate.command()
def calibrate(folder: Folder, changes: Changes = None, as_json: Json = False) -> None:
    """The noise of each task's rows, and how often versions with a known drop would pass."""
    from llama_factory import run

    found = run.calibrate_gate(folder, changes or [])
    if as_json:
        print_json(found.to_json())
    else:
        _print(found)


def _print(found: "Calibration") -> None:
    noise = Table("task", "rows", "changed", "limit", "noise", "rows for the limit")
    for task in found.tasks:
        numbers = f"{task.changed:.0%}", f"{task.limit:g}", f"{task.noise:.2f}"
        needed = f"{task.rows_needed:,}" if task.rows_needed else "-"
        noise.add_row(task.task, str(task.rows), *numbers, needed)
    console.print(noise)
    rates = Table("true drop of every task", "when unsure", "promoted", "held", "refused")
    for each in found.decided:
        shares = (f"{share:.0%}" for share in (each.promoted, each.held, each.refused))
        mark = " (set)" if each.policy == found.own_policy else ""
        rates.add_row(f"{each.drop:g}", f"{each.policy}{mark}", *shares)
    console.print(rates)
    for warning in found.warnings:
        console.print(f"{warning}.", style="yellow", markup=False, soft_wrap=True)
