"""`llama-factory show`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from llama_factory.cli.options import Folder, Json


def show(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="Version id or alias.")] = "production",
    picture: Annotated[Path | None, typer.Option(help="Draw the matrix as PNG here.")] = None,
    as_json: Json = False,
) -> None:
    """One version: what was learned, what was forgotten, which rows were kept and dropped."""
    from llama_factory import run

    story = run.show(folder, name, picture)
    if as_json:
        print(json.dumps(story.to_json(), indent=2, ensure_ascii=False))
        return
    from llama_factory.cli.tables import print_story
    from llama_factory.continual.gate import read_verdict

    print_story(story, read_verdict(story.report))
    if picture:
        print(f"Picture: {picture}")
