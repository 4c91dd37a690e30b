"""The comparison of number formats runs from end to end."""

import pytest

from tests.benchmarks.test_quick import DEMO_SETS, quick


@pytest.mark.slow
@pytest.mark.skipif(not DEMO_SETS.exists(), reason="the demo sets are not beside this checkout")
def test_number_formats_are_compared_with_float32(tmp_path, tiny_model):
    results = quick("weights_quality.py", tmp_path / "r.json", DEMO_SETS, "--model", tiny_model)
    by_name = {run["weights"]: run for run in results["runs"]}
    assert list(by_name) == ["float32", "bfloat16", "int8"]
    assert by_name["float32"]["tokens_equal"] == 1
    assert by_name["float32"]["en"]["kl"] == pytest.approx(0, abs=1e-5)
    assert by_name["int8"]["bytes"] < 0.4 * by_name["float32"]["bytes"]
    assert all(len(run["milliseconds"]) == 7 for run in results["runs"])
