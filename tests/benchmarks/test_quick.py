"""The benchmark scripts run from end to end; their numbers are not looked at."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
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
    assert results["machine"]["versions"]["torch"]


@pytest.mark.slow
@pytest.mark.skipif(not STREAM.exists(), reason="the labelled stream is not beside this checkout")
def test_two_rounds(tmp_path):
    results = quick("two_rounds.py", tmp_path / "r.json", STREAM)
    assert [run["strategy"] for run in results["runs"]] == ["no strategy", "replay"]
    assert all(run["steps"] == 2 for run in results["runs"])
