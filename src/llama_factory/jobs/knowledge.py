"""What a person does with the documents of a workspace: add, search, measure, propose rows."""

import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_factory.core.errors import DataError
from llama_factory.core.progress import Progress
from llama_factory.core.types import Example, Message
from llama_factory.data.review.cases import Case
from llama_factory.data.review.folder import add_new
from llama_factory.knowledge.documents import DocumentError
from llama_factory.knowledge.embedders import Embedder
from llama_factory.knowledge.folder import UNFINISHED
from llama_factory.knowledge.grounding import grounded
from llama_factory.knowledge.index import IndexedFile
from llama_factory.knowledge.proposals import GroundedAnswer, Proposal, propose
from llama_factory.knowledge.questions import KnownQuestion, holds, recall
from llama_factory.knowledge.readers import reader_of
from llama_factory.knowledge.refresh import Library, Refreshed
from llama_factory.knowledge.retrieval import By, Retriever
from llama_factory.knowledge.settings import KnowledgeSettings
from llama_factory.versions.workspace import Workspace

if TYPE_CHECKING:
    from llama_factory.model.adapted import AdaptedModel

FACT_TOKENS = 48
"""Longest answer in which a fact is looked for."""


def library_of(workspace: Workspace, settings: KnowledgeSettings) -> Library:
    """The documents of a workspace and their index."""
    return Library(workspace.folder / settings.folder, workspace.cache / "knowledge.db", settings)


def add_documents(library: Library, paths: Sequence[Path]) -> tuple[list[str], Refreshed]:
    """Copy files, and those in folders, into the folder of documents, and index them.

    A file of the same name is replaced. Each appears whole or not at all.

    Returns:
        The names of the copies, and what indexing came to.

    Raises:
        DataError: a file is not there, or is of a kind that is not read. Nothing was copied.
    """
    pairs = [pair for path in paths for pair in _copies(path)]
    if not pairs:
        raise DataError(f"{paths[0]} holds no documents." if paths else "name the files to add.")
    for source, name in pairs:
        _copy(source, library.folder / name)
    return [name.as_posix() for _, name in pairs], library.refresh()


def _copies(path: Path) -> Iterator[tuple[Path, Path]]:
    """What is copied and its name in the folder of documents."""
    if path.is_dir():
        for each in sorted(path.rglob("*")):
            name = Path(path.resolve().name) / each.relative_to(path)
            if each.is_file() and not each.is_symlink() and _is_document(name):
                yield each, name
        return
    if not path.is_file():
        raise DataError(f"{path} does not exist, or is no file. Name a document or a folder.")
    try:
        reader_of(path.name)
    except DocumentError as error:
        raise DataError(f"{path}: {error}") from error
    yield path, Path(path.name)


