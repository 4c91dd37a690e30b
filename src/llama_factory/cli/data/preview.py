"""`llama-factory data preview`."""

import json
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llama_factory.cli.options import Changes, Json
from llama_factory.core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.text import Text

    from llama_factory.data.settings import DataSettings
    from llama_factory.model.chat.preview import Piece, RowPreview
    from llama_factory.model.settings import ModelSettings

TRAINED, ASKED = "black on green", "dim"
SPECIAL_TRAINED, SPECIAL_ASKED = "bold white on dark_green", "magenta"


def preview(
    file: Annotated[Path, typer.Argument(help="File of rows.")],
    model: Annotated[str, typer.Option(help="Whose tokenizer: a name, folder or hub id.")],
    rows: Annotated[int, typer.Option(min=1, help="How many rows to show.")] = 5,
    template: Annotated[str | None, typer.Option(help="A named chat template.")] = None,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Rows as the model is taught them: trained tokens in green, lengths, what is cut and why.

    `--set data.max_tokens=512`, `data.mask_history=true` and the like change how they are cut.
    """
    from llama_factory.config.loading import load_config

    config = load_config(None, changes or [])
    wanted = config.model.model_copy(update={"base_model": model, "template": template})
    shown = list(_previews(file, wanted, config.data, rows))
    if as_json:
        print(json.dumps([row.to_json() for row in shown], indent=2, ensure_ascii=False))
        return
    for row in shown:
        _print_row(row)


def _previews(
    file: Path, model: "ModelSettings", data: "DataSettings", num_rows: int
) -> "Iterator[RowPreview]":
    """The file's first rows; those that cannot be read come with the reason."""
    from llama_factory.continual.encoding import encode_options
    from llama_factory.data.reading import Refused, read_examples
    from llama_factory.model.chat.preview import RowPreview, preview
    from llama_factory.model.load import load_tokenizer
    from llama_factory.model.source import resolve_tokenizer

    tokenizer = load_tokenizer(
        resolve_tokenizer(model.base_model),
        trust_remote_code=model.trust_remote_code,
        template=model.template,
        replaces=model.replace_template,
    )
    try:
        for row in islice(read_examples(file), num_rows):
            if isinstance(row, Refused):
                yield RowPreview(row.file, row.line, reason=row.reason)
            else:
                yield from preview(row, tokenizer, encode_options(data))
    except DataError as error:
        raise DataError(f"{file}: {error}") from error


def _print_row(row: "RowPreview") -> None:
    from llama_factory.cli.tables import console

    place = f"{row.file}:{row.line}" + (f" {row.answer}" if row.answer else "")
    if row.reason:
        console.rule(f"[bold red]{place}[/] cannot be taught", align="left", style="red")
        console.print(row.reason, markup=False, soft_wrap=True)
        return
    counts = f"{row.num_tokens} tokens, {row.num_trained} trained, {row.num_characters} characters"
    console.rule(f"[bold]{place}[/]  {counts}", align="left")
    if row.lost_tokens:
        turns = f", among them its oldest {row.lost_turns} turns" if row.lost_turns else ""
        console.print(f"[yellow]too long: {row.lost_tokens} tokens are left out{turns}[/]")
    console.print(_coloured(row, marked=not console.is_terminal), soft_wrap=True)


def _coloured(row: "RowPreview", *, marked: bool) -> "Text":
    """The row's text in colour; where colours are lost, trained text stands in brackets."""
    from rich.text import Text

    text = Text()
    was_trained = False
    for piece in row.pieces:
        if marked and piece.is_trained != was_trained:
            text.append("⟦" if piece.is_trained else "⟧")
        text.append(piece.text, _style(piece))
        was_trained = piece.is_trained
    if marked and was_trained:
        text.append("⟧")
    return text


def _style(piece: "Piece") -> str:
    if piece.is_special:
        return SPECIAL_TRAINED if piece.is_trained else SPECIAL_ASKED
    return TRAINED if piece.is_trained else ASKED
