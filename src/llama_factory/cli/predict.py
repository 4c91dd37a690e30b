"""`llama-factory predict`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llama_factory.cli.export import Base, ModelSource, Version
from llama_factory.cli.options import Changes, Json

if TYPE_CHECKING:
    from llama_factory.evaluation.statistics import Estimate


def predict(
    source: ModelSource,
    file: Annotated[Path, typer.Argument(help="Rows to answer.")],
    output: Annotated[Path, typer.Argument(help="The new file, one JSON object a line.")],
    version: Version = None,
    base: Base = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest answer.", min=1)] = None,
    metrics: Annotated[
        str, typer.Option(help="Names with commas; empty: the settings', BLEU-4 and ROUGE.")
    ] = "",
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Answer every row of a file and judge the answers; a stopped run goes on where it was."""
    from llama_factory import run
    from llama_factory.cli.progress import TerminalProgress
    from llama_factory.jobs.trained import Source

    done = run.predict(
        Source(source, version, base, changes or []),
        file,
        output,
        metrics=[name.strip() for name in metrics.split(",") if name.strip()],
        max_new_tokens=max_new_tokens,
        progress=TerminalProgress(),
    )
    if as_json:
        print(json.dumps(done.to_json(), indent=2, ensure_ascii=False))
        return
    print(f"{output}: {done.num_rows} rows, {done.rows_per_second:.2f} rows/s")
    if done.estimates:
        print("In brackets: 95 % intervals.")
    if done.num_refused:
        print(f"  {done.num_refused} rows do not fit the chat template; their answers are empty.")
    if done.num_open:
        print(f"  {done.num_open} rows expect no answer; theirs are not judged.")
    for name, found in done.estimates.items():
        print(f"  predict_{name}  {_told(found)}")


def _told(found: "Estimate") -> str:
    """A score with its interval and the rows that it stands on."""
    from llama_factory.evaluation.wording import with_interval

    if not found.count:
        return "-  no row could be judged"
    return f"{with_interval(found.value, found)}  n = {found.count}"
