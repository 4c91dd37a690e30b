"""Every piece of the check that a CPU can run, on a tiny model; the numbers are not looked at."""

import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CPU = torch.device("cpu")


@pytest.fixture
def models(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("gpu_models")


@pytest.fixture
def attention(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("gpu_attention")


@pytest.mark.slow
def test_each_format_learns_the_same_and_recomputing_changes_no_loss(models):
    exact = models.measure(models.Case("exact", dtype="float32"), models.TINY, CPU, 3)
    assert exact.losses[-1] < exact.losses[0]
    assert exact.peak_gib is None
    for dtype in ("bfloat16", "float16", "pure_bfloat16"):
        measured = models.measure(models.Case(dtype, dtype=dtype), models.TINY, CPU, 3)
        assert measured.losses == pytest.approx(exact.losses, rel=0.01), dtype
        assert measured.losses[-1] < measured.losses[0], dtype
        assert measured.peak_gib is None, dtype
    recomputing = models.Case("again", dtype="float32", recomputes=True)
    assert models.measure(recomputing, models.TINY, CPU, 3).losses == pytest.approx(exact.losses)


@pytest.mark.variants
@pytest.mark.skipif(torch.cuda.is_available(), reason="they can run where there is a GPU")
@pytest.mark.parametrize("options", [{"uses_liger": True}, {"attention": "flash_attention_2"}])
def test_what_cannot_run_here_says_why(models, options):
    told = models.measure(models.Case("it", **options), models.TINY, CPU, 2)
    assert "needs a CUDA GPU" in told


def test_flops_are_those_counted_by_hand(models):
    shape = models.Shape(64, 128, 2, 320, num_rows=1, length=16)
    model = models.random_model(models.Case("it", dtype="float32"), shape, CPU)
    linear = 2 * (4 * 64 * 64 + 3 * 64 * 128) + 64 * 320
    lora = 2 * models.RANK * (4 * (64 + 64) + 3 * (64 + 128))
    scores = 2 * 6 * 16 * 64
    assert models.flops_per_token(model.network, shape) == 4 * linear + 6 * lora + scores


def test_the_large_shape_has_seven_billion_weights(models):
    shape = models.SEVEN_B
    layer = 4 * shape.width**2 + 3 * shape.width * shape.inner
    total = shape.num_layers * layer + 2 * shape.vocabulary * shape.width
    assert math.isclose(total, 6.74e9, rel_tol=0.01)


def test_padded_attention_is_the_formula(attention):
    found = {k.name: k for k in attention.compare([3, 9, 5], heads=2, size=16, device=CPU)}
    assert found["torch sdpa, padded"].is_equal
    assert found["torch varlen, packed"].why_not == "needs a GPU"


def test_the_formula_lets_no_row_see_another(attention):
    query, key, value = (torch.randn(7, 2, 4) for _ in range(3))
    together = attention.formula(query, key, value, [3, 4])
    alone = attention.formula(query[3:], key[3:], value[3:], [4])
    torch.testing.assert_close(together[3:], alone)
    torch.testing.assert_close(together[0], value[0].double())


def run_check(*args):
    command = [sys.executable, BENCHMARKS / "gpu_check.py", *args]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
@pytest.mark.slow
def test_a_machine_without_a_gpu_is_told_so():
    assert run_check() == "gpu-check: torch sees no GPU here, so nothing was measured.\n"


@pytest.mark.slow
def test_the_whole_script_runs_on_a_cpu(tmp_path):
    out = tmp_path / "r.json"
    run_check("--device", "cpu", "--tiny", "--steps", "3", "--no-peer", "--out", out)
    results = json.loads(out.read_text())
    assert [row["format"] for row in results["formats"]][:2] == ["float32", "bfloat16"]
    assert all(row["loss_difference"] < 0.01 for row in results["formats"])
    assert results["ways"][0]["mfu"] > 0
    assert results["attention"][0]["is_equal"]
