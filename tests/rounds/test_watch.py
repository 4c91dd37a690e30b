"""The loop by itself: rounds begin when they are worth it, end in the journal, and never repeat."""

import json
import os
import sqlite3
import subprocess
import sys
import threading

import pytest

from llama_factory import oversee, run
from llama_factory.core.errors import ConfigError, VersionError
from llama_factory.core.files import write_jsonl
from llama_factory.core.ownership import owned
from llama_factory.rounds import wakeup
from llama_factory.rounds.round_process import ProcessEnd
from llama_factory.versions import releases, store
from llama_factory.versions.journal import Journal, JournalEntry
from tests.rounds.rounds import at_rest, drop, teach
from tests.rounds.watching import LOOP, make_bench

FAILED = ProcessEnd(1, {}, "Traceback\nMemoryError: too much")


@pytest.fixture
def bench(bot, monkeypatch):
    return make_bench(bot, monkeypatch)


@pytest.fixture
def taught(bot, monkeypatch):
    """A bench whose workspace learned a round already."""
    teach(bot, "faq")
    return make_bench(bot, monkeypatch)


def test_files_that_arrive_are_taught_released_and_explained(bench):
    drop(bench.workspace, "faq", 6)
    assert bench.tick().decision.sentence == "6 of 10 rows"
    drop(bench.workspace, "news", 6)
    bench.tick(3)
    assert releases.read(bench.workspace.releases).production == "v0001"
    assert bench.what() == [
        "file seen",
        "file seen",
        "round begun",
        "verdict",
        "released",
        "round ended",
    ]
    listed = Journal(bench.workspace.journal).events()
    assert listed[2].data["why"] == ["12 of 10 rows"]
    assert {each.who for each in listed} == {"watcher"}
    assert listed[-1].data["text"] == "v0001 is released"
    assert bench.events == listed
    assert (bench.tick().decision.sentence, bench.rounds) == ("nothing waits to be taught", 1)


@pytest.mark.slow
def test_the_same_content_again_begins_no_round(taught):
    path = drop(taught.workspace, "faq")
    path.rename(path.with_name("another name.jsonl"))
    at_rest(drop(taught.workspace, "same name, new bytes", 3))
    assert taught.tick().decision.sentence == "3 of 10 rows"
    assert taught.tick().left == {"another name.jsonl": "no new row"}
    assert taught.rounds == 0


def test_what_the_gate_refused_is_not_tried_again_until_more_comes(bot, monkeypatch):
    bench = make_bench(bot, monkeypatch, LOOP + "  before_promotion: ['false']\n")
    drop(bot, "faq", 12)
    bench.tick(4)
    assert (bench.rounds, bench.what("held", "released")) == (1, ["held"])
    assert bench.watcher.status.left == {"faq.jsonl": "decided in v0001"}
    ended = Journal(bot.journal).events(what=["round ended"])[0]
    assert ended.data["text"].startswith("v0001 is held: false ended with exit code 1")
    drop(bot, "news", 12)
    bench.tick(3)
    assert bench.rounds == 2
    assert set(store.get(bot, "v0002").report["taken"]) == {"faq.jsonl", "news.jsonl"}


@pytest.mark.slow
def test_what_was_refused_because_of_another_file_is_tried_without_it(bot, monkeypatch):
    hook = "sh -c '! grep -q poison.jsonl $REPORT'"
    bench = make_bench(bot, monkeypatch, LOOP + f'  before_promotion: ["{hook}"]\n')
    drop(bot, "faq", 12)
    poison = drop(bot, "poison", 12)
    bench.tick(3)
    assert bench.watcher.status.left.keys() == {"faq.jsonl", "poison.jsonl"}
    poison.unlink()
    bench.tick(3)
    assert (bench.rounds, releases.read(bot.releases).production) == (2, "v0002")
    assert set(store.get(bot, "v0002").report["taken"]) == {"faq.jsonl"}


