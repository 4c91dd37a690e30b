"""`llama-factory data check`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from llama_factory.cli.options import Changes, Json, Settings


def check(
    path: Annotated[Path, typer.Argument(help="File or folder of rows.")],
    settings: Settings = None,
    changes: Changes = None,
    strict: Annotated[bool, typer.Option(help="Exit with 1 where a row is refused.")] = False,
    as_json: Json = False,
) -> None:
    """What a round would make of these rows: kept, changed, dropped, refused, and why."""
    from llama_factory import run
    from llama_factory.cli.progress import TerminalProgress

    report = run.check_data(path, settings, changes or [], TerminalProgress())
    if as_json:
        print(json.dumps(report.to_json(), indent=2, ensure_ascii=False))
    else:
        from llama_factory.cli.data.tables import print_data_report

        print_data_report(report)
    if strict and report.num_refused:
        raise typer.Exit(1)
