"""The commands that need no workspace: `train`, `predict`, `export`, `runs`."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from llama_factory.cli import launching
from llama_factory.cli.options import (
    Base,
    Changes,
    Json,
    ModelSource,
    SettingsWords,
    Version,
    read_words,
)
from llama_factory.cli.peer import is_theirs
from llama_factory.cli.terminal import TerminalProgress, console, print_json
from llama_factory.config.dialects.exporting import ExportRequest, read_export_request
from llama_factory.core.durations import shown_seconds
from llama_factory.core.errors import ConfigError

if TYPE_CHECKING:
    from llama_factory.evaluation.statistics import Estimate
    from llama_factory.jobs.runs import RunRow
    from llama_factory.model.export import Exported


WORDS = {"ignore_unknown_options": True}
"""LLaMA-Factory's flags are too many to be options of their own: they stay among the words."""


def train(
    words: SettingsWords = None,
    changes: Changes = None,
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", "--output_dir", help="Where the adapter goes.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print all settings and where each comes from.")
    ] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Print the memory and time it would take.")
    ] = False,
    on: Annotated[
        str, typer.Option(help="A Ray cluster to run on: ray, or ray://HOST:PORT (`ray.workers`).")
    ] = "",
    as_json: Json = False,
) -> None:
    """A single run without a workspace; the output is a plain PEFT folder."""
    from llama_factory import experiment, run

    said = read_words(words or [])
    chosen = [f"output_dir={output_dir}"] if output_dir else []
    chosen = [*said.changes, *(changes or []), *chosen]
    run.explain(said.path, chosen)  # what is wrong is told before anything heavy loads
    if explain:
        together = launching.world_size(os.environ)
        print(run.explain(said.path, chosen, num_processes=together), end="")
        return
    if estimate:
        expected = experiment.estimate(said.path, chosen, TerminalProgress())
        print_json(expected.to_json()) if as_json else print(expected)
        return
    if place := launching.place_of(on, os.environ):
        _show(launching.train_on_ray(said.path, chosen, place), as_json=as_json)
        return
    if number := launching.num_processes(os.environ):
        raise typer.Exit(launching.launch(_as_words(said.path, chosen, as_json=as_json), number))
    done = run.train(said.path, chosen, TerminalProgress())
    _show(done.to_json() if done.results else {}, as_json=as_json)


def _show(results: dict[str, Any], *, as_json: bool) -> None:
    """What a run came to; the first of several processes speaks for all."""
    if results and as_json:
        print_json(results)
    elif results:
        _print_results(results)


def _as_words(path: Path | None, changes: list[str], *, as_json: bool) -> list[str]:
    """The command line of every one of several processes."""
    given = [str(path)] if path else []
    return [*given, *changes, *(["--json"] if as_json else [])]


def _print_results(results: dict[str, Any]) -> None:
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


