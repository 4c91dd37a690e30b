"""How rounds that the watcher began ended, as the journal has it."""

from dataclasses import dataclass
from typing import Any

from llama_factory.core.ownership import owned
from llama_factory.data.sources.inbox import shown
from llama_factory.rounds import loop_sentences as texts
from llama_factory.rounds.loop_settings import RetrySettings
from llama_factory.rounds.round_process import ProcessEnd, RoundProcess
from llama_factory.versions import store
from llama_factory.versions.journal import Event, Journal, JournalEntry, What
from llama_factory.versions.journal_facts import INTENTS, open_intents
from llama_factory.versions.workspace import Workspace

NUM_LOST = 5
"""A round that vanishes without a word counts as failed after so many times: the machine may have
been taken away, or the round may take too much of it."""


@dataclass(frozen=True)
class Started:
    """A round or a consolidation that runs.

    Attributes:
        intent: the event that says so.
        process: in which it runs.
    """

    intent: Event
    process: RoundProcess


def end_of(intent: Event, end: ProcessEnd) -> JournalEntry:
    """The entry that says how it ended; written twice, it is there once."""
    is_round = intent.what == "round begun"
    data: dict[str, Any] = {"of": intent.number, "identity": intent.data.get("identity", "")}
    key = f"end:{intent.number}"
    if end.code:
        what: What = "round failed" if is_round else "consolidation failed"
        data |= {"code": end.code, "error": end.error, "was_stopped": end.was_stopped}
        return JournalEntry(what, "watcher", data=data, key=key)
    result = (end.result.get("round") or {}) if is_round else end.result
    data |= {name: value for name, value in result.items() if name not in ("version", "verdict")}
    data["text"] = _text(result)
    done: What = "round ended" if is_round else "consolidated"
    return JournalEntry(done, "watcher", result.get("version", ""), data, key)


def _text(result: dict[str, Any]) -> str:
    version = result.get("version")
    if version is None:
        return texts.NOTHING_NEW()
    if result.get("released"):
        return texts.RELEASED(version=version)
    if result.get("tried"):
        return texts.TRIED_ON_A_FEW(version=version)
    if problem := result.get("problem"):
        return texts.IS_HELD(version=version, problem=problem)
    return texts.NOT_RELEASED(version=version)


def close_lost(workspace: Workspace, journal: Journal, retry: RetrySettings) -> None:
    """Write down the ends of rounds whose watcher did not live to see them.

    The caller made sure that none runs, and that the journal knows what lies on disk.
    """
    for intent in open_intents(journal.events(what=INTENTS, last=100)):
        made = journal.events(after=intent.number, what=["verdict"])
        if made:
            result = {"version": made[-1].version, "released": None, "of": intent.number}
            ended = end_of(intent, ProcessEnd(0, {"round": result, **result}))
            journal.add(ended)
            continue
        is_failure = _num_lost(journal) % NUM_LOST == NUM_LOST - 1
        text = "its process ended without a word, and so did the one that watched it"
        end = ProcessEnd(-9 if is_failure else -15, error=text)
        journal.add(end_of(intent, end))
        if is_failure:
            park(workspace, journal, intent, retry)


def _num_lost(journal: Journal) -> int:
    """How many rounds in a row were stopped or lost."""
    listed = journal.events(what=["round ended", "round failed", "parked"], last=1000)
    count = 0
    for event in reversed(listed):
        if not event.data.get("was_stopped"):
            break
        count += 1
    return count


def park(workspace: Workspace, journal: Journal, intent: Event, retry: RetrySettings) -> None:
    """Park the files of a round that failed too often: no round of the watcher takes them.

    They stay in the inbox; a round that a person begins takes them, and `watch --unpark` lets the
    watcher try them again.
    """
    if intent.what != "round begun":
        return
    failed = []
    for event in reversed(journal.events(what=["round ended", "round failed", "parked"])):
        if event.what != "round failed":
            break
        if not event.data.get("was_stopped"):
            failed.append(event)
    if len(failed) <= retry.times:
        return
    with owned(workspace.lock, what="parking a round"):
        store.discard_unfinished(workspace)
    names = ", ".join(sorted(map(shown, intent.data["files"]))[:5])
    num_files = len(intent.data["files"])
    text = texts.PARKED(count=num_files, names=names, failures=len(failed))
    data = {"files": intent.data["files"], "error": failed[0].data.get("error", ""), "text": text}
    key = f"parked:{intent.number}"
    journal.add(JournalEntry("parked", "watcher", data=data, key=key))
