"""A server lives under load: releases move, it is killed, and no answer fails, mixes or is lost.

One minute; `make soak` takes SOAK_SECONDS (600), also asks for times, and writes SOAK_OUT.
SOAK_MODEL=smollm2 serves the embedded model, on the local engine.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from safetensors import safe_open

from llama_factory.model.source import resolve
from llama_factory.versions import releases
from llama_factory.versions.workspace import Workspace
from tests.serving import soak_report
from tests.serving.soak import (
    VERSIONS,
    Given,
    Move,
    Plan,
    Soak,
    expected_answers,
    rollback_beside_work,
    run,
    served,
)
from tests.tiny import make_workspace, publish_adapter, random_adapter

SETTINGS = ("serving.max_queue=512", "model.dtype=float32")
MOST_GROWTH = 0.05
"""Of memory after warming up."""

MOST_WEIGHTS = 3.2
"""Times the base's weights that two versions and the base may take."""


LONGEST_ROLLBACK = 1.0
"""Seconds to the first text from the version that is back."""


Publish = Callable[[Workspace, Path, int], object]


def make_versions(folder: Path, model: Path, publish: Publish) -> Workspace:
    workspace = make_workspace(folder, model)
    for seed in range(1, len(VERSIONS) + 1):
        publish(workspace, model, seed)
    releases.promote(workspace.releases, VERSIONS[0], "test")
    return workspace


def publish_random(workspace: Workspace, model: Path, seed: int) -> object:
    return publish_adapter(workspace, model, random_adapter(model, seed))


def bytes_of_weights(model: Path) -> int:
    total = 0
    for path in model.glob("*.safetensors"):
        with safe_open(path, "pt") as weights:
            total += sum(4 * weights.get_tensor(name).numel() for name in weights.keys())  # noqa: SIM118
    return total


def plan_of(victim: Literal["server", "engine"]) -> Plan:
    return Plan(seconds=float(os.environ.get("SOAK_SECONDS", "60")), victim=victim)


def live(
    workspace: Workspace, plan: Plan, changes: Sequence[str], out: str | None
) -> dict[str, Any]:
    """Serve under load; what any engine must keep is asserted here."""
    log = workspace.folder.with_suffix(".log")
    with served(workspace, (*SETTINGS, *changes), log) as server:
        expected = expected_answers(server.url, VERSIONS, plan)
        soak = run(workspace, server, VERSIONS, plan)
        found = soak_report.table(soak, expected, plan)
        soak_report.show(found, out)
        assert soak_report.set_aside(soak)[0] == []
        assert soak_report.mixed(soak.answers, expected) == []
        assert found["lost"] == 0
        assert len(found["versions that answered"]) > 1
        assert found["memory_growth"] <= MOST_GROWTH
        if "SOAK_SECONDS" in os.environ:
            beyond = found["rollback_to_first_answer_most"] - found["first_token_p99"]
            assert beyond <= LONGEST_ROLLBACK  # beside so many clients every answer waits
            assert found["from an old release"] == 0
        assert server.end() == os.EX_OK
    assert "Traceback" not in log.read_text()
    return found


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(0)
def test_no_answer_fails_mixes_or_is_lost_while_versions_move_and_the_server_dies(
    tmp_path: Path, tiny_model: Path
) -> None:
    name = os.environ.get("SOAK_MODEL")
    model = resolve(name) if name else tiny_model
    workspace = make_versions(tmp_path / "my-bot", model, publish_random)
    found = live(workspace, plan_of("server"), (), os.environ.get("SOAK_OUT"))
    if name:
        assert found["memory_mb_most"] * 1e6 <= MOST_WEIGHTS * bytes_of_weights(model)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(0)
def test_no_answer_fails_mixes_or_is_lost_while_versions_move_and_vllm_dies(
    tmp_path: Path, tiny_model: Path
) -> None:
    """A process that speaks vLLM's calls is killed, and started again by the server."""
    stand_in = pytest.importorskip("tests.serving.vllm.stand_in")
    workspace = make_versions(tmp_path / "my-bot", tiny_model, stand_in.publish_proven)
    engine = {"type": "vllm", "python": stand_in.COMMAND, "probe_seconds": 0.2}
    changes = [f"serving.engine={json.dumps(engine)}"]
    live(workspace, plan_of("engine"), changes, os.environ.get("SOAK_OUT_VLLM"))


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(0)
def test_a_rollback_answers_at_once_under_a_long_answer_and_a_loading_version(
    tmp_path: Path, tiny_model: Path
) -> None:
    """With SOAK_SECONDS the embedded model answers, and the time is asked for too."""
    is_timed = "SOAK_SECONDS" in os.environ
    model = resolve("smollm2") if is_timed else tiny_model
    workspace = make_versions(tmp_path / "my-bot", model, publish_random)
    with served(workspace, SETTINGS, tmp_path / "log") as server:
        found = [rollback_beside_work(workspace, server) for _ in range(10)]
        assert server.end() == os.EX_OK
    soak_report.show({f"rollback {n}": each for n, each in enumerate(found, 1)}, None)
    assert not is_timed or max(found) <= LONGEST_ROLLBACK


def given(version: str, sent: float, ended: float, text: str = "a") -> Given:
    return Given("q", version, text, 4, sent, (sent + ended) / 2, ended, is_stream=True)


def test_answers_of_another_version_than_they_name_are_counted() -> None:
    expected = {("v0001", "q"): "a", ("v0002", "q"): "b"}
    answers = [given("v0001", 0, 1), given("v0002", 0, 1), given("v0001+v0002", 0, 1)]
    assert soak_report.mixed(answers, expected) == answers[1:]


def test_what_a_killed_server_cut_is_no_failure_and_what_came_later_is() -> None:
    soak = Soak(failures=["1.0 4.5 cut", "5.5 6.0 refused"], deaths=[(2.0, 5.0)])
    assert soak_report.set_aside(soak) == (["5.5 6.0 refused"], 1)


def test_the_time_to_the_first_answer_after_a_rollback() -> None:
    moves = [Move("promotion", "v0002", 10.0), Move("rollback", "v0001", 20.0)]
    answers = [given("v0001", 19.9, 20.1), given("v0001", 20.2, 20.4), given("v0001", 20.3, 20.9)]
    soak = Soak(answers=answers, moves=moves)
    assert soak_report.first_answers(soak) == pytest.approx([0.3])
    soak.deaths.append((20.1, 20.25))  # the first answer after it is the third
    assert soak_report.first_answers(soak) == pytest.approx([0.35])


def test_an_answer_of_the_old_release_is_late_only_after_the_grace() -> None:
    moves = [Move("promotion", "v0002", 10.0), Move("rollback", "v0001", 20.0)]
    answers = [given("v0001", 11.0, 12.0), given("v0001", 13.0, 14.0), given("v0002", 13.0, 14.0)]
    assert soak_report.late(Soak(answers=answers, moves=moves)) == [answers[1]]


def test_memory_that_grows_after_warming_up_is_measured() -> None:
    warm = [(1, float(time), 100.0 + (time if time < 30 else 30)) for time in range(90)]
    assert soak_report.memory(Soak(memory=warm))["memory_growth"] == pytest.approx(0)
    grows = [(1, float(time), 100.0 + time) for time in range(91)]
    found = soak_report.memory(Soak(memory=grows))
    assert found["memory_mb_per_minute"] == pytest.approx(60)
    assert found["memory_growth"] == pytest.approx(59 / 131)
