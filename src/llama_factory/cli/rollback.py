"""`llama-factory rollback`."""

from typing import Annotated

import typer

from llama_factory.cli.options import Folder


def rollback(
    folder: Folder,
    to: Annotated[str | None, typer.Option(help="Version id; empty: the one before.")] = None,
) -> None:
    """Release an earlier version again; a running server follows within two seconds."""
    from llama_factory import run

    before, now = run.rollback(folder, to)
    print(f"Rolled back from {before} to {now}.")