@pytest.mark.slow
def test_broken_and_empty_files_begin_no_round_and_are_named(taught):
    inbox = taught.workspace.inbox
    at_rest_with(inbox / "empty.jsonl", b"")
    at_rest_with(inbox / "broken.jsonl", b"\x00\x01\x02" * 50)
    at_rest_with(inbox / "half.jsonl", b'{"instruction": "How')
    taught.tick(3)
    assert taught.rounds == 0
    assert set(taught.watcher.status.left) == {"empty.jsonl", "broken.jsonl", "half.jsonl"}
    drop(taught.workspace, "news", 12)
    taught.tick(3)
    assert taught.rounds == 1
    assert taught.what("round ended") == ["round ended"]
    assert list(inbox.iterdir()) == []


def at_rest_with(path, content):
    path.write_bytes(content)
    at_rest(path)


def test_a_round_that_fails_again_and_again_is_parked_with_one_alert(bench):
    bench.processes.fails = [FAILED, FAILED]
    drop(bench.workspace, "faq", 12)
    bench.tick(6)
    assert bench.rounds == 2
    assert bench.what("round failed", "parked", "alert") == ["round failed"] * 2 + ["parked"]
    parked = Journal(bench.workspace.journal).events(what=["parked"])[0].data
    assert "(faq.jsonl) failed 2 times and is parked" in parked["text"]
    assert parked["error"].endswith("too much")
    assert bench.watcher.status.parked == ("faq.jsonl",)
    assert (bench.workspace.inbox / "faq.jsonl").exists()


@pytest.mark.slow
def test_parked_files_are_left_out_of_later_rounds_and_may_be_tried_again(bench):
    bench.processes.fails = [FAILED, FAILED]
    drop(bench.workspace, "faq", 12)
    bench.tick(4)
    drop(bench.workspace, "news", 12)
    bench.tick(3)
    assert set(store.get(bench.workspace, "v0001").report["taken"]) == {"news.jsonl"}
    assert (bench.workspace.inbox / "faq.jsonl").exists()
    assert oversee.unpark(bench.workspace.folder) == 1
    bench.tick(3)
    assert set(store.get(bench.workspace, "v0002").report["taken"]) == {"faq.jsonl"}


@pytest.mark.slow
def test_a_round_that_was_asked_to_stop_goes_on_and_is_no_failure(bench):
    bench.processes.fails = [ProcessEnd(143), ProcessEnd(75), ProcessEnd(143)]
    drop(bench.workspace, "faq", 12)
    bench.tick(6)
    assert bench.what("parked") == []
    assert releases.read(bench.workspace.releases).production == "v0001"


@pytest.mark.slow
def test_what_a_dead_watcher_began_is_closed_by_the_next_one(bench):
    """The round ended well after its watcher was killed: its version explains the entry."""
    drop(bench.workspace, "faq", 12)
    digests = bench.watcher._inbox.look().files
    journal = Journal(bench.workspace.journal)
    begun = journal.add(
        JournalEntry("round begun", "watcher", data={"files": digests, "identity": "x"})
    )
    run.learn(bench.workspace.folder, intent=begun)
    bench.tick(2)
    assert bench.what("round begun", "round ended", "round failed") == [
        "round begun",
        "round ended",
    ]
    assert journal.events(what=["round ended"])[0].version == "v0001"
    assert journal.events(what=["released"])[0].who == "watcher"


@pytest.mark.slow
def test_a_round_that_vanished_with_its_watcher_begins_again(bench):
    drop(bench.workspace, "faq", 12)
    digests = bench.watcher._inbox.look().files
    journal = Journal(bench.workspace.journal)
    journal.add(JournalEntry("round begun", "watcher", data={"files": digests, "identity": "x"}))
    bench.tick(3)
    assert bench.what("round begun", "round ended", "round failed") == [
        "round begun",
        "round failed",
        "round begun",
        "round ended",
    ]


def test_a_round_that_always_vanishes_is_parked_in_the_end(bench):
    drop(bench.workspace, "faq", 12)
    digests = bench.watcher._inbox.look().files
    journal = Journal(bench.workspace.journal)
    for _ in range(10):
        journal.add(
            JournalEntry("round begun", "watcher", data={"files": digests, "identity": "x"})
        )
        bench.watcher.tick(may_begin=False)
    assert bench.what("parked") == ["parked"]


