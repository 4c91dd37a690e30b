"""`llama-factory train`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from llama_factory.cli.options import Changes, Json


def train(
    config: Annotated[Path, typer.Argument(help="Settings file (YAML).")],
    changes: Changes = None,
    output_dir: Annotated[Path | None, typer.Option(help="Where the adapter goes.")] = None,
    as_json: Json = False,
) -> None:
    """A single run without a workspace; the output is a plain PEFT folder."""
    from llama_factory import run
    from llama_factory.cli.progress import TerminalProgress

    chosen = [f"output_dir={output_dir}"] if output_dir else []
    results = run.train(config, [*(changes or []), *chosen], TerminalProgress())
    if as_json:
        print(json.dumps(results, indent=2, ensure_ascii=False))
        return
    training = results["training"]
    print(f"{training['steps']} steps, last loss {training['loss']:.3f}")
    before = {task["task"]: task for task in results["before"]["tasks"]}
    for task in results["after"]["tasks"]:
        old = before[task["task"]]
        changed = (f"{k} {old[k]:.3f} -> {v:.3f}" for k, v in task.items() if isinstance(v, float))
        print(f"{task['task']} ({task['count']} rows): {', '.join(changed)}")
    print(f"Adapter: {results['output_dir']}")
