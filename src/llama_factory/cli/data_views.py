"""The commands that look at rows: `data stats` and `data preview`."""

from itertools import islice
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from llama_factory.cli.options import Changes, Json
from llama_factory.cli.terminal import console, print_json
from llama_factory.core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from llama_factory.core.types import Example
    from llama_factory.data.reading import Refused
    from llama_factory.data.settings import DataSettings
    from llama_factory.data.stats import DataStats, Histogram
    from llama_factory.model.chat.preview import Piece, RowPreview
    from llama_factory.model.settings import ModelSettings


MOST_LINES = 20
MOST_CHARACTERS = 150
"""Of a reason; the report of `data check` has them whole."""


def stats(
    path: Annotated[Path, typer.Argument(help="File or folder of rows.")],
    picture: Annotated[Path | None, typer.Option(help="Draw lengths, groups ... as PNG.")] = None,
    as_json: Json = False,
) -> None:
    """What rows are made of: groups, kinds, languages, lengths, duplicates, refused ones."""
    from llama_factory.data.stats import collect

    counted = collect(_rows(path))
    if picture:
        from llama_factory.reports.data_pictures import draw_stats

        draw_stats(counted, picture)
    if as_json:
        print_json(counted.to_json())
        return
    _print_stats(counted)
    if picture:
        print(f"Picture: {picture}")


def _rows(path: Path) -> "Iterator[Example | Refused]":
    from llama_factory.data.settings import DataSettings
    from llama_factory.data.sources.named import gather_path
    from llama_factory.data.stats import rows_in

    return rows_in(gather_path(path, DataSettings()))


def _print_stats(stats: "DataStats") -> None:
    duplicates = _share(stats.num_duplicates, stats.num_compared)
    refused = _share(stats.num_refused, stats.num_rows + stats.num_refused)
    console.print(
        f"[bold]{stats.num_rows:,} rows[/], {duplicates} exact duplicates, {refused} refused"
    )
    if stats.num_compared < stats.num_rows:
        console.print(f"Only the first {stats.num_compared:,} rows were looked at for duplicates.")
    console.print(_counts(stats))
    _print_lengths(stats)


def _counts(stats: "DataStats") -> Table:
    """One table of all counts, a section for each kind of them."""
    table = Table("", "")
    table.add_column("rows", justify="right")
    table.add_column("share", justify="right")
    turns = {f"{n} answer{'s' * (n > 1)}": stats.turns[n] for n in sorted(stats.turns)}
    for title, counts in (
        ("group", _ranked(stats.groups)),
        ("file", _ranked(stats.files)),
        ("kind", _ranked(stats.kinds)),
        ("language of the answer", _ranked(stats.languages)),
        ("turns", turns),
        ("with", _ranked(stats.features)),
    ):
        _add_section(table, title, counts, stats.num_rows)
    _add_section(table, "refused", _ranked(stats.refused), stats.num_refused)
    return table


def _ranked(counts: "Mapping[str, int]") -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _add_section(table: Table, title: str, counts: "Mapping[str, int]", total: int) -> None:
    named = list(counts.items())
    lines = named[:MOST_LINES]
    if named[MOST_LINES:]:
        rest = sum(count for _, count in named[MOST_LINES:])
        lines.append((f"{len(named) - MOST_LINES:,} others", rest))
    for place, (name, count) in enumerate(lines):
        label = "" if place else f"[bold]{title}[/]"
        table.add_row(
            label,
            escape(shorten(name, MOST_CHARACTERS, placeholder=" …")),
            f"{count:,}",
            f"{count / total:.1%}",
        )
    table.add_section()


def _print_lengths(stats: "DataStats") -> None:
    table = Table("length")
    for column in ("min", "5 %", "median", "mean", "95 %", "99 %", "max", "total"):
        table.add_column(column, justify="right")
    lengths = {
        "prompt, characters": stats.prompts,
        "answer or text, characters": stats.answers,
        "row, tokens": stats.tokens,
    }
    for name, histogram in lengths.items():
        if histogram and histogram.num_values:
            table.add_row(name, *_numbers(histogram))
    if table.row_count:
        console.print(table)


def _numbers(lengths: "Histogram") -> list[str]:
    p5, median, p95, p99 = map(lengths.percentile, (5, 50, 95, 99))
    numbers = (lengths.smallest, p5, median, round(lengths.mean), p95, p99, lengths.largest)
    return [f"{number:,}" for number in (*numbers, lengths.total)]


def _share(count: int, total: int) -> str:
    return f"{count:,} ({count / max(total, 1):.1%})" if count else "0"


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
        print_json([row.to_json() for row in shown])
        return
    for row in shown:
        _print_row(row)


def _previews(
    file: Path, model: "ModelSettings", data: "DataSettings", num_rows: int
) -> "Iterator[RowPreview]":
    """The file's first rows; those that cannot be read come with the reason."""
    from llama_factory.data.reading import Refused, read_examples
    from llama_factory.model.base import load_tokenizer
    from llama_factory.model.chat.encoding import encode_options
    from llama_factory.model.chat.preview import RowPreview, preview
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


def _coloured(row: "RowPreview", *, marked: bool) -> Text:
    """The row's text in colour; where colours are lost, trained text stands in brackets."""
    text = Text()
    was_trained = False
    for piece in row.pieces:
        if marked and piece.is_trained != was_trained:
            text.append("⟦" if piece.is_trained else "⟧")
        text.append(piece.text, _style_of(piece))
        was_trained = piece.is_trained
    if marked and was_trained:
        text.append("⟧")
    return text


def _style_of(piece: "Piece") -> str:
    if piece.is_special:
        return SPECIAL_TRAINED if piece.is_trained else SPECIAL_ASKED
    return TRAINED if piece.is_trained else ASKED
