"""The journal: written once, in order, and in line with releases.json whatever happened."""

import json
import sqlite3
import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest

from llama_factory.core.errors import ConfigError, VersionError
from llama_factory.core.files import write_jsonl
from llama_factory.core.types import Example, Message
from llama_factory.data.review import folder as review
from llama_factory.data.review.case_book import DECISIONS, read_book
from llama_factory.data.review.cases import Case, Choice, Vote
from llama_factory.versions import releases, store
from llama_factory.versions.journal import Journal, JournalEntry, events, production_at, read_time
from llama_factory.versions.journal_facts import Facts, open_intents, reconcile
from llama_factory.versions.workspace import Workspace


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "journal.db")


@pytest.fixture
def workspace(tmp_path):
    return store.create_workspace(tmp_path / "bot", "tiny", "model: {base_model: tiny}\n")


def test_a_key_is_written_once_and_numbers_go_on(journal):
    assert journal.add(JournalEntry("alert", "watcher", data={"text": "a"}, key="one")) == 1
    assert journal.add(JournalEntry("alert", "watcher", data={"text": "b"}, key="one")) is None
    assert journal.add(JournalEntry("alert", "watcher", data={"text": "c"})) == 2
    assert [each.data["text"] for each in journal.events()] == ["a", "c"]


def test_it_is_synced_at_every_step(journal):
    journal.add(JournalEntry("alert", "watcher"))
    with journal.opened() as database:
        assert database.execute("PRAGMA synchronous").fetchone() == (2,)
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_several_entries_are_written_all_or_none(journal):
    journal.add(JournalEntry("alert", "watcher"))
    with pytest.raises(TypeError):
        journal.append(
            [
                JournalEntry("alert", "watcher"),
                JournalEntry("alert", "watcher", data={"x": object()}),
            ]
        )
    assert len(journal.events()) == 1


def test_events_are_chosen_by_number_kind_and_how_many(journal):
    journal.append(JournalEntry(what, "person") for what in ("alert", "gc", "alert", "held"))
    assert [each.number for each in journal.events(what=["alert"])] == [1, 3]
    assert [each.number for each in journal.events(last=2)] == [3, 4]
    assert [each.number for each in journal.events(after=2, what=["held", "alert"])] == [3, 4]
    assert events(journal.path.with_name("none.db")) == []


def test_names_of_any_characters_come_back_as_they_were(journal):
    name = "a\nb‮\udcff.jsonl"
    journal.add(JournalEntry("file seen", "watcher", data={"file": name}))
    assert journal.events()[0].data["file"] == name


def test_many_writers_lose_nothing(journal):
    start = threading.Barrier(4)

    def write(number):
        start.wait()
        for each in range(20):
            journal.add(JournalEntry("alert", "server", key=f"{number}-{each}"))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.number for each in journal.events()] == list(range(1, 81))


def test_a_damaged_journal_names_what_to_do(journal):
    journal.path.write_text("no database, " * 200)
    with pytest.raises(VersionError, match=r"is damaged .* Move it away: releases stay"):
        journal.events()


def test_a_full_disk_writes_nothing_and_the_next_write_goes_on(journal):
    journal.add(JournalEntry("alert", "watcher"))

    def fill():
        with journal.opened() as database:
            pages = database.execute("PRAGMA page_count").fetchone()[0]
            database.execute(f"PRAGMA max_page_count={pages}")
            database.execute("INSERT INTO marks VALUES ('x', ?)", ["y" * 100_000])

    with pytest.raises(sqlite3.OperationalError, match="full"):
        fill()
    assert journal.add(JournalEntry("alert", "watcher")) == 2


def test_a_workspace_without_a_journal_gets_one_from_its_releases(workspace):
    releases.promote(workspace.releases, "v0001", "promoted by the gate")
    releases.promote(workspace.releases, "v0002", "promoted by hand")
    releases.promote(workspace.releases, "v0001", "rolled back")
    assert len(reconcile(workspace)) == 3
    assert reconcile(workspace) == []
    listed = Journal(workspace.journal).events()
    assert [(each.what, each.who, each.version) for each in listed] == [
        ("released", "person", "v0001"),
        ("released", "person", "v0002"),
        ("rollback", "person", "v0001"),
    ]


