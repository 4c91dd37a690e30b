"""`llama-factory data stats`."""

import json
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated

import typer

from llama_factory.cli.options import Json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.table import Table

    from llama_factory.core.types import Example
    from llama_factory.data.reading import Refused
    from llama_factory.data.stats import DataStats, Histogram

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
        print(json.dumps(counted.to_json(), indent=2, ensure_ascii=False))
        return
    _print_stats(counted)
    if picture:
        print(f"Picture: {picture}")


def _rows(path: Path) -> "Iterator[Example | Refused]":
    from llama_factory.data.settings import DataSettings
    from llama_factory.data.sources.gather import gather_path
    from llama_factory.data.stats import rows_in

    return rows_in(gather_path(path, DataSettings()))


def _print_stats(stats: "DataStats") -> None:
    from llama_factory.cli.tables import console

    duplicates = _share(stats.num_duplicates, stats.num_compared)
    refused = _share(stats.num_refused, stats.num_rows + stats.num_refused)
    console.print(
        f"[bold]{stats.num_rows:,} rows[/], {duplicates} exact duplicates, {refused} refused"
    )
    if stats.num_compared < stats.num_rows:
        console.print(f"Only the first {stats.num_compared:,} rows were looked at for duplicates.")
    console.print(_counts(stats))
    _print_lengths(stats)


def _counts(stats: "DataStats") -> "Table":
    """One table of all counts, a section for each kind of them."""
    from rich.table import Table

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


def _add_section(table: "Table", title: str, counts: "Mapping[str, int]", total: int) -> None:
    from rich.markup import escape

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
    from rich.table import Table

    from llama_factory.cli.tables import console

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
