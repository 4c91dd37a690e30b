"""Rows drawn with a known mean, and as many changes as real ones have."""

import numpy as np
import pytest

from llama_factory.evaluation.simulated_drops import mean_of, tilted


@pytest.mark.parametrize("drop", [0.0, 0.02, 0.1, 0.5, -0.1])
@pytest.mark.parametrize("changes", [[0, 0, 0], [1, -1, 0, 0, 0], [0.5, -0.2, 0, 0], [-1] * 9, []])
def test_the_true_mean_is_the_drop(drop, changes):
    values, weights = tilted(np.array(changes, dtype=float), drop)
    assert mean_of(values, weights) == pytest.approx(-drop, abs=1e-6)
    assert weights.sum() == pytest.approx(1)
    assert len(values) == len(changes) + 2


def test_answers_go_on_changing_in_both_directions():
    changes = np.array([1.0] * 10 + [-1.0] * 10 + [0.0] * 80)
    values, weights = tilted(changes, 0.0)
    assert float(weights @ np.abs(values)) == pytest.approx(0.2, abs=0.02)
