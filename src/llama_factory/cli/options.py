"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[Path, typer.Argument(help="The workspace, a folder made by `init`.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change one setting: --set training.learning_rate=1e-4"),
]
Settings = Annotated[
    Path | None,
    typer.Option("--settings", help="A settings file or workspace whose `data:` section holds."),
]
