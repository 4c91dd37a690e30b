"""The verbs of whoever looks after rows and documents, each in a few lines: what waits, what is in
dispute, what was ever taught, what answers draw on. As those of `run.py`.

What a person can mend is a `FactoryError` whose message tells how.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from llama_factory import run
from llama_factory.config.changes import Changes
from llama_factory.config.loading import load_to_answer
from llama_factory.core.errors import DataError
from llama_factory.core.progress import SILENT, Progress
from llama_factory.core.sentences import kind_of_sentence as kind
from llama_factory.data.review import folder as reviews
from llama_factory.data.review.case_book import read_book
from llama_factory.data.review.cases import Case, Choice
from llama_factory.data.review.feedback import note_feedback
from llama_factory.data.review.folder import ReviewSummary
from llama_factory.data.settings import private_data_of
from llama_factory.data.sources.feedback import read_feedback
from llama_factory.jobs import inbox as inboxes
from llama_factory.jobs import uploads as transfers
from llama_factory.jobs import votes as ballots
from llama_factory.jobs.inbox import RefusedFile, WaitingFile
from llama_factory.jobs.model_reference import ModelLike, ModelReference
from llama_factory.jobs.taught import TaughtRows, search_taught
from llama_factory.jobs.uploads import PieceWriter, Upload
from llama_factory.jobs.votes import AnswerPair, Duel, PairedAnswer
from llama_factory.versions.workspace import PathLike, Workspace

TOO_LARGE = kind(
    "problem.too_large_to_check",
    "{name} has more than {most} MB. Check it on the command line: llama-factory data "
    "check {path} --settings {settings}",
)
QUARANTINE_DAMAGED = kind(
    "problem.quarantine_damaged",
    "{folder}: a line of its .rows.jsonl files cannot be read ({error}). Mend the line, "
    "or move the file elsewhere.",
)

if TYPE_CHECKING:
    from llama_factory.config.schema import RunConfig
    from llama_factory.data.cleaning_report import DataReport
    from llama_factory.jobs.forgetting import MarkedRow
    from llama_factory.jobs.knowledge import KnowledgeScores, KnowledgeStatus
    from llama_factory.jobs.row_statistics import RowStatistics
    from llama_factory.knowledge.proposals import Proposal
    from llama_factory.knowledge.refresh import Refreshed
    from llama_factory.knowledge.retrieval import By, Passage
    from llama_factory.versions.forgotten import ForgottenRow

MOST_CHECKED_BYTES = 32_000_000
"""Larger files are checked on the command line, where a bar shows how far it is."""


@dataclass(frozen=True)
class Quarantine:
    """What was refused.

    Attributes:
        rows: refused rows that nobody has decided about.
        files: whole files.
    """

    rows: tuple[Case, ...]
    files: tuple[RefusedFile, ...]


def inbox(folder: PathLike) -> list[WaitingFile]:
    """The files that wait to be taught."""
    return inboxes.list_inbox(Workspace.open(folder))


def receive(folder: PathLike, name: str) -> AbstractContextManager[BinaryIO]:
    """Write a new file of the inbox; it appears once it is whole, and replaces none."""
    return inboxes.receiving(Workspace.open(folder), name)


def begin_upload(folder: PathLike, who: str, name: str, num_bytes: int, stamp: str = "") -> Upload:
    """Begin to send a large file to the inbox in pieces, or go on with one."""
    return transfers.begin_upload(Workspace.open(folder), who, name, num_bytes, stamp)


def add_to_upload(
    folder: PathLike, upload_id: str, offset: int
) -> AbstractContextManager[PieceWriter]:
    """Write the next piece of such a file."""
    return transfers.adding(Workspace.open(folder), upload_id, offset)


def finish_upload(folder: PathLike, upload_id: str) -> Upload:
    """Put such a file into the inbox if it is whole; how far it is."""
    workspace = Workspace.open(folder)
    upload = transfers.read_upload(workspace, upload_id)
    return transfers.finish_upload(workspace, upload_id) if upload.is_whole else upload


def upload(folder: PathLike, upload_id: str) -> Upload:
    """How far such a file is."""
    return transfers.read_upload(Workspace.open(folder), upload_id)


def uploads(folder: PathLike) -> list[Upload]:
    """The files that were not sent to their end."""
    return transfers.list_uploads(Workspace.open(folder))


def remove_upload(folder: PathLike, upload_id: str) -> Upload:
    """Throw away what is here of such a file."""
    return transfers.remove_upload(Workspace.open(folder), upload_id)


def check(folder: PathLike, name: str) -> DataReport:
    """What a round would make of a file of the inbox; nothing is taught or changed.

    Raises:
        DataError: there is no such file, or it is too large to be checked while somebody waits.
    """
    workspace = Workspace.open(folder)
    path = inboxes.find_waiting(workspace, name)
    if path.stat().st_size > MOST_CHECKED_BYTES:
        raise DataError(
            TOO_LARGE(
                name=name,
                most=MOST_CHECKED_BYTES // 1000000,
                path=path,
                settings=workspace.settings,
            )
        )
    return run.clean_data(path, settings=workspace.settings)


def statistics(folder: PathLike, name: str = "") -> RowStatistics:
    """What rows are made of: of a file of the inbox, or of all that was ever taught.

    Args:
        folder: the workspace.
        name: of the file; empty for what was taught.
    """
    from llama_factory.jobs import row_statistics

    workspace = Workspace.open(folder)
    config = load_to_answer(workspace.settings)
    if not name:
        return row_statistics.statistics_of_taught(workspace, config.model.base_model)
    path = inboxes.find_waiting(workspace, name)
    return row_statistics.statistics_of_file(path, config.data, config.model.base_model)


def quarantine(folder: PathLike) -> Quarantine:
    """What was refused and why; rows that somebody has decided about are left out."""
    workspace = Workspace.open(folder)
    waiting = [each for each in cases(workspace) if each.kind == "refused"]
    return Quarantine(tuple(waiting), tuple(inboxes.list_refused_files(workspace)))


def taught(folder: PathLike, text: str, start: str = "") -> TaughtRows:
    """Rows with a text that versions were taught or tested on, a page at a time."""
    return search_taught(Workspace.open(folder), text, start)


def forget(folder: PathLike, key: str, who: str, why: str) -> MarkedRow:
    """Mark a taught row: no further round teaches or replays it; what a retraining would take."""
    from llama_factory.jobs.forgetting import forget_row

    return forget_row(Workspace.open(folder), key, who, why)


def remember(folder: PathLike, key: str, who: str) -> ForgottenRow:
    """Take such a mark back."""
    from llama_factory.jobs.forgetting import remember_row

    return remember_row(Workspace.open(folder), key, who)


def forgotten(folder: PathLike) -> list[MarkedRow]:
    """The rows that are marked to be forgotten, the newest mark first."""
    from llama_factory.jobs.forgetting import list_marks

    return list_marks(Workspace.open(folder))


def cases(folder: PathLike, reviewer: str | None = None) -> list[Case]:
    """What waits for a person; of a reviewer, only what this one may decide."""
    return reviews.open_cases(note_cases(Workspace.open(folder)), reviewer)


def case(folder: PathLike, case_id: str) -> Case:
    """A case by its id, or by the beginning of it."""
    return read_book(Workspace.open(folder).review).case(case_id)


def decided(folder: PathLike, reviewer: str, most: int = 10) -> list[Case]:
    """The cases that a reviewer decided last and nobody after, the newest first."""
    book = read_book(Workspace.open(folder).review)
    own = [each for each in book.cases.values() if each.votes and _is_by(each, reviewer)]
    return sorted(own, key=lambda each: each.votes[-1].when, reverse=True)[:most]


def _is_by(each: Case, reviewer: str) -> bool:
    return each.votes[-1].reviewer.casefold() == reviewer.casefold()


def decide(folder: PathLike, case_id: str, reviewer: str, choice: Choice, note: str = "") -> Case:
    """Log what a reviewer decides; see `data.review.folder.decide`."""
    return reviews.decide(Workspace.open(folder).review, case_id, reviewer, choice, note)


def take_back(folder: PathLike, case_id: str, reviewer: str, note: str = "") -> Case:
    """Log that the last decision about a case does not count."""
    return reviews.take_back(Workspace.open(folder).review, case_id, reviewer, note)


def review_summary(folder: PathLike) -> ReviewSummary:
    """How many cases stand where, and who decided how many."""
    return reviews.summary(Workspace.open(folder).review)


def note_cases(workspace: Workspace) -> Path:
    """Take what is in quarantine and what users said into the review; returns its folder.

    Raises:
        DataError: a file of refused rows was damaged, as by hand.
    """
    try:
        reviews.add_refused(workspace.review, workspace.quarantine)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(QUARANTINE_DAMAGED(folder=workspace.quarantine, error=error)) from error
    note_feedback(workspace.review, read_feedback(workspace.feedback))
    return workspace.review


def keep_pair(
    folder: PathLike, who: str, prompt: str, answers: Sequence[PairedAnswer]
) -> AnswerPair:
    """Keep two answers to one question until somebody votes, on sides that are drawn."""
    return ballots.keep_pair(Workspace.open(folder), who, prompt, answers)


def pair(folder: PathLike, pair_id: str, who: str) -> AnswerPair:
    """A pair that waits for the vote of a person, or that this person voted on.

    Raises:
        DataError: there is none.
    """
    workspace = Workspace.open(folder)
    own = (each for each in ballots.read_votes(workspace) if each.who == who)
    voted = next((each for each in own if each.id == pair_id), None)
    return voted or ballots.read_pair(workspace, pair_id, who)


def vote(folder: PathLike, pair_id: str, who: str, choice: ballots.Choice) -> AnswerPair:
    """Note which of two answers was liked; the texts are kept as `data` says of rows."""
    workspace = Workspace.open(folder)
    data = load_to_answer(workspace.settings).data
    private, keeps = private_data_of(data), data.keep_rows
    return ballots.vote(workspace, pair_id, who, choice, private=private, keep_texts=keeps)


def votes(folder: PathLike) -> list[Duel]:
    """How often which of two contestants was liked more, those with the newest versions first."""
    return ballots.count_votes(ballots.read_votes(Workspace.open(folder)))


def add_knowledge(
    folder: PathLike, paths: Sequence[PathLike], changes: Changes = ()
) -> tuple[list[str], Refreshed]:
    """Copy documents into a workspace's `knowledge/` and index them; running servers see them.

    Returns:
        The names of the copies, and what indexing came to.
    """
    workspace, config = _knowledge(folder, changes)
    from llama_factory.jobs import knowledge as jobs

    library = jobs.library_of(workspace, config.knowledge)
    return jobs.add_documents(library, [Path(each) for each in paths])


def search_knowledge(
    folder: PathLike,
    question: str,
    top_k: int | None = None,
    by: By = "both",
    changes: Changes = (),
) -> list[Passage]:
    """The passages of documents that a prompt with this question would hold."""
    workspace, config = _knowledge(folder, changes)
    from llama_factory.jobs import knowledge as jobs

    embedder = None if by == "words" else config.knowledge.vectors.open()
    retriever = jobs.ready(jobs.library_of(workspace, config.knowledge), embedder)
    return retriever.search(question, top_k, by=by)


def knowledge_status(folder: PathLike, changes: Changes = ()) -> KnowledgeStatus:
    """The documents of a workspace: how many passages each has, and what is left out and why."""
    workspace, config = _knowledge(folder, changes)
    from llama_factory.jobs import knowledge as jobs

    return jobs.status(jobs.library_of(workspace, config.knowledge))


def evaluate_knowledge(
    model: ModelLike,
    questions: PathLike,
    top_k: int = 5,
    *,
    asks_model: bool = True,
    progress: Progress = SILENT,
) -> KnowledgeScores:
    """How often the right passage is found, and the right fact said without and with documents.

    Args:
        model: a workspace (its released version), or a reference that names a version.
        questions: JSON lines with `question`, `file`, `phrase` and `answer`.
        top_k: passages among which the right one must be.
        asks_model: whether a version answers the questions whose `answer` is known.
        progress: shows how far it is.
    """
    reference = ModelReference.of(model)
    workspace, config = _knowledge(reference.name, reference.changes)
    from llama_factory.jobs import knowledge as jobs
    from llama_factory.knowledge.questions import read_questions

    known = read_questions(Path(questions))
    library = jobs.library_of(workspace, config.knowledge)
    retriever = jobs.ready(library, config.knowledge.vectors.open())
    opened = None
    if asks_model and any(each.answer for each in known):
        from llama_factory.model.chat.encoding import encode_options

        opened = reference.find(config.model).open(encode_options(config.data))
    return jobs.evaluate(retriever, known, top_k, opened, progress=progress)


def propose_knowledge(
    folder: PathLike, at_least: int = 3, changes: Changes = ()
) -> tuple[list[Proposal], list[Case]]:
    """Offer what is asked often and answered from documents as rows that a person may have taught.

    Returns:
        All proposals, and the cases of the review that are new.
    """
    workspace, config = _knowledge(folder, changes)
    from llama_factory.jobs import knowledge as jobs
    from llama_factory.knowledge.proposals import GroundedAnswer
    from llama_factory.serving.conversations import read_conversations

    kept = read_conversations(workspace)
    answers = (GroundedAnswer(each.row, each.citations) for each in kept if each.citations)
    library = jobs.library_of(workspace, config.knowledge)
    return jobs.propose_rows(library, workspace.review, answers, at_least)


def _knowledge(folder: PathLike, changes: Changes) -> tuple[Workspace, RunConfig]:
    workspace = Workspace.open(folder)
    return workspace, load_to_answer(workspace.settings, changes)
