"""`llama-factory export`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llama_factory.cli.options import Changes, Json
from llama_factory.config.dialects.llama_factory.exporting import read_export_request
from llama_factory.core.errors import ConfigError

if TYPE_CHECKING:
    from llama_factory.model.export import Exported

ModelSource = Annotated[
    str,
    typer.Argument(
        help="A workspace, adapter folders with commas between them, or LLaMA-Factory's YAML."
    ),
]
Version = Annotated[str | None, typer.Option(help="Version id or alias, of a workspace.")]
Base = Annotated[str | None, typer.Option(help="Base model; empty: the one the adapter names.")]


def export(
    source: ModelSource,
    output: Annotated[Path | None, typer.Argument(help="The new folder.")] = None,
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
    from llama_factory import run
    from llama_factory.cli.progress import TerminalProgress
    from llama_factory.jobs.trained import Source

    if source.endswith((".yaml", ".yml")):
        asked = read_export_request(Path(source))
        source, base, dtype, shard_size = asked.source, asked.base, asked.dtype, asked.shard_size
        output, changes = output or Path(asked.output), [*asked.changes, *(changes or [])]
    if output is None:
        raise ConfigError("OUTPUT: not given. Name the new folder.")
    done = run.export(
        Source(source, version, base, changes or []),
        output,
        prompts=prompts,
        dtype=dtype,
        shard_size=shard_size,
        progress=TerminalProgress(),
    )
    if as_json:
        print(json.dumps(done.to_json(), indent=2, ensure_ascii=False))
        return
    _print(done)


def _print(done: "Exported") -> None:
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
