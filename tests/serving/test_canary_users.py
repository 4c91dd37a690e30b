"""Simulated users talk to a server over HTTP: good candidates are promoted, bad ones taken back."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from llama_factory.serving import canary_store
from llama_factory.serving.api import create_app
from llama_factory.serving.settings import ServingSettings
from llama_factory.versions import releases
from llama_factory.versions.workspace import Workspace
from tests.serving.running import running, wait_until
from tests.serving.scripted import Behaviour, ScriptedEngine, Users

MOST_CONVERSATIONS = 1500


@contextmanager
def served(
    workspace: Workspace, script: dict[str, Behaviour], **canary: Any
) -> Iterator[tuple[Users, ScriptedEngine]]:
    """A server whose conversations are judged soon, and users of it."""
    usual = {"patience_minutes": 0.02, "fraction": 0.5, "watch": ["errors", "thumbs_down"]}
    engine = ScriptedEngine(script)
    settings = ServingSettings(poll_seconds=0.05, canary=usual | canary)
    app = create_app(workspace, settings, engine)
    with running(app) as client:
        feedback = f"{client.base_url}feedback"

        def rate(completion: str, is_down: bool) -> None:
            rating = "down" if is_down else "up"
            sent = {"completion_id": completion, "rating": rating}
            httpx.post(feedback, json=sent, timeout=60).raise_for_status()

        yield Users(client, rate), engine


def running_canary(workspace: Workspace) -> bool:
    last = canary_store.read(workspace).last
    return last is not None and last.state == "running"


def talk_until_it_ends(workspace: Workspace, users: Users) -> None:
    while running_canary(workspace):
        assert users.num_asked < MOST_CONVERSATIONS, canary_store.read(workspace)
        users.talk(10, num_turns=1)


def begin(workspace: Workspace, users: Users, engine: ScriptedEngine) -> None:
    canary_store.start(workspace, "v0002", 0.5)
    wait_until(lambda: running_canary(workspace), "the beginning of the canary")
    wait_until(lambda: "v0002" in engine.loaded, "the candidate")
    settled = users.num_asked + 200
    while not users.versions["v0002"] and users.num_asked < settled:
        users.talk(1)


@pytest.mark.slow
def test_a_good_candidate_is_promoted(own_workspace: Workspace) -> None:
    script = {"v0001": Behaviour(wrong=0.05), "v0002": Behaviour(wrong=0.02)}
    with served(own_workspace, script, tolerated=0.1) as (users, engine):
        begin(own_workspace, users, engine)
        talk_until_it_ends(own_workspace, users)
        last = canary_store.read(own_workspace).last
        assert last.state == "promoted", last.why
        wait_until(lambda: users.one("someone") == ["v0002"], "the promotion")
    current = releases.read(own_workspace.releases)
    assert current.aliases == {"production": "v0002", "previous": "v0001"}
    ours, theirs = last.evidence["thumbs_down"].seen
    assert min(ours.count, theirs.count) > 10


@pytest.mark.slow
@pytest.mark.parametrize(
    "bad", [Behaviour(wrong=0.5), Behaviour(failing=0.5), Behaviour(wrong=0.3, failing=0.2)]
)
def test_a_bad_candidate_is_taken_back_and_production_answers_everyone(
    own_workspace: Workspace, bad: Behaviour
) -> None:
    script = {"v0001": Behaviour(wrong=0.03), "v0002": bad}
    with served(own_workspace, script) as (users, engine):
        begin(own_workspace, users, engine)
        talk_until_it_ends(own_workspace, users)
        last = canary_store.read(own_workspace).last
        assert last.state == "taken_back", last.why
        assert last.evidence["errors"].seen[1].count < 200
        before = users.versions["v0002"]
        users.talk(50)
        assert users.versions["v0002"] == before
    assert releases.read(own_workspace.releases).aliases == {
        "production": "v0001",
        "previous": "v0000",
    }


@pytest.mark.slow
def test_a_candidate_that_always_fails_is_stopped_after_its_first_answers(
    own_workspace: Workspace,
) -> None:
    script = {"v0002": Behaviour(failing=1.0)}
    with served(own_workspace, script, patience_minutes=60) as (users, engine):
        begin(own_workspace, users, engine)
        talk_until_it_ends(own_workspace, users)
        assert engine.num_answers["v0002"] < 30
    assert "first" in canary_store.read(own_workspace).last.why


@pytest.mark.slow
def test_a_candidate_that_cannot_be_loaded_answers_nobody_and_is_taken_back(
    own_workspace: Workspace,
) -> None:
    script = {"v0002": Behaviour(loads=False)}
    with served(own_workspace, script) as (users, _):
        canary_store.start(own_workspace, "v0002", 0.5)
        wait_until(
            lambda: (
                (last := canary_store.read(own_workspace).last) is not None
                and last.state == "taken_back"
            ),
            "the end of the canary",
        )
        users.talk(20)
        assert set(users.versions) == {"v0001"}


@pytest.mark.slow
def test_users_and_conversations_keep_their_version_and_named_versions_are_never_rerouted(
    own_workspace: Workspace,
) -> None:
    with served(own_workspace, {}, max_hours=1000, tolerated=0.001) as (users, engine):
        begin(own_workspace, users, engine)
        for number in range(30):
            versions = users.one(f"caller {number}", num_turns=3)
            versions += users.one(f"caller {number}", model=own_workspace.folder.name)
            assert len(set(versions)) == 1
        assert users.versions["v0002"] > 0
        assert users.versions["v0001"] > 0
        for name in ("v0001", "v0002", "candidate"):
            expected = {"v0001": "v0001"}.get(name, "v0002")
            assert {v for n in range(20) for v in users.one(f"by id {n}", model=name)} == {expected}


@pytest.mark.slow
def test_one_conversation_counts_once_however_many_turns_it_has(own_workspace: Workspace) -> None:
    with served(own_workspace, {}, max_hours=1000, tolerated=0.001) as (users, engine):
        begin(own_workspace, users, engine)
        counted = num_counted(own_workspace)
        wait_until(lambda: num_counted(own_workspace) >= 1, "the first conversations")
        before = users.num_asked
        users.talk(12, num_turns=4)
        wait_until(lambda: num_counted(own_workspace) >= before, "the others")
        users.talk(1)
        wait_until(lambda: num_counted(own_workspace) >= before + 12, "all")
        assert num_counted(own_workspace) <= users.num_asked
        assert counted <= users.num_asked


def num_counted(workspace: Workspace) -> int:
    last = canary_store.read(workspace).last
    return sum(each.count for each in last.evidence["errors"].seen) if last else 0


@pytest.mark.slow
def test_a_server_that_starts_again_goes_on_where_it_was(own_workspace: Workspace) -> None:
    forever = {"max_hours": 1000.0, "tolerated": 0.001}
    with served(own_workspace, {}, **forever) as (users, engine):
        begin(own_workspace, users, engine)
        users.talk(20)
        wait_until(lambda: num_counted(own_workspace) >= 15, "the first conversations")
        versions = {user: v for user, v in users.by_user.items() if users.num_asked}
    before = num_counted(own_workspace)
    with served(own_workspace, {}, **forever) as (again, engine):
        wait_until(lambda: "v0002" in engine.loaded, "the candidate")
        again.talk(40)
        wait_until(lambda: num_counted(own_workspace) > before, "more conversations")
        last = list(again.by_user.items())[-5:]
        assert all(versions.get(user, seen) == seen for user, seen in last)


@pytest.mark.slow
def test_an_operator_wins_over_a_canary_that_runs(own_workspace: Workspace) -> None:
    with served(own_workspace, {}, tolerated=0.001) as (users, engine):
        begin(own_workspace, users, engine)
        releases.promote(own_workspace.releases, "v0000", "rolled back")
        wait_until(lambda: not running_canary(own_workspace), "the end of the canary")
        wait_until(lambda: users.one("someone") == ["v0000"], "the rollback")
        users.talk(30)
    assert canary_store.read(own_workspace).last.state == "moved"
    assert releases.read(own_workspace.releases).production == "v0000"


@pytest.mark.slow
def test_a_damaged_state_costs_nobody_an_answer(own_workspace: Workspace, tmp_path: Path) -> None:
    with served(own_workspace, {}) as (users, engine):
        begin(own_workspace, users, engine)
        own_workspace.canary.write_text("{")
        users.talk(20)
        assert set(users.versions) <= {"v0001", "v0002"}