def predict(
    source: ModelSource,
    file: Annotated[Path, typer.Argument(help="Rows to answer.")],
    output: Annotated[Path, typer.Argument(help="The new file, one JSON object a line.")],
    version: Version = None,
    base: Base = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest answer.", min=1)] = None,
    metrics: Annotated[
        str, typer.Option(help="Names with commas; empty: the settings', BLEU-4 and ROUGE.")
    ] = "",
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Answer every row of a file and judge the answers; a stopped run goes on where it was."""
    from llama_factory import use
    from llama_factory.jobs.model_reference import ModelReference

    longest = [f"evaluation.max_new_tokens={max_new_tokens}"] if max_new_tokens else []
    done = use.predict(
        ModelReference(source, version, base, [*(changes or []), *longest]),
        file,
        output,
        metrics=[name.strip() for name in metrics.split(",") if name.strip()],
        progress=TerminalProgress(),
    )
    if as_json:
        print_json(done.to_json())
        return
    print(f"{output}: {done.num_rows} rows, {done.rows_per_second:.2f} rows/s")
    if done.estimates:
        print("In brackets: 95 % intervals.")
    if done.num_refused:
        print(f"  {done.num_refused} rows do not fit the chat template; their answers are empty.")
    if done.num_open:
        print(f"  {done.num_open} rows expect no answer; theirs are not judged.")
    for name, found in done.estimates.items():
        print(f"  predict_{name}  {_score(found)}")


def _score(found: "Estimate") -> str:
    """A score with its interval and the rows that it stands on."""
    from llama_factory.evaluation.wording import with_interval

    if not found.count:
        return "-  no row could be judged"
    return f"{with_interval(found.value, found)}  n = {found.count}"


def export(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE OUTPUT | [FILE] [KEY=VALUE]... [--KEY VALUE]...",
            help="A workspace or adapter folders with commas between them, and the new folder; or "
            "LLaMA-Factory's YAML, with changes.",
            show_default=False,
        ),
    ] = None,
    version: Version = None,
    base: Base = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; empty: the base model's.")
    ] = None,
    shard_size: Annotated[str, typer.Option(help="Largest weight file.")] = "5GB",
    prompts: Annotated[
        Path | None, typer.Option(help="Rows to compare on; empty: a built-in set.")
    ] = None,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Merge an adapter into its base model: one plain folder, checked against the adapter."""
    from llama_factory import use
    from llama_factory.jobs.model_reference import ModelReference

    given = words or []
    if is_theirs(given) or (given and given[0].endswith((".yaml", ".yml"))):
        asked = _export_request(given)
        source, base, dtype, shard_size = asked.source, asked.base, asked.dtype, asked.shard_size
        output, changes = Path(asked.output), [*asked.changes, *(changes or [])]
    elif len(given) == 2:
        source, output = given[0], Path(given[1])
    else:
        raise ConfigError("OUTPUT: not given. Name the new folder.")
    done = use.export(
        ModelReference(source, version, base, changes or []),
        output,
        prompts=prompts,
        dtype=dtype,
        shard_size=shard_size,
        progress=TerminalProgress(),
    )
    if as_json:
        print_json(done.to_json())
        return
    _print_exported(done)


def _export_request(words: list[str]) -> ExportRequest:
    """What a file and changes ask for; a folder after the file goes before its `export_dir`."""
    is_folder = len(words) == 2 and not words[1].startswith("--") and "=" not in words[1]
    said = read_words([words[0], f"export_dir={words[1]}"] if is_folder else words)
    return read_export_request(said.path, said.changes)


def _print_exported(done: "Exported") -> None:
    parity = done.parity
    print(
        f"{done.folder}: {done.num_parameters / 1e6:.1f} million parameters as {parity.dtype} in "
        f"{done.num_shards} file(s), {done.num_bytes / 1e9:.2f} GB."
    )
    print(
        f"Checked on {parity.num_prompts} prompts: the likeliest token is the same at "
        f"{parity.agreement:.2%} of {parity.num_positions} places; largest difference of a logit "
        f"{parity.max_logit_difference:.3g}."
    )
    print(f"  Ollama:  cd {done.folder} && ollama create NAME -f Modelfile")


COLORS = {"running": "green", "finished": "bold", "stopped": "yellow"}


def runs(
    folder: Annotated[Path, typer.Argument(help="Folder with runs or workspaces.")] = Path(),
    as_json: Json = False,
) -> None:
    """Runs at or below a folder: running, finished or stopped, steps, last loss, age."""
    from llama_factory import run

    rows = run.runs(folder)
    if as_json:
        print_json([asdict(row) for row in rows])
    elif not rows:
        print(f"{folder}: no run was found here. `llama-factory train` makes one.")
    else:
        _print_runs(rows, folder)


def _print_runs(rows: "list[RunRow]", folder: Path) -> None:
    table = Table("run", "state", "steps", "loss", "held-out loss", "last seen")
    for row in rows:
        table.add_row(
            Text(str(Path(row.folder).relative_to(folder))),
            f"[{COLORS[row.state]}]{row.state}[/]",
            f"{row.step}/{'?' if row.num_steps is None else row.num_steps}",
            _loss(row.loss),
            _loss(row.eval_loss),
            f"{shown_seconds(row.seconds_since)} ago",
        )
    console.print(table)


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
