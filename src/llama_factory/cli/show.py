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
    curves: Annotated[
        Path | None, typer.Option(help="Draw the scores from version to version as PNG here.")
    ] = None,
    as_json: Json = False,
) -> None:
    """One version: what was learned, what was forgotten, which rows were kept and dropped."""
    from llama_factory import run

    story = run.show(folder, name, picture, curves=curves)
    if as_json:
        print(json.dumps(story.to_json(), indent=2, ensure_ascii=False))
        return
    from llama_factory.cli.tables import print_story
    from llama_factory.rounds.gate import read_verdict

    print_story(story, read_verdict(story.report))
    for path in (picture, curves):
        if path and story.matrices:
            print(f"Picture: {path}")
        elif path:
            print(f"No picture {path}: {story.version.id} was taught nothing that has a score.")
