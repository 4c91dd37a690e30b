"""The command `plan`: what training a model needs on which accelerators."""

from pathlib import Path
from typing import Annotated

import typer

from llama_factory.cli.options import Changes, Json, SettingsWords, read_words
from llama_factory.cli.terminal import print_json


def plan(
    words: SettingsWords = None,
    model: Annotated[
        str | None, typer.Option("--model", help="A model's name, folder or hub id.")
    ] = None,
    gpus: Annotated[
        str, typer.Option("--gpus", help="Which and how many: 8xA100-40, or 2x24G for any.")
    ] = "1xA100-80",
    method: Annotated[
        str | None, typer.Option("--method", help="What trains: lora, qlora, full, ...")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option("--tokens", help="That each computes at once.", min=1)
    ] = None,
    trained_tokens: Annotated[
        int | None, typer.Option("--trained-tokens", help="Of the whole run, for time and cost.")
    ] = None,
    accelerators: Annotated[
        Path | None, typer.Option("--accelerators", help="A YAML file with more of them.")
    ] = None,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Memory, time and cost of training on accelerators, from a model's config alone."""
    from llama_factory import experiment

    said = read_words(words or [])
    chosen = [f"model.base_model={model}"] if model else []
    chosen += [f"model.adapter={method}"] if method else []
    found = experiment.plan(
        said.path,
        [*said.changes, *(changes or []), *chosen],
        gpus=gpus,
        tokens=tokens,
        trained_tokens=trained_tokens,
        accelerators=accelerators,
    )
    print_json(found.to_json()) if as_json else print(found)
