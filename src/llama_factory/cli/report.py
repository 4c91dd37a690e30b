"""`llama-factory report`."""

from pathlib import Path
from typing import Annotated

import typer

from llama_factory.cli.options import Folder


def report(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="Version id or alias.")] = "production",
    output: Annotated[
        Path | None, typer.Option(help="The HTML file; empty: reports/ in the workspace.")
    ] = None,
) -> None:
    """One version as an HTML page with pictures: verdict, scores, forgetting, changed answers."""
    from llama_factory import run

    print(run.report(folder, name, output))
