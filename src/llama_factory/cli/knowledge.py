"""`llama-factory knowledge`."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama_factory.cli.options import Changes, Folder, Json
from llama_factory.cli.terminal import TerminalProgress, console, print_json
from llama_factory.core.errors import ConfigError

if TYPE_CHECKING:
    from llama_factory.jobs.knowledge import KnowledgeStatus
    from llama_factory.knowledge.retrieval import Passage

MOST_CHARACTERS = 300


class KnowledgeAction(StrEnum):
    """What is done with documents."""

    STATUS = "status"
    ADD = "add"
    SEARCH = "search"
    EVALUATE = "evaluate"
    PROPOSE = "propose"


class SearchedBy(StrEnum):
    """What passages are found by."""

    WORDS = "words"
    VECTORS = "vectors"
    BOTH = "both"


def knowledge(
    folder: Folder,
    action: Annotated[KnowledgeAction, typer.Argument(help="What to do.")] = KnowledgeAction.STATUS,
    words: Annotated[
        list[str] | None,
        typer.Argument(help="Files to add, the question, or the file of questions."),
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=1, max=50, help="Most passages.")] = None,
    by: Annotated[SearchedBy, typer.Option(help="What to search by.")] = SearchedBy.BOTH,
    version: Annotated[
        str | None, typer.Option(help="Evaluate: id or alias; empty: the released one.")
    ] = None,
    model: Annotated[
        bool, typer.Option(help="Evaluate: whether the version is asked as well.")
    ] = True,
    at_least: Annotated[int, typer.Option(min=1, help="Propose: what was asked so often.")] = 3,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Documents that answers draw on: add, search, status; measure them; propose rows to teach."""
    given = words or []
    if action is KnowledgeAction.ADD:
        result = _add(folder, given, changes)
    elif action is KnowledgeAction.SEARCH:
        result = _search(folder, given, top_k, by, changes)
    elif action is KnowledgeAction.EVALUATE:
        result = _evaluate(folder, given, top_k or 5, version, changes, asks_model=model)
    elif action is KnowledgeAction.PROPOSE:
        result = _propose(folder, at_least, changes)
    else:
        result = _status(folder, changes)
    shown, lines = result
    if as_json:
        print_json(shown)
        return
    for line in lines:
        console.print(line)


Shown = tuple[Any, list[Any]]
"""The result for programs, and for people."""


def _add(folder: Path, words: list[str], changes: list[str] | None) -> Shown:
    from llama_factory import curate

    if not words:
        raise ConfigError("add: name files or folders, such as `knowledge my-bot add faq.txt`.")
    copied, done = curate.add_knowledge(folder, words, changes or ())
    lines: list[Any] = [_plain(f"{len(copied)} added, {len(done.read)} read.")]
    lines += [_plain(f"Left out: {name} {why}", "yellow") for name, why in done.refused.items()]
    return {"added": copied, "read": done.read, "left_out": done.refused}, lines


def _search(
    folder: Path, words: list[str], top_k: int | None, by: SearchedBy, changes: list[str] | None
) -> Shown:
    from llama_factory import curate

    question = " ".join(words)
    if not question.strip():
        raise ConfigError('search: give a question, such as `knowledge my-bot search "warranty"`.')
    found = curate.search_knowledge(folder, question, top_k, by.value, changes or ())
    lines = [part for number, each in enumerate(found, 1) for part in _passage(number, each)]
    return [each.to_json() for each in found], lines or [_plain("Nothing fits.", "yellow")]


def _passage(number: int, passage: "Passage") -> list[Any]:
    where = ", ".join(filter(None, (passage.file, passage.heading, passage.place)))
    text = " ".join(passage.text.split())
    short = text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 3]}..."
    return [_plain(f"[{number}] {where}", "bold"), _plain(f"    {short}")]


def _evaluate(
    folder: Path,
    words: list[str],
    top_k: int,
    version: str | None,
    changes: list[str] | None,
    *,
    asks_model: bool,
) -> Shown:
    from llama_factory import curate
    from llama_factory.jobs.model_reference import ModelReference

    if len(words) != 1:
        raise ConfigError("evaluate: name one file of questions (JSON lines).")
    reference = ModelReference(str(folder), version, changes=changes or ())
    scores = curate.evaluate_knowledge(
        reference, words[0], top_k, asks_model=asks_model, progress=TerminalProgress()
    )
    lines = [
        _plain(f"{by}: {_percent(each['recall'])} of {each['questions']} right passages in {top_k}")
        for by, each in scores.recalls.items()
    ]
    if facts := scores.facts:
        lines.append(
            _plain(
                f"facts said rightly, of {facts.num}: {facts.without} without documents, "
                f"{facts.with_documents} with them"
            )
        )
    return scores.to_json(), lines


def _percent(value: Any) -> str:
    return "none" if value is None else f"{100 * value:.1f} %"


def _propose(folder: Path, at_least: int, changes: list[str] | None) -> Shown:
    from llama_factory import curate

    found, new = curate.propose_knowledge(folder, at_least, changes or ())
    lines = [_plain(f"{each.num_asked} x {each.question} -> {each.answer}") for each in found]
    lines.append(
        _plain(f"{len(found)} proposals, {len(new)} new: `llama-factory data review {folder}`.")
    )
    ids = {case.id for case in new}
    listed = [each.to_json() for each in found]
    return [each | {"is_new": each["id"] in ids} for each in listed], lines


def _status(folder: Path, changes: list[str] | None) -> Shown:
    from llama_factory import curate

    status = curate.knowledge_status(folder, changes or ())
    return status.to_json(), _table(status)


def _table(status: "KnowledgeStatus") -> list[Any]:
    from rich.table import Table
    from rich.text import Text

    table = Table("document", "KB", "passages", "left out, or noted")
    for each in status.files:
        why = each.refused or each.note
        size = f"{each.num_bytes / 1000:,.1f}"
        table.add_row(Text(each.name), size, str(each.num_chunks), Text(why))
    head = f"{len(status.files)} documents, {status.num_passages} passages in {status.folder}"
    vectors = f", {status.num_vectors} of them with vectors" if status.num_vectors else ""
    return [table, _plain(head + vectors)]


def _plain(text: str, style: str = "") -> Any:
    """Text that is shown as it is: what stands in documents may look like markup."""
    from rich.text import Text

    from llama_factory.cli.case_view import visible

    return Text(visible(text), style=style)
