"""The benchmark scripts run from end to end; their numbers are not looked at."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEMO_SETS = ROOT.parent / "shared" / "data" / "llamafactory"
STREAM = ROOT.parent / "shared" / "data" / "cl_benchmark"


def quick(script, out, *args):
    command = [sys.executable, ROOT / "benchmarks" / script, *args, "--quick", "--out", out]
    subprocess.run(command, check=True, capture_output=True)
    return json.loads(out.read_text())


@pytest.mark.slow
def test_train_speed(tmp_path):
    results = quick("train_speed.py", tmp_path / "r.json")
    (ours,) = results["runs"]
    assert ours["program"] == "this project"
    assert len(ours["losses"]) == 2
    assert ours["first_step_begins"] < ours["first_step_ends"]
    assert ours["share_of_ceiling"] > 0
    assert results["machine"]["versions"]["torch"]


@pytest.mark.slow
def test_dpo_speed(tmp_path):
    (ours,) = quick("dpo_speed.py", tmp_path / "r.json", "--dtype", "float32")["runs"]
    assert ours["losses"][0] == pytest.approx(math.log(2), abs=1e-4)
    assert ours["peak_memory_gb"] > 0


@pytest.mark.slow
def test_fsdp_shards(tmp_path):
    results = quick("fsdp_shards.py", tmp_path / "r.json")
    one, two = results["trained"]
    assert two["saved"] == pytest.approx(0.5, abs=0.01)
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-6)
    assert results["divided"][0]["fact"] == results["divided"][0]["plan"]


@pytest.mark.slow
@pytest.mark.skipif(not DEMO_SETS.exists(), reason="the demo sets are not beside this checkout")
def test_data_speed(tmp_path):
    results = quick("data_speed.py", tmp_path / "r.json", DEMO_SETS)
    (ours,) = results["near_duplicates"]
    assert ours["recall"] > 0.9
    assert ours["precision"] > 0.9
    assert [each["rows"] for each in results["memory"]] == [1000, 2000]


@pytest.mark.slow
@pytest.mark.skipif(not DEMO_SETS.exists(), reason="the demo sets are not beside this checkout")
def test_same_job(tmp_path):
    results = quick("same_job.py", tmp_path / "r.json", DEMO_SETS)
    assert [job["job"] for job in results["jobs"]] == ["sft", "dpo"]
    assert all(len(job["ours"]) == 10 and not job["problem"] for job in results["jobs"])


@pytest.mark.slow
@pytest.mark.skipif(not DEMO_SETS.exists(), reason="the demo sets are not beside this checkout")
def test_same_rows(tmp_path):
    (identity,) = quick("same_rows.py", tmp_path / "r.json", DEMO_SETS)["sets"]
    assert (identity["num_rows"], identity["refused"]) == (91, {})


@pytest.mark.slow
def test_planted_private(tmp_path):
    results = quick("planted_private.py", tmp_path / "r.json")
    assert results["machine"]["cores"]


@pytest.mark.slow
@pytest.mark.skipif(not STREAM.exists(), reason="the labelled stream is not beside this checkout")
def test_two_rounds(tmp_path):
    results = quick("two_rounds.py", tmp_path / "r.json", STREAM)
    assert [run["strategy"] for run in results["runs"]] == ["no strategy", "replay"]
    assert all(run["steps"] == 2 for run in results["runs"])


@pytest.mark.slow
def test_mutation(tmp_path):
    pytest.importorskip("mutmut", reason="the extra 'mutation' is not installed")
    (run,) = quick("mutation.py", tmp_path / "r.json")["runs"]
    assert run["part"] == "releases"
    assert run["mutants"] == run["killed"] > 5
    assert run["share_killed"] == 1
    assert run["missed"] == []


@pytest.mark.slow
@pytest.mark.skipif(not STREAM.exists(), reason="the labelled stream is not beside this checkout")
def test_ten_rounds(tmp_path, tiny_model):
    results = quick("ten_rounds.py", tmp_path / "r.json", STREAM, "--model", tiny_model)
    events = [event for event in results["events"] if "version" in event]
    assert [event["killed in"] for event in events if event["killed in"]] == [
        "reading",
        "testing before",
        "training",
        "testing after",
        "consolidating",
        "finishing",
    ]
    assert results["rows"]["missing"] == results["rows"]["more than once"] == 0


@pytest.mark.slow
def test_busy_machine(tmp_path, tiny_model):
    results = quick("busy_machine.py", tmp_path / "r.json", "--model", tiny_model)
    assert set(results["runs"]) == {"as it comes", "passive"}


@pytest.mark.slow
def test_feedback_way(tmp_path):
    command = [
        sys.executable,
        ROOT / "benchmarks" / "feedback_way.py",
        "--out",
        tmp_path / "r.json",
    ]
    subprocess.run(command, check=True, capture_output=True)
    results = json.loads((tmp_path / "r.json").read_text())
    assert results["num_conversations"] == 30
    assert (results["num"], results["num_right_before"]) == (8, 0)
    assert results["num_right"] >= 7
    assert results["served_as_reported"] >= 6


@pytest.mark.slow
def test_canary_simulation(tmp_path):
    results = quick("canary_simulation.py", tmp_path / "r.json")
    assert {run["rule"] for run in results["runs"]} >= {"e-process", "z-test at each look"}
    assert len(results["promotions"]) == 4


@pytest.mark.slow
@pytest.mark.skipif(not STREAM.exists(), reason="the labelled stream is not beside this checkout")
def test_canary_users(tmp_path, tiny_model):
    results = quick("canary_users.py", tmp_path / "r.json", STREAM, "--model", tiny_model)
    assert [run["candidate"] for run in results["runs"]] == ["good", "poisoned"]
    assert all(run["failed"] == 0 for run in results["runs"])


@pytest.mark.slow
def test_gate_errors(tmp_path):
    results = quick("gate_errors.py", tmp_path / "r.json")
    assert results["pool"]["rows"] > 10_000
    cells = results["simulated"]
    words = ("promoted", "held", "refused")
    assert all(sum(cell[word] for word in words) == pytest.approx(1) for cell in cells)
    gone = [c for c in cells if c["drop"] == 0.2 and c["rows"] == 300]
    assert all(c["promoted"] == 0 for c in gone)


@pytest.mark.slow
@pytest.mark.skipif(not STREAM.exists(), reason="the labelled stream is not beside this checkout")
def test_monitor_alarms(tmp_path):
    seen = quick("monitor_alarms.py", tmp_path / "r.json", STREAM)["seen"]
    by_name = {each["what"]: each for each in seen}
    assert by_name["rows like those before wait"]["got"] == "quiet"
    assert "drift.language" in by_name["rows in another language wait"]["got"]
    assert len(seen) == 7


@pytest.mark.slow
def test_knowledge_search(tmp_path):
    results = quick("knowledge_search.py", tmp_path / "r.json")
    assert results["index"]["passages"] > 100
    assert results["recall"]["words"]["recall"] > 0.5
    assert results["change_to_hit"]["changes"] == 2


@pytest.mark.slow
def test_frozen_trunk(tmp_path):
    (run,) = quick("frozen_trunk.py", tmp_path / "r.json")["runs"]
    assert run["equal"]
    assert run["loss_difference"] < 1e-4
    assert {len(seconds) for seconds in run["seconds"].values()} == {1}
