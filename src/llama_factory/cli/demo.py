"""`llama-factory demo`."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from llama_factory.cli import rounds
from llama_factory.versions import releases
from llama_factory.versions.workspace import SETTINGS_FILE, Workspace

ROWS = Path(__file__).parent.parent / "demo"
BOT = Path("demo-bot")
ROUNDS = ("round1", "round2")
QUESTION = "How many months of warranty does the pump of the Lumora One have?"


def demo(
    folder: Annotated[Path, typer.Argument(help="The workspace; one that is there goes on.")] = BOT,
    model: Annotated[str, typer.Option(help="Short name, folder or hub id.")] = "smollm2",
) -> None:
    """A support bot learns two rounds of made-up facts; pictures show what it kept.

    About ten minutes on two cores. Every step is shown as the command that does it; a heat map,
    curves, a report and the address of the page in a browser come last.
    """
    if not (folder / SETTINGS_FILE).exists():
        _show(f"init {folder} --model {model}", rounds.init, folder, model)
    for number in ROUNDS:
        _show(f"learn {folder}", _teach, folder, number)
    _show(f"versions {folder}", rounds.versions, folder)
    _show(f"chat {folder}", _ask, folder)
    print(
        f"\nNext: llama-factory serve {folder} --port 8000\n"
        f"      cp {ROWS / 'round3'}/*.jsonl {folder}/inbox/ && llama-factory learn {folder}"
    )
    _picture(folder)


def _picture(folder: Path) -> None:
    """End with what was learned and what was kept, to look at."""
    reports = folder / "reports"
    reports.mkdir(exist_ok=True)
    heat_map, curves = reports / "forgetting.png", reports / "curves.png"
    page = reports / f"{releases.read(Workspace.open(folder).releases).production}.html"
    command = f"show {folder} --picture {heat_map} --curves {curves}"
    _show(command, rounds.show, folder, picture=heat_map, curves=curves)
    _show(f"report {folder}", rounds.report, folder)
    print("\nWhat it learned and what it kept:")
    for name, path in (("heat map", heat_map), ("curves", curves), ("page", page)):
        if path.exists():
            print(f"  {name:<8}  {path}")
    print(f"\nIn a browser: llama-factory web {folder}, then http://127.0.0.1:8000/")


def _show(command: str, step: Callable[..., None], *args: Any, **options: Any) -> None:
    Console(highlight=False, soft_wrap=True).print(f"\n[bold]$ llama-factory {command}[/bold]")
    step(*args, **options)


def _teach(folder: Path, number: str) -> None:
    for path in sorted((ROWS / number).glob("*.jsonl")):
        shutil.copy(path, folder / "inbox" / path.name)
    rounds.learn(folder)


def _ask(folder: Path) -> None:
    from llama_factory import use

    print(f"you> {QUESTION}")
    use.chat(folder, "production").answer(QUESTION, lambda text: print(text, end="", flush=True))
    print()