@pytest.mark.slow
def test_only_the_files_of_the_entry_are_taken_and_only_as_they_were(bench):
    drop(bench.workspace, "faq", 12)
    drop(bench.workspace, "grown", 12)
    digests = bench.watcher._inbox.look().files
    begun = Journal(bench.workspace.journal).add(
        JournalEntry("round begun", "watcher", data={"files": digests})
    )
    drop(bench.workspace, "grown", 15)
    drop(bench.workspace, "late", 12)
    done = run.learn(bench.workspace.folder, intent=begun)
    assert set(done.version.report["taken"]) == {"faq.jsonl"}
    assert {path.name for path in bench.workspace.inbox.iterdir()} == {"grown.jsonl", "late.jsonl"}


def test_a_person_who_learns_or_promotes_is_in_the_journal(taught):
    run.rollback(taught.workspace.folder)
    moves = Journal(taught.workspace.journal).events(what=["released", "rollback"])
    assert [(each.what, each.who, each.version) for each in moves] == [
        ("released", "person", "v0001"),
        ("rollback", "person", "v0000"),
    ]


def test_two_watchers_the_second_is_told_who_watches_and_leaves(bench, monkeypatch):
    monkeypatch.setattr("llama_factory.core.files.LOOK_SECONDS", 0.05)
    with owned(bench.workspace.watch_lock, what="watching"):
        text = f"process {os.getpid()} is already watching"
        with pytest.raises(VersionError, match=text):
            bench.watcher.run(threading.Event())


def test_a_round_of_somebody_else_is_waited_for(bench):
    drop(bench.workspace, "faq", 12)
    with owned(bench.workspace.lock, what="running a round here"):
        sentence = bench.tick().decision.sentence
    assert f"12 of 10 rows; process {os.getpid()} is already running a round here" in sentence
    assert bench.rounds == 0


def test_quiet_hours_hold_a_round(bot, monkeypatch):
    bench = make_bench(bot, monkeypatch, LOOP + '  not_between: ["00:00", "23:59"]\n')
    drop(bot, "faq", 12)
    assert bench.tick().decision.sentence.startswith("12 of 10 rows; not before 23:59")
    assert oversee.why(bot.folder).sentence.startswith("12 of 10 rows; not before 23:59")
    assert bench.rounds == 0


def test_wrong_settings_are_an_alert_and_those_before_go_on(bench):
    bench.tick()
    good = bench.workspace.settings.read_text()
    bench.workspace.settings.write_text(good.replace("at_least: 10", "at_most: 10"))
    drop(bench.workspace, "faq", 6)
    bench.tick(2)
    (alert,) = Journal(bench.workspace.journal).events(what=["alert"])
    assert "those before go on" in alert.data["text"]
    assert bench.tick().decision.sentence == "6 of 10 rows"
    bench.workspace.settings.write_text(good.replace("at_least: 10", "at_least: 600"))
    assert bench.tick().decision.sentence == "6 of 600 rows"


@pytest.mark.slow
def test_an_inbox_that_goes_away_is_waited_for(bench):
    drop(bench.workspace, "faq", 12)
    away = bench.workspace.inbox.with_name("away")
    bench.workspace.inbox.rename(away)
    assert "No such file or directory" in bench.tick().decision.sentence
    away.rename(bench.workspace.inbox)
    bench.tick(2)
    assert releases.read(bench.workspace.releases).production == "v0001"


@pytest.mark.slow
def test_a_full_disk_begins_nothing_is_said_once_and_waited_for(bench, monkeypatch):
    def full(*_args):
        raise sqlite3.OperationalError("database or disk is full")

    drop(bench.workspace, "faq", 12)
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", full)
        bench.watcher.look()
        bench.watcher.look()
    assert [each.data["text"] for each in bench.events] == ["database or disk is full"]
    assert bench.rounds == 0
    bench.watcher.look()
    assert bench.rounds == 1


