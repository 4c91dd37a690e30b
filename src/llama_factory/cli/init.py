"""`llama-factory init`."""

from pathlib import Path
from typing import Annotated

import typer


def init(
    folder: Annotated[Path, typer.Argument(help="The new folder.")],
    model: Annotated[str, typer.Option(help="Short name, folder or hub id.")] = "smollm2",
) -> None:
    """Make a workspace: settings that explain themselves, an inbox, and version v0000."""
    from llama_factory import run

    workspace = run.init(folder, model)
    print(f"Made {workspace.folder}")
    print(f"  1. put .jsonl files into {folder}/inbox/")
    print(f"  2. llama-factory learn {folder}")
