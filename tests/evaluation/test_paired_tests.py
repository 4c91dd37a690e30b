"""Paired tests against tables, closed forms and simulated rows whose truth is known."""

import math

import numpy as np
import pytest

from llama_factory.evaluation import paired_tests
from llama_factory.evaluation.paired_tests import (
    change_bounds,
    holm,
    mean_bounds,
    p_below,
    ratio_bounds,
    rows_needed,
    rows_needed_above,
    student,
)

T_TABLE = {1: 6.3138, 2: 2.9200, 3: 2.3534, 5: 2.0150, 10: 1.8125, 30: 1.6973, 120: 1.6577}
"""Student's t at 95 %, as printed in tables."""


@pytest.mark.parametrize("freedom", T_TABLE)
def test_quantiles_of_student_are_those_of_the_tables(freedom):
    assert student(0.95, freedom) == pytest.approx(T_TABLE[freedom], rel=0.005)


def test_rows_without_a_change_do_not_pass_for_certain_when_they_are_few():
    assert change_bounds(np.zeros(10), 0.95).outcome(-0.1) == "undecided"
    assert change_bounds(np.zeros(60), 0.95).outcome(-0.1) == "passed"
    needed = rows_needed(np.zeros(10), -0.1, 0.95)
    assert change_bounds(np.zeros(needed), 0.95).outcome(-0.1) == "passed"


def test_a_change_by_hand():
    changes = np.array([1, -1, 0, 0, 0, 0, 0, 0.0])
    bounds = change_bounds(changes, 0.95)
    error = math.sqrt((2 + 2) / 10 / 10)  # with the two added rows: mean 0, mean square 0.4
    assert bounds.low == pytest.approx(-1.644854 * error, rel=1e-5)
    assert bounds.high == pytest.approx(1.644854 * error, rel=1e-5)
    assert p_below(changes, -0.1) == pytest.approx(0.5 * math.erfc(-0.1 / error / math.sqrt(2)))


def test_no_rows_one_row_and_equal_values_are_no_division_by_zero():
    assert change_bounds(np.zeros(0), 0.95).outcome(0.0) == "failed"  # no value at all
    assert mean_bounds(np.array([2.0]), 0.95).outcome(0.0) == "undecided"
    same = mean_bounds(np.full(5, 0.25), 0.95)
    assert (same.low, same.high) == (0.25, 0.25)
    assert ratio_bounds(np.zeros(3), np.zeros(3), 0.95).count == 0
    assert ratio_bounds(np.zeros(3), np.ones(3), 0.95).outcome(-0.1) == "passed"
    assert mean_bounds(np.array([1.0, math.nan]), 0.95).outcome(0.0) == "failed"
    assert rows_needed(np.zeros(0), -0.1, 0.95) is None


def test_a_change_on_the_limit_itself_needs_more_rows_than_anybody_has():
    changes = np.array([-1.0] + [0.0] * 9)
    assert rows_needed(changes, -0.1, 0.95) is None


def test_the_limit_is_held_wrongly_in_one_of_twenty_samples_at_most():
    """A version that loses exactly what is allowed passes with a chance of 5 %, however many
    answers change in both directions."""
    rng = np.random.default_rng(0)
    for lost, won in ((0.1, 0.0), (0.2, 0.1)):
        for count in (20, 50, 300):
            draws = rng.choice([-1.0, 1.0, 0.0], p=[lost, won, 1 - lost - won], size=(2000, count))
            passed = [change_bounds(row, 0.95).outcome(-0.1) == "passed" for row in draws]
            assert np.mean(passed) < 0.075, (lost, won, count)


def test_the_rows_that_are_named_are_enough_four_times_in_five():
    rng = np.random.default_rng(1)
    seen = np.array([-1.0, 1.0] + [0.0] * 18)  # 5 % each way, no change of the mean
    needed = rows_needed(seen, -0.1, 0.95)
    draws = rng.choice([-1.0, 1.0, 0.0], p=[0.05, 0.05, 0.9], size=(1000, needed))
    passed = [change_bounds(row, 0.95).outcome(-0.1) == "passed" for row in draws]
    assert 0.7 < np.mean(passed) < 0.92


def test_holm_as_in_the_paper():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_the_bounds_of_a_ratio_cover_it():
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(500):
        wholes = rng.integers(1, 40, 40).astype(float)
        parts = 0.3 * wholes + rng.normal(0, 1, 40) * np.sqrt(wholes)
        covered += ratio_bounds(parts, wholes, 0.95).low <= 0.3
    assert 0.92 < covered / 500 < 0.98


def test_more_rows_are_named_than_there_are():
    values = np.array([0.1, -0.3, 0.5, 0.2])
    assert rows_needed_above(values, 0.0, 0.95) > 4
    assert paired_tests.rows_needed_above(np.array([1.0]), 0.0, 0.95) is None