def test_a_round_that_the_watcher_began_released_it(workspace):
    Journal(workspace.journal).add(JournalEntry("round begun", "watcher"))
    releases.promote(workspace.releases, "v0001", "promoted by the gate")
    reconcile(workspace)
    assert Journal(workspace.journal).events(what=["released"])[0].who == "watcher"


def test_moves_of_the_canary_are_its_own(workspace):
    releases.hold(workspace.releases, "v0001", "canary: passed the gate")
    standing = releases.read(workspace.releases).standing
    releases.promote_candidate(workspace.releases, standing, "promoted by the canary: e = 30")
    reconcile(workspace)
    listed = Journal(workspace.journal).events()
    assert [(each.what, each.who) for each in listed] == [
        ("canary", "person"),
        ("released", "canary"),
    ]


def test_it_knows_which_version_was_production_at_any_time(workspace):
    history = [
        {"time": f"2026-11-30T{hour}:00:00+00:00", "aliases": {"production": each}, "why": "x"}
        for hour, each in (("10", "v0001"), ("12", "v0002"), ("14", "v0001"))
    ]
    text = json.dumps({"aliases": {"production": "v0001"}, "history": history})
    workspace.releases.write_text(text)
    reconcile(workspace)
    listed = Journal(workspace.journal).events()

    def at(when):
        now = datetime(2026, 11, 30, 20, tzinfo=timezone(timedelta(hours=1)))
        return production_at(listed, read_time(when, now))[0]

    assert [at("10:59"), at("11:00"), at("13:30"), at("2026-11-30T14:00:00Z"), at("23:59")] == [
        "v0000",
        "v0001",
        "v0002",
        "v0001",
        "v0001",
    ]


def test_nonsense_for_a_time_is_refused():
    with pytest.raises(ConfigError, match="'25:00' is no time. Give one of today as 14:05"):
        read_time("25:00", datetime.now(UTC))


def test_what_was_begun_and_not_ended_is_known(journal):
    journal.append(
        [
            JournalEntry("round begun", "watcher"),
            JournalEntry("round failed", "watcher", data={"of": 1}),
            JournalEntry("round begun", "watcher"),
        ]
    )
    assert [each.number for each in open_intents(journal.events())] == [3]


def test_a_read_only_workspace_is_named(workspace, monkeypatch):
    path = Workspace(workspace.folder / "missing").journal
    with pytest.raises(VersionError, match="cannot be written to"):
        Journal(path).add(JournalEntry("alert", "watcher"))


def test_what_people_decided_is_written_down_once_without_the_rows(workspace):
    folder = workspace.review
    row = Example((Message("user", "a secret?"), Message("assistant", "no")), "feedback", "f", 1)
    cases = [Case("1" * 20, "feedback", (row,)), Case("2" * 20, "feedback", (row,))]
    review.add_new(folder, cases)
    facts = Facts(workspace)
    facts.write_new()
    review.decide(folder, cases[0].id, "ann", cases[0].keep(1), "checked")
    review.decide(folder, cases[1].id, "bob", Choice(edited="a secret answer"))
    review.take_back(folder, cases[1].id, "bob")
    facts.write_new()
    assert reconcile(workspace) == []
    listed = Journal(workspace.journal).events(what=["decision"])
    assert [(each.who, each.data["text"], each.data["note"]) for each in listed] == [
        ("person", "ann accepted feedback 11111111", "checked"),
        ("person", "bob wrote the answer of feedback 22222222", ""),
        ("person", "bob took back the last decision about feedback 22222222", ""),
    ]
    assert "secret" not in json.dumps([each.data for each in listed])
    votes = read_book(folder).logs
    assert [each.time for each in listed] == [v.when for log in votes.values() for v in log]


def test_what_a_rule_decided_is_no_decision_of_a_person(workspace):
    vote = Vote("1" * 20, "rule", "newest", Choice(), "2026-11-30T12:00:00+00:00")
    write_jsonl(workspace.review / DECISIONS, [vote.to_json()])
    assert reconcile(workspace) == []
