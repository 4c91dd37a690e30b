"""The benchmark of answers runs from end to end, and counts what it says it counts."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.mark.slow
def test_all_parts_are_measured(tmp_path, tiny_model):
    out = tmp_path / "out.json"
    given = ["--model", tiny_model, "--quick", "--out", out]
    subprocess.run([sys.executable, BENCHMARKS / "generation_speed.py", *given], check=True)
    results = json.loads(out.read_text())
    assert [run["clients"] for run in results["throughput"]] == [1, 2]
    assert all(run["tokens_an_answer"] == 6 for run in results["throughput"])
    assert [run["program"] for run in results["adapters"]][-1] == "four versions mixed"
    assert results["beside"][0]["passes_p50"] > 0
    assert [turn["turn"] for turn in results["chat"]] == [1, 2, 3]
    assert all(run["equal_answers"] == run["rows"] for run in results["evaluation"])
    assert results["machine"]["cores"]


def test_no_two_questions_begin_alike(load):
    asked = load("answer_load").questions(200)
    assert len({text.partition(".")[0] for text in asked}) == 200
    assert len({text.partition(".")[2] for text in asked}) == 48


def test_quantiles_are_values_that_were_seen(load):
    quantile = load("answer_load").quantile
    assert [quantile([3.0, 1.0, 2.0], share) for share in (0.01, 0.5, 0.99)] == [1.0, 2.0, 3.0]
    assert quantile(list(range(1, 101)), 0.99) == 99


def test_pieces_of_one_pass_are_no_gap(load):
    timing = load("answer_load").Timing(0.0, arrivals=[1.0, 1.0001, 1.5, 2.5])
    assert load("answer_load").gaps([timing]) == pytest.approx([0.4999, 1.0])


def test_speed_is_counted_from_the_first_request_to_the_last_byte(load):
    timing = load("answer_load").Timing
    both = [timing(1.0, ended=3.0, tokens=10), timing(2.0, ended=6.0, tokens=15)]
    assert load("answer_load").rate(both) == 5.0


def test_a_pass_is_limited_by_reading_or_by_products(load):
    limit = load("decoding_limit").Limit(weights=10**9, gigabytes_per_second=10, gflops=100)
    assert limit.seconds(1, weight_bytes=4) == pytest.approx(0.4)
    assert limit.seconds(1, weight_bytes=1) == pytest.approx(0.1)
    assert limit.seconds(64, weight_bytes=4) == pytest.approx(1.28)
    run = {"program": "ours, float32", "clients": 64, "pass_seconds": 2.56}
    shares = limit.shares(run | {"tokens_per_second": 25.0}, weight_bytes=4)
    assert shares == {
        "share_of_limit": pytest.approx(0.5),
        "share_in_all": pytest.approx(0.5),
    }
    unknown = {"share_of_limit": None, "share_in_all": None}  # products were timed in float32
    for weight_bytes in (2, 1, None):
        assert limit.shares(run | {"tokens_per_second": 25.0}, weight_bytes) == unknown
