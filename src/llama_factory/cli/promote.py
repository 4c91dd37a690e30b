"""`llama-factory promote`."""

from typing import Annotated

import typer

from llama_factory.cli.options import Folder


def promote(
    folder: Folder, name: Annotated[str, typer.Argument(help="Version id or `candidate`.")]
) -> None:
    """Release a version by hand, whatever the gate said."""
    from llama_factory import run

    print(f"{run.promote(folder, name)} is released.")
