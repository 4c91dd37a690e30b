"""What releases.json, the versions and the review on disk know and the journal does not yet.

A crash between a move of the release and its event loses nothing: the move is on disk, and its
event is written here, with the time of the move. Each fact has a key, so it is written once.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict

from llama_factory.core import files
from llama_factory.core.errors import VersionError
from llama_factory.core.sentences import listed, restore_kinds
from llama_factory.core.types import BASE_VERSION
from llama_factory.data.review.case_book import DECISIONS, read_book
from llama_factory.data.review.cases import Vote, short
from llama_factory.versions import releases, store
from llama_factory.versions.journal import Event, Journal, JournalEntry, What, Who
from llama_factory.versions.releases import CANDIDATE, PRODUCTION, Release
from llama_factory.versions.version import ModelVersion
from llama_factory.versions.workspace import Workspace

INTENTS: tuple[What, ...] = (
    "round begun",
    "round ended",
    "round failed",
    "consolidation begun",
    "consolidated",
    "consolidation failed",
)
BY_PEOPLE = ("by hand", "rolled back", "begins anew")
"""In the reason of a move: a person made it."""


def reconcile(workspace: Workspace) -> list[int]:
    """Write down what the facts on disk say and the journal lacks.

    Returns:
        Numbers of the new events.

    Raises:
        VersionError: releases.json or the journal is damaged.
    """
    journal = Journal(workspace.journal)
    begun = journal.events(what=INTENTS, last=20)
    learner: Who = "watcher" if open_intents(begun) else "person"
    facts = [*_verdicts(workspace, journal, learner), *_moves(workspace, learner)]
    facts += _decisions(workspace)
    known = journal.known(each.key for each in facts if each.key)
    return journal.append(each for each in facts if each.key not in known)


class Facts:
    """The facts of one workspace; they are read again where they changed on disk."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._known: object = None

    def write_new(self) -> None:
        """Bring the journal in line with them.

        Raises:
            VersionError: releases.json or the journal is damaged.
        """
        space = self._workspace
        paths = space.releases, space.versions, space.review / DECISIONS
        stamps = [files.stamp_of(path) for path in paths]
        if stamps != self._known:
            reconcile(space)
            self._known = stamps


def open_intents(listed: Iterable[Event]) -> list[Event]:
    """The rounds and consolidations that were begun and of which no end is known."""
    begun = {}
    for each in listed:
        if each.what in ("round begun", "consolidation begun"):
            begun[each.number] = each
        else:
            begun.pop(each.data.get("of", -1), None)
    return list(begun.values())


def _moves(workspace: Workspace, learner: Who) -> Iterator[JournalEntry]:
    before = {PRODUCTION: BASE_VERSION}
    for number, move in enumerate(releases.read(workspace.releases).history, 1):
        yield _move(number, before, move, learner)
        before = move.aliases


def _move(number: int, before: dict[str, str], move: Release, learner: Who) -> JournalEntry:
    text = json.dumps([number, asdict(move)], sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    production = move.aliases[PRODUCTION]
    what: What = "held"
    version = move.aliases.get(CANDIDATE, before.get(CANDIDATE, ""))
    if production != before[PRODUCTION]:
        what, version = ("rollback" if move.why == "rolled back" else "released"), production
    elif move.why.startswith(("canary", "taken back")):
        what = "canary"
    data = {"why": move.why, "before": before[PRODUCTION], "aliases": move.aliases}
    who = _who(move.why, learner)
    return JournalEntry(what, who, version, data, f"release:{number}:{digest}", move.time)


def _who(why: str, learner: Who) -> Who:
    if any(text in why for text in BY_PEOPLE):
        return "person"
    return "canary" if "by the canary" in why else learner


def _verdicts(workspace: Workspace, journal: Journal, learner: Who) -> Iterator[JournalEntry]:
    """One for each version that a round made; reports are read where the journal lacks them."""
    keys = {f"verdict:{each}": each for each in store.ids(workspace) if each != BASE_VERSION}
    for key in sorted(keys.keys() - journal.known(keys)):
        try:
            yield _verdict(ModelVersion.read(workspace.versions / keys[key]), key, learner)
        except VersionError:
            continue  # what cannot be read has no verdict to tell; `versions` reports it


def _verdict(version: ModelVersion, key: str, learner: Who) -> JournalEntry:
    report = version.report
    verdict = report.get("verdict") or {}
    checks = map(restore_kinds, verdict.get("checks", ()))
    failed = [each["reason"] for each in checks if not each["passed"]]
    data = {
        "parent": version.parent,
        "promoted": bool(verdict.get("promoted")),
        "summary": listed(failed) or "all checks passed",
        "rows": version.num_rows,
        "files": report.get("taken", {}),
        "consolidated": "consolidated" in report,
    }
    return JournalEntry("verdict", learner, version.id, data, key, version.created)


def _decisions(workspace: Workspace) -> Iterator[JournalEntry]:
    """What people decided about rows and about what users said; no row's text is in it."""
    book = read_book(workspace.review)
    for case_id, votes in book.logs.items():
        case = book.cases.get(case_id)
        for number, vote in enumerate(votes, 1):
            if vote.level == "rule":
                continue
            kind = case.kind if case else ""
            data = {
                "case": case_id,
                "kind": kind,
                "reviewer": vote.reviewer,
                "level": vote.level,
                "note": vote.note,
                "text": f"{vote.reviewer} {_decided(vote)} {kind or 'case'} {short(case_id)}",
            }
            key = f"decision:{case_id}:{number}"
            yield JournalEntry("decision", "person", data=data, key=key, time=vote.when)


def _decided(vote: Vote) -> str:
    if vote.level == "taken_back":
        return "took back the last decision about"
    if vote.choice.is_unresolved:
        return "left unresolved"
    if vote.choice.edited:
        return "wrote the answer of"
    return "accepted" if vote.choice.keep else "rejected"
