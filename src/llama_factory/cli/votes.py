"""`llama-factory votes`."""

from typing import TYPE_CHECKING

from llama_factory.cli.options import Folder, Json
from llama_factory.cli.terminal import console, print_json

if TYPE_CHECKING:
    from llama_factory.jobs.votes import Contestant, Duel


def votes(folder: Folder, as_json: Json = False) -> None:
    """Which of two answers people liked in the page, not knowing whose they were."""
    from llama_factory import curate

    duels = curate.votes(folder)
    if as_json:
        print_json([each.to_json() for each in duels])
    else:
        _print(duels)


def _print(duels: "list[Duel]") -> None:
    from rich.table import Table

    from llama_factory.evaluation.wording import with_interval

    table = Table("version", "against")
    for name in ("won", "lost", "tie", "both bad", "fraction won (95 %)"):
        table.add_column(name, justify="right")
    for each in duels:
        wins = with_interval(each.wins.value, each.wins) if each.wins else "-"
        counts = map(str, (each.won, each.lost, each.ties, each.both_bad))
        table.add_row(_name(each.second), _name(each.first), *counts, wins)
    console.print(table)


def _name(who: "Contestant") -> str:
    return f"{who.version} with documents" if who.knowledge else who.version