def _is_document(name: Path) -> bool:
    if any(part.startswith(".") for part in name.parts) or name.name.endswith(UNFINISHED):
        return False
    try:
        reader_of(name.name)
    except DocumentError:
        return False
    return True


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and source.samefile(target):
        return
    temporary = target.with_name(f".{uuid.uuid4().hex[:8]}.tmp")
    try:
        shutil.copyfile(source, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class KnowledgeStatus:
    """How the documents of a workspace stand.

    Attributes:
        folder: where they are.
        files: each of them, by name.
        num_vectors: passages that have a vector.
    """

    folder: Path
    files: tuple[IndexedFile, ...]
    num_vectors: int

    @property
    def num_passages(self) -> int:
        """Of all documents."""
        return sum(each.num_chunks for each in self.files)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        listed = [
            {
                "file": each.name,
                "bytes": each.num_bytes,
                "passages": each.num_chunks,
                "left_out": each.refused or None,
                "note": each.note or None,
            }
            for each in self.files
        ]
        numbers = {"passages": self.num_passages, "vectors": self.num_vectors}
        return {"folder": str(self.folder), **numbers, "files": listed}


def status(library: Library) -> KnowledgeStatus:
    """How the documents stand, after a look at the folder."""
    library.refresh()
    with library.opened() as index:
        files = tuple(index.files().values())
        return KnowledgeStatus(library.folder, files, len(index.matrix()[0]))


def ready(library: Library, embedder: Embedder | None) -> Retriever:
    """A retriever whose index is up to date.

    Raises:
        DataError: there are no documents.
    """
    if not library.folder.is_dir():
        raise DataError(
            f"{library.folder} does not exist: there are no documents. Add some with "
            "`llama-factory knowledge FOLDER add FILE`."
        )
    library.refresh()
    if embedder is not None:
        library.embed(embedder)
    return Retriever(library, embedder)


@dataclass(frozen=True)
class FactScore:
    """How many facts a version says rightly, without and with documents.

    Attributes:
        num: questions with a known fact.
        without: right answers without documents.
        with_documents: right answers with them.
        answers: question, and both answers.
    """

    num: int
    without: int
    with_documents: int
    answers: tuple[tuple[str, str, str], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        names = ("question", "without", "with_documents")
        return {
            "questions": self.num,
            "without": round(self.without / self.num, 4),
            "with_documents": round(self.with_documents / self.num, 4),
            "answers": [dict(zip(names, each, strict=True)) for each in self.answers],
        }


@dataclass(frozen=True)
class KnowledgeScores:
    """How well documents are found and used.

    Attributes:
        top_k: passages that were looked at.
        recalls: by what they were found by.
        facts: of a version; None where no question has a known fact or no model was asked.
    """

    top_k: int
    recalls: dict[By, dict[str, Any]]
    facts: FactScore | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        facts = self.facts.to_json() if self.facts else None
        return {"top_k": self.top_k, "recall": self.recalls, "facts": facts}


def evaluate(
    retriever: Retriever,
    questions: Sequence[KnownQuestion],
    top_k: int,
    model: "AdaptedModel | None" = None,
    *,
    progress: Progress,
) -> KnowledgeScores:
    """Recall by words, vectors and both; and how a model answers without and with documents."""
    ways: tuple[By, ...] = (
        ("words",) if retriever.embedder is None else ("words", "vectors", "both")
    )
    recalls: dict[By, dict[str, Any]] = {
        by: recall(retriever, questions, top_k, by).to_json() for by in ways
    }
    facts = [each for each in questions if each.answer]
    if model is None or not facts:
        return KnowledgeScores(top_k, recalls)
    return KnowledgeScores(top_k, recalls, answer_facts(model, retriever, facts, progress=progress))


def answer_facts(
    model: "AdaptedModel",
    retriever: Retriever,
    questions: Sequence[KnownQuestion],
    *,
    progress: Progress,
) -> FactScore:
    """How many facts a model says word for word, without and with documents; greedy answers."""
    from llama_factory.evaluation.answering import greedy_answers

    plain = [_row((Message("user", each.question),), each) for each in questions]
    filled = []
    for each, row in zip(questions, plain, strict=True):
        found = retriever.search(each.question)
        filled.append(_row(grounded(row.prompt, found), each))
    with progress.bar("answering", 2 * len(questions)) as bar:
        texts = [
            [a.text for a in greedy_answers(model, rows, max_new_tokens=FACT_TOKENS, bar=bar)]
            for rows in (plain, filled)
        ]
    right = [
        sum(holds(text, each.answer) for text, each in zip(answers, questions, strict=True))
        for answers in texts
    ]
    listed = zip((each.question for each in questions), *texts, strict=True)
    return FactScore(len(questions), right[0], right[1], tuple(listed))


def _row(prompt: tuple[Message, ...], question: KnownQuestion) -> Example:
    return Example((*prompt, Message("assistant", question.answer)), question.group, "", 0)


def propose_rows(
    library: Library, review: Path, answers: Iterable[GroundedAnswer], at_least: int
) -> tuple[list[Proposal], list[Case]]:
    """Offer what is asked often and answered from documents as cases of the review.

    Returns:
        All proposals, and the cases that are new.
    """
    library.refresh()
    with library.opened() as index:
        found = propose(answers, lambda key: index.passage_text(bytes.fromhex(key)), at_least)
    return found, add_new(review, [each.case for each in found])
