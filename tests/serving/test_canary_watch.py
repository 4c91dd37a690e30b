"""A server's part in a canary, without HTTP: what counts, and clocks that jump."""

import asyncio
import logging
import time
from types import SimpleNamespace

import pytest

from llama_factory.core.types import Message
from llama_factory.inference.question import Options, Question
from llama_factory.serving import canary_store
from llama_factory.serving.canary import CanarySettings
from llama_factory.serving.canary_watch import CanaryWatch
from llama_factory.serving.outcome import Asked, Caller, Outcome
from llama_factory.versions import releases
from llama_factory.versions.workspace import Workspace

SETTINGS = CanarySettings(watch=["errors"], patience_minutes=1, max_hours=1, fraction=0.5)
QUESTION = (Question((Message("user", "hello"),)), Options(5))


class Clock:
    """A clock that a test sets."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Released:
    """The names of a gateway."""

    def __init__(self, workspace):
        self.workspace, self.refused = workspace, set()

    @property
    def production(self):
        return releases.read(self.workspace.releases).production

    def version_named(self, name):
        aliases = releases.read(self.workspace.releases).aliases
        return aliases.get(name, aliases["production"] if name == "my-bot" else name)

    async def look(self):
        pass


@pytest.fixture
def workspace(tmp_path):
    workspace = Workspace(tmp_path / "my-bot")
    releases.promote(workspace.releases, "v0001", "test")
    canary_store.start(workspace, "v0002", 0.5)
    return workspace


def gateway_of(workspace):
    """Only what a watch uses of one."""
    ready = {"v0000", "v0001", "v0002"}
    return SimpleNamespace(
        workspace=workspace,
        released=Released(workspace),
        versions=SimpleNamespace(is_ready=lambda each: each in ready, ready=ready),
        engine=SimpleNamespace(unavailable=""),
        settings=SimpleNamespace(poll_seconds=0.01),
        observers=[],
        choose_version=None,
    )


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def watch(workspace, clock):
    watch = CanaryWatch(gateway_of(workspace), SETTINGS, clock)
    look(watch)
    return watch


def look(watch):
    asyncio.run(watch.look())


def talk(watch, number, *, name="production", begins=True, reason="stop", fault=False, version=""):
    """One answer to a user; returns the version."""
    caller = Caller(user=f"user {number}", conversation=str(number), begins=begins)
    chosen = version or watch.choose(name, caller)
    asked = Asked(f"id {number}", name, caller, (QUESTION,))
    watch.begun(asked, chosen)
    outcome = Outcome(
        asked, 0, chosen, "hi", 1, 1, 0, 0.0, 0.0, 0.1, 0.2, reason, "", is_servers_fault=fault
    )
    watch.finished(outcome)
    return chosen


def seen(watch):
    return [stream.count for stream in watch.canary.evidence["errors"].seen]


def judge(watch, clock):
    clock.now += 61
    look(watch)


def test_conversations_of_both_are_counted_when_their_time_is_over(watch, clock):
    versions = [talk(watch, number) for number in range(40)]
    look(watch)
    assert seen(watch) == [0, 0]
    judge(watch, clock)
    assert seen(watch) == [versions.count("v0001"), versions.count("v0002")]
    assert min(seen(watch)) > 5


@pytest.mark.parametrize(
    "options",
    [
        {"name": "v0002"},
        {"name": "candidate"},
        {"reason": "cancelled"},
        {"reason": "failed", "fault": False},
        {"begins": False},
        {"version": "v0000"},
    ],
)
def test_what_says_nothing_about_the_two_is_not_counted(watch, clock, options):
    for number in range(20):
        talk(watch, number, **options)
    judge(watch, clock)
    assert seen(watch) == [0, 0]


def test_production_is_not_counted_while_the_candidate_is_not_there(watch, clock):
    watch._gateway.versions.ready.discard("v0002")
    assert {talk(watch, number) for number in range(20)} == {"v0001"}
    judge(watch, clock)
    assert seen(watch) == [0, 0]
    assert watch.canary.seconds == 0


def test_the_hours_are_those_of_a_clock_that_never_goes_back(watch, clock, monkeypatch):
    for wall in (0.0, 4e9, 1.0):
        monkeypatch.setattr(time, "time", lambda wall=wall: wall)
        clock.now += 1200
        look(watch)
    assert watch.canary.seconds == pytest.approx(3600)
    assert watch.canary.state == "undecided"


def test_the_time_in_which_no_server_ran_does_not_count(watch, clock, workspace):
    clock.now += 100
    look(watch)
    watch._timer.release()
    clock.now += 1e9
    again = CanaryWatch(gateway_of(workspace), SETTINGS, clock)
    look(again)
    clock.now += 100
    look(again)
    assert again.canary.seconds == pytest.approx(200)


def test_of_two_servers_one_counts_the_hours_and_both_the_conversations(watch, clock, workspace):
    other = CanaryWatch(gateway_of(workspace), SETTINGS, clock)
    look(other)
    for number in range(20):
        talk(watch, number)
        talk(other, 100 + number)
    clock.now += 61
    look(watch)
    look(other)
    assert sum(seen(other)) == 40
    assert other.canary.seconds == pytest.approx(61)


def test_a_file_that_cannot_be_read_is_logged_once_and_nothing_is_lost(watch, clock, caplog):
    for number in range(20):
        talk(watch, number)
    path = watch._gateway.workspace.canary
    text = path.read_text()
    path.write_text("{")
    with caplog.at_level(logging.ERROR):
        judge(watch, clock)
        judge(watch, clock)
    (record,) = caplog.records
    assert "production goes on" in record.message
    path.write_text(text)
    look(watch)
    assert sum(seen(watch)) == 20


def test_an_engine_that_is_down_is_not_the_fault_of_the_candidate(watch, workspace):
    watch._gateway.released.refused.add("v0002")
    watch._gateway.engine.unavailable = "restarting"
    look(watch)
    assert watch.canary.state == "running"
    watch._gateway.engine.unavailable = ""
    look(watch)
    assert watch.canary.state == "taken_back"
    assert "could not load" in releases.read(workspace.releases).history[-1].why
