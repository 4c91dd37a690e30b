"""`llama-factory serve`."""

from typing import Annotated

import typer

from llama_factory.cli.options import Changes, Folder


def serve(
    folder: Folder,
    port: Annotated[int | None, typer.Option(help="0 takes any free port.")] = None,
    host: Annotated[str | None, typer.Option(help="0.0.0.0 opens it to the network.")] = None,
    changes: Changes = None,
) -> None:
    """OpenAI-style API for the released version. The key is the environment's API_KEY."""
    from llama_factory import run

    chosen = [f"serving.port={port}"] if port is not None else []
    chosen += [f"serving.host={host}"] if host is not None else []
    run.serve(folder, [*(changes or []), *chosen], lambda text: print(text, flush=True))
