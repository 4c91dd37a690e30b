"""The speed of evaluation is measured on equal answers; its numbers are not looked at."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import make_tiny_model

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "evaluation_speed.py"


@pytest.mark.slow
def test_both_ways_give_the_same_answers(tmp_path):
    rows = [{"instruction": text, "output": "x"} for text in ("Hi?", "你好，今天怎么样？", "Go")]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    model, out = make_tiny_model(tmp_path / "model"), tmp_path / "out.json"
    options = ["--model", model, "--quick", "--out", out]
    subprocess.run([sys.executable, SCRIPT, tmp_path / "rows.json", *options], check=True)
    results = json.loads(out.read_text())
    assert [run["program"] for run in results["runs"]] == ["plain loop", "batched"]
    assert results["num_equal"] == results["num_rows"] == 6
