"""`llama-factory data clean`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from llama_factory.cli.options import Changes, Json, Settings


def clean(
    path: Annotated[Path, typer.Argument(help="File or folder of rows.")],
    output: Annotated[Path, typer.Argument(help="New folder for the clean rows.")],
    settings: Settings = None,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Write the clean rows: train.jsonl, held_out.jsonl, refused.jsonl and report.json."""
    from llama_factory import run
    from llama_factory.cli.progress import TerminalProgress

    report = run.clean_data(path, output, settings, changes or [], TerminalProgress())
    if as_json:
        print(json.dumps(report.to_json(), indent=2, ensure_ascii=False))
        return
    from llama_factory.cli.data.tables import print_data_report

    print_data_report(report)
    kept, held = sum(report.kept.values()), sum(report.held_out.values())
    print(f"{kept} rows to teach and {held} to test: {output}")
