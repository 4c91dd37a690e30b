"""Turns, versions and outcomes of requests, without HTTP."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from llama_factory.core.errors import VersionError
from llama_factory.core.types import Message
from llama_factory.inference.question import Answer, Options, Question
from llama_factory.serving.admission import Admission
from llama_factory.serving.errors import (
    EngineDownError,
    QueueFullError,
    ShuttingDownError,
    UnknownModelError,
)
from llama_factory.serving.outcome import Asked, Caller, Outcome
from llama_factory.serving.service import Gateway
from llama_factory.serving.settings import ServingSettings
from llama_factory.versions import releases
from llama_factory.versions.workspace import Workspace
from tests.serving.scripted_answers import ScriptedEngine

QUESTION = Question((Message("user", "hello"),))
NOBODY = Caller()


def asked(name: str = "production", caller: Caller = NOBODY, num: int = 1, **options: Any) -> Asked:
    each = (QUESTION, Options(max_tokens=5, **options))
    return Asked("chatcmpl-1", name, caller, (each,) * num)


class Watching:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.versions: list[str] = []
        self.outcomes: list[Outcome] = []

    def begun(self, asked: Asked, version_id: str) -> None:
        self.versions.append(version_id)

    def finished(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


class Asking:
    """A gateway before a scripted engine, and what is asked of it."""

    def __init__(self, workspace: Workspace, **settings: Any) -> None:
        self.engine = ScriptedEngine()
        self.gateway = Gateway(workspace, ServingSettings(**settings), self.engine)
        self.watching = Watching()
        self.gateway.observers.append(self.watching)

    async def ask(self, request: Asked | None = None) -> tuple[str, list[Answer]]:
        """The version that answered, and its answers."""
        answering = self.gateway.ask(request or asked())
        events = [event async for _, event in self.gateway.events(answering)]
        return answering.version_id, [each for each in events if isinstance(each, Answer)]

    def start(self, request: Asked | None = None) -> "asyncio.Task[tuple[str, list[Answer]]]":
        return asyncio.create_task(self.ask(request))

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not holds():
                await asyncio.sleep(0.001)


def live(work: Callable[[Asking], Awaitable[None]], workspace: Workspace, **settings: Any) -> None:
    async def run() -> None:
        asking = Asking(workspace, **settings)
        await asking.gateway.begin()
        await work(asking)

    asyncio.run(run())


def test_an_outcome_says_who_asked_what_and_what_came(workspace: Workspace) -> None:
    async def work(asking: Asking) -> None:
        caller = Caller("key", "user", "talk")
        await asking.ask(asked("my-bot", caller, num=2))
        assert asking.watching.versions == ["v0001"]
        first, second = asking.watching.outcomes
        assert (first.index, second.index) == (0, 1)
        assert first.asked.caller == caller
        assert (first.asked.name, first.version_id) == ("my-bot", "v0001")
        assert first.text == "Hello from v0001."
        assert (first.prompt_tokens, first.completion_tokens, first.reused_tokens) == (7, 6, 5)
        assert (first.finish_reason, first.error) == ("stop", "")
        assert first.seconds_to_first is not None
        assert 0 <= first.seconds_waited <= first.seconds_to_first <= first.seconds

    live(work, workspace)


def test_an_answer_that_fails_or_is_left_has_an_outcome(workspace: Workspace) -> None:
    async def work(asking: Asking) -> None:
        asking.engine.gate.clear()
        leaving = asking.start()
        await asking.until(lambda: asking.engine.num_running == 1)
        leaving.cancel()
        await asking.until(lambda: asking.engine.num_running == 0)
        asking.engine.gate.set()
        asking.engine.broken.add("v0002")
        with pytest.raises(VersionError):
            await asking.ask(asked("v0002"))
        left, failed = asking.watching.outcomes
        assert (left.finish_reason, left.text, left.is_servers_fault) == ("cancelled", "Hel", False)
        assert (failed.finish_reason, failed.is_servers_fault) == ("failed", True)
        assert (failed.version_id, failed.error) == ("", "VersionError")
        assert asking.gateway.admission.num_running == 0

    live(work, workspace)


def test_an_observer_that_fails_costs_nobody_an_answer(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Watching):
        def finished(self, outcome: Outcome) -> None:
            raise ZeroDivisionError

    async def work(asking: Asking) -> None:
        asking.gateway.observers.insert(0, Failing())
        assert (await asking.ask())[0] == "v0001"
        assert len(asking.watching.outcomes) == 1

    live(work, workspace)
    assert "an observer of answers failed" in caplog.text


def test_a_router_chooses_the_version_when_the_turn_comes(workspace: Workspace) -> None:
    async def work(asking: Asking) -> None:
        chosen: list[tuple[str, Caller]] = []

        def choose(name: str, caller: Caller) -> str:
            chosen.append((name, caller))
            return "v0002" if caller.user == "brave" else "v0001"

        asking.gateway.choose_version = choose
        assert (await asking.ask(asked(caller=Caller(user="brave"))))[0] == "v0002"
        assert (await asking.ask())[0] == "v0001"
        assert chosen == [("production", Caller(user="brave")), ("production", Caller())]

    live(work, workspace)


def test_no_more_answers_run_than_may(workspace: Workspace) -> None:
    async def work(asking: Asking) -> None:
        many = [asking.start(asked(num=num)) for num in (1, 5, 2, 1, 3)]
        answers = [len(each) for _, each in await asyncio.gather(*many)]
        assert answers == [1, 5, 2, 1, 3]
        assert asking.engine.most_running == 3
        assert asking.gateway.admission.num_running == 0

    live(work, workspace, max_running=3)


def test_one_more_than_may_wait_is_refused(workspace: Workspace) -> None:
    async def work(asking: Asking) -> None:
        asking.engine.gate.clear()
        waiting = [asking.start() for _ in range(3)]
        await asking.until(lambda: asking.gateway.admission.num_waiting == 2)
        with pytest.raises(QueueFullError) as refusal:
            await asking.ask()
        assert refusal.value.retry_seconds >= 1
        asking.engine.gate.set()
        await asyncio.gather(*waiting)

    live(work, workspace, max_running=1, max_queue=2)


def test_keys_take_turns_and_each_keeps_its_order() -> None:
    async def run() -> list[str]:
        admission, order, done = Admission(1, 99, 99), [], asyncio.Event()

        async def turn(key: str, name: str) -> None:
            async with admission.seats(key, 1):
                order.append(name)
                await done.wait()

        names = ["a1", "a2", "a3", "a4", "b1", "b2", "c1"]
        turns = []
        for name in names:
            turns.append(asyncio.create_task(turn(name[0], name)))
            await asyncio.sleep(0)
        done.set()
        await asyncio.gather(*turns)
        return order

    assert asyncio.run(run()) == ["a1", "a2", "b1", "c1", "a3", "b2", "a4"]


def test_a_client_that_leaves_while_it_waits_frees_its_place() -> None:
    async def run() -> None:
        admission, done = Admission(2, 99, 99), asyncio.Event()

        async def turn(num: int) -> None:
            async with admission.seats("", num):
                await done.wait()

        first, wide, last = [asyncio.create_task(turn(num)) for num in (1, 2, 1)]
        await asyncio.sleep(0)
        assert (admission.num_running, admission.num_waiting) == (1, 2)
        wide.cancel()
        await asyncio.sleep(0.01)
        assert (admission.num_running, admission.num_waiting) == (2, 0)
        done.set()
        await asyncio.gather(first, last)
        assert admission.num_running == 0

    asyncio.run(run())


def test_a_turn_that_comes_while_the_client_leaves_is_given_back() -> None:
    async def run() -> None:
        admission, done = Admission(1, 99, 99), asyncio.Event()

        async def turn() -> None:
            async with admission.seats("", 1):
                await done.wait()

        first, second = asyncio.create_task(turn()), asyncio.create_task(turn())
        await asyncio.sleep(0)
        done.set()
        await first
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        assert admission.num_running == 0

    asyncio.run(run())


def test_a_version_stays_until_its_last_answer(own_workspace: Workspace) -> None:
    async def work(asking: Asking) -> None:
        asking.engine.gate.clear()
        answers = [asking.start(asked("v0002")) for _ in range(2)]
        await asking.until(lambda: asking.engine.num_running == 2)
        assert not await asking.gateway.versions.release("v0002")
        answers[0].cancel()
        await asking.until(lambda: asking.engine.num_running == 1)
        assert "v0002" in asking.engine.loaded
        asking.engine.gate.set()
        assert (await answers[1])[0] == "v0002"
        await asking.until(lambda: "v0002" not in asking.engine.loaded)

    live(work, own_workspace, max_versions=1)


def test_many_who_ask_for_a_version_load_it_once(workspace: Workspace) -> None:
    async def work(asking: Asking) -> None:
        await asyncio.gather(*(asking.ask(asked("v0002")) for _ in range(9)))
        assert asking.engine.events == ["load v0001", "load v0002"]

    live(work, workspace)


def test_the_least_recently_used_version_leaves_first(
    own_workspace: Workspace, tiny_model: Any
) -> None:
    from tests.tiny import publish_version

    for seed in (3, 4):
        publish_version(own_workspace, tiny_model, marker_seed=seed)

    async def work(asking: Asking) -> None:
        for name in ("v0002", "v0003", "v0002", "v0004"):
            await asking.ask(asked(name))
        await asking.until(lambda: "v0003" not in asking.engine.loaded)
        assert asking.engine.loaded == {"v0000", "v0001", "v0002", "v0004"}

    live(work, own_workspace, max_versions=3)


def test_production_previous_and_candidate_are_loaded_before_they_are_needed(
    own_workspace: Workspace,
) -> None:
    releases.promote(own_workspace.releases, "v0000", "test")
    releases.hold(own_workspace.releases, "v0002", "test")

    async def work(asking: Asking) -> None:
        await asking.gateway.released.look()
        await asking.until(lambda: asking.engine.loaded == {"v0000", "v0001", "v0002"})

    live(work, own_workspace, max_versions=1)


def test_a_candidate_that_cannot_be_served_is_named_in_health(
    own_workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(asking: Asking) -> None:
        asking.engine.broken.add("v0002")
        releases.hold(own_workspace.releases, "v0002", "test")
        await asking.gateway.released.look()
        await asking.until(lambda: asking.gateway.health()["refused"] == ["v0002"])
        assert (await asking.ask())[0] == "v0001"

    live(work, own_workspace)
    assert "so the candidate answers nobody" in caplog.text


def test_a_name_of_its_own_and_any_name_where_that_is_wished(workspace: Workspace) -> None:
    async def named(asking: Asking) -> None:
        assert asking.gateway.released.names()["gpt-mine"] == "v0001"
        assert asking.gateway.released.version_named("gpt-mine") == "v0001"
        with pytest.raises(UnknownModelError):
            asking.gateway.released.version_named("gpt-3.5-turbo")

    async def taken(asking: Asking) -> None:
        assert asking.gateway.released.version_named("gpt-3.5-turbo") == "v0001"
        assert "gpt-3.5-turbo" not in asking.gateway.released.names()

    live(named, workspace, model_name="gpt-mine")
    live(taken, workspace, any_model=True)


def test_unknown_names_and_a_missing_engine_are_refused_at_once(workspace: Workspace) -> None:
    async def work(asking: Asking) -> None:
        with pytest.raises(UnknownModelError):
            asking.gateway.ask(asked("v9999"))
        asking.engine.unavailable = "the engine is starting again."
        with pytest.raises(EngineDownError, match="starting again"):
            asking.gateway.ask(asked())
        assert asking.gateway.health()["status"] == "unavailable"

    live(work, workspace)


def test_answers_and_those_that_wait_are_cut_when_the_server_ends(workspace: Workspace) -> None:
    async def work(asking: Asking) -> None:
        asking.engine.gate.clear()
        running, waiting = asking.start(), asking.start()
        await asking.until(lambda: asking.gateway.admission.num_waiting == 1)
        asking.gateway.cut_short()
        for each in (running, waiting):
            with pytest.raises(ShuttingDownError):
                await each
        await asking.until(lambda: asking.engine.num_running == 0)
        assert asking.gateway.admission.num_waiting == 0

    live(work, workspace, max_running=1)