@pytest.mark.slow
def test_rows_that_people_accepted_are_learned_without_any_file(taught):
    review = taught.workspace.review
    review.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        from llama_factory.core.types import Example, Message
        from llama_factory.data.review import folder

        rows = [
            Example((Message("user", f"asked {i}?"), Message("assistant", f"{i}.")), "x", "f", i)
            for i in range(12)
        ]
        patch.setattr(folder, "accepted_rows", lambda _: rows)
        assert oversee.why(taught.workspace.folder).rows == 12
        taught.tick(4)
    assert taught.rounds == 1
    assert taught.watcher.status.decision.sentence == "nothing waits to be taught"


@pytest.mark.slow
def test_consolidation_comes_by_the_calendar_and_once(taught, bot, monkeypatch):
    bench = make_bench(bot, monkeypatch, LOOP + "  consolidate: {every: 0s}\n")
    bench.tick(4)
    assert [words[0] for words in bench.processes.begun] == ["consolidate"]
    assert bench.what("consolidation begun", "consolidated") == [
        "consolidation begun",
        "consolidated",
    ]


def test_a_webhook_without_its_secret_is_refused_at_the_start(bot, monkeypatch):
    monkeypatch.delenv("HOOK_SECRET", raising=False)
    hook = "{type: webhook, url: 'https://example.com', secret_env: HOOK_SECRET}"
    bench = make_bench(bot, monkeypatch, LOOP + f"  notify: [{hook}]\n")
    with pytest.raises(ConfigError, match=r"loop.notify.0: secret_env: .* has no HOOK_SECRET"):
        bench.watcher.run(threading.Event())


def test_it_stops_when_asked_and_sees_files_at_once(bench):
    stop = threading.Event()
    watching = threading.Thread(target=bench.watcher.run, args=(stop,))
    watching.start()
    try:
        drop(bench.workspace, "faq", 3)
        while not bench.events:
            watching.join(0.01)
        assert oversee.why(bench.workspace.folder).watcher.pid == os.getpid()
    finally:
        stop.set()
        watching.join(10)
    assert not watching.is_alive()


@pytest.mark.slow
def test_the_process_that_watches_loads_no_torch(taught):
    write_jsonl(taught.workspace.inbox / "new.jsonl", [{"instruction": "a?", "output": "b"}])
    at_rest(taught.workspace.inbox / "new.jsonl")
    code = (
        "import sys\nfrom llama_factory import operate\n"
        "status = oversee.watcher(sys.argv[1]).run_once()\n"
        "print(status.rows, 'torch' in sys.modules, 'transformers' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, taught.workspace.folder], capture_output=True, text=True
    )
    assert done.stdout == "1 False False\n", done.stderr


@pytest.mark.slow
def test_a_round_in_a_process_of_its_own(bot):
    bot.settings.write_text(bot.settings.read_text() + LOOP + "  train: {nice: 5, threads: 1}\n")
    drop(bot, "faq", 12)
    done = subprocess.run(
        [sys.executable, "-m", "llama_factory", "watch", bot.folder, "--once", "--json"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    listed = [json.loads(line) for line in done.stdout.splitlines()]
    assert listed[-1]["what"] == "round ended"
    assert releases.read(bot.releases).production == "v0001"


def test_a_workspace_that_was_copied_while_it_was_watched_can_be_watched(bench, tmp_path):
    import shutil

    from llama_factory.core import ownership

    with owned(bench.workspace.watch_lock, what="watching"):
        shutil.copytree(bench.workspace.folder, tmp_path / "copy")
    assert ownership.read_owner(tmp_path / "copy" / ".watch.lock") is not None
    assert oversee.watcher(tmp_path / "copy").run_once().rows == 0


def test_changes_of_a_folder_wake_it_up(tmp_path):
    from datetime import timedelta

    stop = threading.Event()
    timer = threading.Timer(0.2, (tmp_path / "a").touch)
    timer.start()
    wakeup.wait_for_change(tmp_path, stop, timedelta(seconds=60))
    wakeup.wait_for_change(tmp_path / "gone", stop, timedelta(seconds=0.01))
    timer.join()
