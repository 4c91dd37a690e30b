import math

import numpy as np
import pytest

from llama_factory.evaluation import statistics


@pytest.mark.parametrize(
    ("num_right", "count", "low", "high"),
    # Wilson's interval without continuity correction, Newcombe 1998, table I
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_equals_published_values(num_right, count, low, high):
    found = statistics.proportion(num_right, count)
    assert found.low == pytest.approx(low, abs=1e-4)
    assert found.high == pytest.approx(high, abs=1e-4)
    assert found.value == num_right / count


def test_proportions_get_wilson_and_other_scores_the_bootstrap():
    assert statistics.mean([1, 0, 1.0, 1]) == statistics.proportion(3, 4)
    found = statistics.mean([0.2, 0.4, 0.9])
    assert found.value == pytest.approx(0.5)
    assert 0.2 <= found.low < found.value < found.high <= 0.9


def test_the_bootstrap_of_a_mean_is_near_the_normal_interval():
    values = np.random.default_rng(1).normal(5, 2, 400).tolist()
    found = statistics.mean(values)
    half = 1.96 * np.std(values, ddof=1) / math.sqrt(400)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)


@pytest.mark.slow
def test_95_percent_intervals_hold_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(0)
    samples = rng.beta(2, 3, size=(300, 60))
    found = [statistics.mean(sample.tolist(), seed=n) for n, sample in enumerate(samples)]
    share = np.mean([each.low <= 0.4 <= each.high for each in found])
    assert 0.90 <= share <= 0.98


def test_the_same_rows_and_seed_give_the_same_interval():
    values = np.random.default_rng(0).uniform(size=30).tolist()
    assert statistics.mean(values) == statistics.mean(values)
    assert statistics.mean(values, seed=1) != statistics.mean(values, seed=2)


def test_perplexity_counts_tokens_and_not_rows():
    found = statistics.perplexity([2.0, 30.0, 0.0], [2, 10, 0])
    assert found.value == pytest.approx(math.exp(32 / 12))
    assert found.count == 2  # a row without tokens was not measured
    assert math.exp(1) <= found.low <= found.value <= found.high <= math.exp(3) + 1e-9


def test_a_paired_difference_is_surer_than_two_intervals():
    rng = np.random.default_rng(0)
    before = rng.uniform(0, 0.9, 50)
    after = before + 0.05
    found = statistics.difference(before.tolist(), after.tolist())
    assert found.value == pytest.approx(0.05)
    assert found.is_above_zero
    assert not found.is_below_zero
    apart = statistics.mean(before.tolist()), statistics.mean(after.tolist())
    assert apart[0].high > apart[1].low


def test_no_difference_is_told_from_chance():
    found = statistics.difference([0, 1, 0, 1] * 10, [1, 0, 0, 1] * 10)
    assert found.value == 0
    assert not found.is_above_zero
    assert not found.is_below_zero


def test_a_share_that_is_kept_is_a_ratio_of_sums():
    assert statistics.ratio([1, 0, 1], [1, 1, 0.5]).value == pytest.approx(2 / 2.5)
    assert math.isnan(statistics.ratio([0, 0], [0, 0]).value)


def test_any_function_of_rows_has_an_interval():
    found = statistics.of_rows([1.0, 2.0, 9.0], max)
    assert (found.value, found.high, found.count) == (9.0, 9.0, 3)
    assert found.low < 9


@pytest.mark.parametrize("values", [[], [0.3]])
def test_too_few_rows_have_no_interval(values):
    found = statistics.mean(values)
    assert found.low is found.high is None
    assert found.count == len(values)
    assert not found.is_above_zero
    assert not found.is_below_zero


def test_no_value_is_null_in_json():
    assert statistics.mean([]).to_json() == {"value": None, "low": None, "high": None, "count": 0}
