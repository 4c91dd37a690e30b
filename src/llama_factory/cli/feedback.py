"""`llama-factory feedback`."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llama_factory.cli.options import Folder, Json
from llama_factory.cli.review import login_name
from llama_factory.cli.terminal import console, print_json
from llama_factory.core.errors import ConfigError

if TYPE_CHECKING:
    from llama_factory.jobs.feedback import FeedbackFilter, FeedbackRow

MOST_CHARACTERS = 40


class FeedbackAction(StrEnum):
    """What is done with feedback."""

    LIST = "list"
    ACCEPT = "accept"
    REJECT = "reject"
    EXPORT = "export"


class FeedbackRating(StrEnum):
    """Whether the answer was liked."""

    UP = "up"
    DOWN = "down"


class FeedbackStanding(StrEnum):
    """How feedback stands."""

    WAITING = "waiting"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    REPLACED = "replaced"


def feedback(
    folder: Folder,
    action: Annotated[FeedbackAction, typer.Argument(help="What to do.")] = FeedbackAction.LIST,
    ids: Annotated[
        list[str] | None, typer.Argument(help="Of the feedback, or the beginnings of them.")
    ] = None,
    take_all: Annotated[
        bool, typer.Option("--all", help="Decide all that waits and that the filters take.")
    ] = False,
    rating: Annotated[FeedbackRating | None, typer.Option(help="Only these.")] = None,
    version: Annotated[str | None, typer.Option(help="Only on answers of this version.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Only from this day on (2026-11-30), or 7d, or 12h.")
    ] = None,
    state: Annotated[FeedbackStanding | None, typer.Option(help="Only these.")] = None,
    reviewer: Annotated[
        str | None, typer.Option(help="Who decides; empty: the login name.")
    ] = None,
    answer: Annotated[str, typer.Option(help="Accept with this as the right answer instead.")] = "",
    note: Annotated[str, typer.Option(help="Why; kept with the decision.")] = "",
    kinds: Annotated[
        str, typer.Option(help="Rows to export: answer, pair, judged; with commas.")
    ] = "answer",
    output: Annotated[Path | None, typer.Option(help="The file to export to (JSON lines).")] = None,
    as_json: Json = False,
) -> None:
    """What users said of answers: list it, decide what rounds teach, export it as rows.

    `data review` shows the same cases one by one, and takes decisions back.
    """
    from llama_factory import operate
    from llama_factory.jobs.feedback import FeedbackFilter

    chosen = FeedbackFilter(
        rating.value if rating else None, version, since, state.value if state else None
    )
    if action is FeedbackAction.LIST:
        _list(operate.feedback(folder, chosen), as_json=as_json)
    elif action is FeedbackAction.EXPORT:
        _export(folder, chosen, kinds, output, as_json=as_json)
    else:
        named = _named(folder, action, ids, chosen, take_all=take_all)
        decided = operate.decide_feedback(
            folder,
            named,
            login_name(reviewer),
            accept=action is FeedbackAction.ACCEPT,
            answer=answer,
            why=note,
        )
        if as_json:
            print_json([{"id": case.id, "state": case.state} for case in decided])
            return
        print(f"{len(decided)} {action}ed. Rounds take what is accepted: llama-factory learn.")


def _named(
    folder: Path,
    action: FeedbackAction,
    ids: list[str] | None,
    chosen: "FeedbackFilter",
    *,
    take_all: bool,
) -> list[str]:
    if bool(ids) == take_all:
        raise ConfigError(
            f"which feedback is meant? llama-factory feedback ... {action} ID, or --all with "
            "filters such as --rating down."
        )
    if ids:
        return ids
    from dataclasses import replace

    from llama_factory import operate

    waiting = replace(chosen, state="waiting")
    return [row.judged.feedback.id for row in operate.feedback(folder, waiting)]


def _export(
    folder: Path, chosen: "FeedbackFilter", kinds: str, output: Path | None, *, as_json: bool
) -> None:
    from llama_factory import operate
    from llama_factory.core.errors import suggest
    from llama_factory.data.sources.feedback import KINDS

    if output is None:
        raise ConfigError("export: name the file with --output, such as --output feedback.jsonl.")
    words = [word.strip() for word in kinds.split(",") if word.strip()]
    for word in words:
        if word not in KINDS:
            hint = suggest(word, KINDS)
            raise ConfigError(f"--kinds: there is no '{word}'.{hint} There are {', '.join(KINDS)}.")
    wanted = [kind for kind in KINDS if kind in words]
    count = operate.export_feedback(folder, output, chosen, wanted)
    print_json({"rows": count, "output": str(output)}) if as_json else print(
        f"{count} rows: {output}"
    )


def _list(rows: "list[FeedbackRow]", *, as_json: bool) -> None:
    if as_json:
        print_json([row.to_json() for row in rows])
        return
    from rich.table import Table
    from rich.text import Text

    table = Table("feedback", "when (UTC)", "version", "", "state", "asked", "answered", "right")
    for row in rows:
        each = row.judged.feedback
        texts = (
            each.row.prompt[-1].content,
            each.row.answer,
            row.judged.claimed.answer if row.judged.is_correction else each.comment,
        )
        standing = f"taught in {row.taught_in}" if row.taught_in else row.judged.state
        cells = (each.id[:8], each.when[:16].replace("T", " "), each.version, each.rating)
        table.add_row(*map(Text, (*cells, standing, *map(_short, texts))))
    console.print(table)
    waiting = sum(row.judged.state == "waiting" for row in rows)
    if waiting:
        print(f"{waiting} wait for a person: `feedback ... accept ID`, or `data review`.")


def _short(text: str) -> str:
    from llama_factory.cli.case_view import visible

    plain = " ".join(visible(text).split())
    return plain if len(plain) <= MOST_CHARACTERS else f"{plain[: MOST_CHARACTERS - 3]}..."
