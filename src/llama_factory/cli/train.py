"""`llama-factory train`."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from llama_factory.cli import launching
from llama_factory.cli.options import Changes, Json
from llama_factory.cli.words import read_words

WORDS = {"ignore_unknown_options": True}
"""LLaMA-Factory's flags are too many to be options of their own: they stay among the words."""


def train(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE] [KEY=VALUE]... [--KEY VALUE]...",
            help="Settings file (YAML), ours or LLaMA-Factory's, and changes to it.",
            show_default=False,
        ),
    ] = None,
    changes: Changes = None,
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", "--output_dir", help="Where the adapter goes.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print all settings and where each comes from.")
    ] = False,
    as_json: Json = False,
) -> None:
    """A single run without a workspace; the output is a plain PEFT folder."""
    from llama_factory import run
    from llama_factory.cli.progress import TerminalProgress

    said = read_words(words or [])
    chosen = [f"output_dir={output_dir}"] if output_dir else []
    chosen = [*said.changes, *(changes or []), *chosen]
    run.explain(said.path, chosen)  # what is wrong is told before anything heavy loads
    if explain:
        together = launching.world_size(os.environ)
        print(run.explain(said.path, chosen, num_processes=together), end="")
        return
    if number := launching.num_processes(os.environ):
        raise typer.Exit(launching.launch(_as_words(said.path, chosen, as_json=as_json), number))
    results = run.train(said.path, chosen, TerminalProgress())
    if not results:
        return  # the first of several processes speaks for all
    if as_json:
        print(json.dumps(results, indent=2, ensure_ascii=False))
        return
    _show(results)


def _as_words(path: Path | None, changes: list[str], *, as_json: bool) -> list[str]:
    """The command line of every one of several processes."""
    given = [str(path)] if path else []
    return [*given, *changes, *(["--json"] if as_json else [])]


def _show(results: dict[str, Any]) -> None:
    if "training" not in results:
        for name, value in results.items():
            if not isinstance(value, dict):
                print(f"{name}: {value}")
        return
    from llama_factory.evaluation.statistics import Estimate
    from llama_factory.evaluation.wording import number, with_interval

    training = results["training"]
    print(f"{training['steps']} steps, last loss {training['loss']:.3f}")
    before = {task["task"]: task for task in results["before"]["tasks"]}
    for task in results["after"]["tasks"]:
        old, sure = before[task["task"]], results["after"]["intervals"][task["task"]]
        known = {name: Estimate(**found) for name, found in sure.items()}
        changed = (
            f"{name} {number(old[name], 3)} -> {with_interval(value, known.get(name), 3)}"
            for name, value in task.items()
            if isinstance(value, float)
        )
        print(f"{task['task']} ({task['count']} rows): {', '.join(changed)}")
    print(f"Adapter: {results['output_dir']}")
