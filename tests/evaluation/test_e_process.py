"""The e-process: exact expectations, seeded simulations of errors and power, its bookkeeping."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_factory.evaluation.e_process import (
    FEWEST_FOR_INTERVAL,
    EProcess,
    Hypothesis,
    Stream,
    difference,
    log_least,
    log_mean,
    not_worse_by,
    worse,
)

ALPHA = 0.05
THRESHOLD = math.log(1 / ALPHA)
ARMS = st.sampled_from(["production", "candidate"])
OUTCOMES = st.lists(st.tuples(ARMS, st.booleans()), max_size=60)
RATES = st.floats(0.001, 0.999)
HYPOTHESES = st.sampled_from(
    [worse().null, not_worse_by(0.02).null, not_worse_by(0.3).null, not_worse_by(0).null]
)


def after(process, outcomes):
    for arm, bad in outcomes:
        process = process.add(arm, bad)
    return process


def expectation(process, sizes, rates):
    """Of the factor by which a block of these sizes multiplies e, over all that it may hold."""
    total = 0.0
    for bads in itertools.product(*(range(size + 1) for size in sizes)):
        chance = math.prod(
            math.comb(n, k) * p**k * (1 - p) ** (n - k)
            for n, k, p in zip(sizes, bads, rates, strict=True)
        )
        begun = process.add("production", bads[0], sizes[0])
        total += chance * math.exp(begun.add("candidate", bads[1], sizes[1]).log_e - process.log_e)
    return total


@pytest.mark.slow
@settings(max_examples=300)
@given(
    null=HYPOTHESES,
    past=OUTCOMES,
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    rates=st.tuples(RATES, RATES),
)
def test_no_bet_gains_while_the_hypothesis_holds(null, past, sizes, rates):
    """Exact: sums over every outcome of a block, whatever was seen before and however unequal."""
    process = after(EProcess(null), past)
    process = EProcess(null, *process.seen, log_e=process.log_e)  # the block begins here
    a, b = rates
    if not null.holds(a, b):
        b = min(max(a + null.margin, 0.0), 1.0)
        a = b - null.margin if null.side == -1 and a + null.margin > 1 else a
    assert null.holds(a, b) or abs(b - a - null.margin) < 1e-9
    assert expectation(process, sizes, (a, b)) <= 1 + 1e-7


@settings(max_examples=100)
@given(
    rates=st.tuples(RATES, RATES),
    sizes=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    margin=st.sampled_from([0.0, 0.02, 0.3]),
)
def test_the_nearest_rates_are_those_of_a_search(rates, sizes, margin):
    def distance(start):
        pairs = zip(sizes, rates, (start, start + margin), strict=True)
        return sum(
            n * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))) for n, p, q in pairs
        )

    tried = np.linspace(1e-4, 1 - margin - 1e-4, 4001)
    near = Hypothesis(margin, 1).nearest(*rates, sizes)
    assert near[1] - near[0] == pytest.approx(margin)
    assert distance(near[0]) <= distance(tried).min() + 1e-9


def stream_of_blocks(seed, rates, num_candidate, fraction=0.1):
    """Production outcomes (count, bad) before each outcome of the candidate, and that outcome."""
    rng = np.random.default_rng(seed)
    counts = rng.geometric(fraction, num_candidate) - 1
    return zip(
        counts.tolist(),
        rng.binomial(counts, rates[0]).tolist(),
        rng.binomial(1, rates[1], num_candidate).tolist(),
        strict=True,
    )


def first_crossing(process, blocks):
    """The number of the candidate's outcomes at which e exceeds 1/alpha; looks after each."""
    for number, (count, bads, bad) in enumerate(blocks, start=1):
        if count:
            process = process.add("production", bads, count)
        process = process.add("candidate", bad)
        if process.log_e > THRESHOLD:
            return number
    return None


def crossings(process, rates, runs, num_candidate=400):
    seen = [
        first_crossing(process, stream_of_blocks([run, 7], rates, num_candidate))
        for run in range(runs)
    ]
    return [number for number in seen if number is not None]


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.02, pytest.param(0.1, marks=pytest.mark.slow)])
def test_a_good_candidate_is_rarely_condemned_at_any_number_of_looks(rate):
    assert len(crossings(worse(), (rate, rate), 500, num_candidate=300)) <= ALPHA * 500


@pytest.mark.slow
def test_a_candidate_that_is_worse_by_delta_is_rarely_proven_harmless():
    proven = crossings(not_worse_by(0.1), (0.1, 0.2), 500, num_candidate=100)
    assert len(proven) <= ALPHA * 500


@pytest.mark.slow
def test_a_rate_that_changes_for_both_condemns_nobody():
    """The base rate swings by the hour: 1 % and 30 %, seen by both streams."""
    condemned = 0
    for run in range(200):
        process = worse()
        for hour in range(20):
            rate = (0.01, 0.3)[hour % 2]
            blocks = stream_of_blocks([run, hour], (rate, rate), 15)
            for count, bads, bad in blocks:
                process = process.add("production", bads, count) if count else process
                process = process.add("candidate", bad)
                condemned += process.log_e > THRESHOLD
                if process.log_e > THRESHOLD:
                    break
    assert condemned <= ALPHA * 200


@pytest.mark.slow
def test_two_to_six_percent_is_noticed():
    noticed = crossings(worse(), (0.02, 0.06), 200, num_candidate=600)
    assert len(noticed) >= 0.9 * 200
    assert np.median(noticed) < 300


@pytest.mark.slow
def test_a_candidate_that_is_as_good_is_proven_so():
    assert len(crossings(not_worse_by(0.1), (0.1, 0.1), 100, num_candidate=600)) >= 95


@pytest.mark.slow
@given(past=OUTCOMES, bads=st.lists(st.booleans(), min_size=1, max_size=20))
def test_outcomes_that_come_together_are_as_one_by_one(past, bads):
    process = after(not_worse_by(0.05), past)
    if process.open_candidate.count:
        process = process.add("production", bad=False)
    one_by_one = after(process, [("production", bad) for bad in bads])
    assert process.add("production", sum(bads), len(bads)) == one_by_one


@given(past=OUTCOMES, seed=st.integers(0, 100))
def test_outcomes_of_an_open_block_may_be_shuffled(past, seed):
    process = after(worse(), past)
    if process.open_candidate.count:
        process = process.add("production", bad=False)
    bads = np.random.default_rng(seed).permutation([True] * 3 + [False] * 7)
    shuffled = after(process, [("production", bool(bad)) for bad in bads])
    assert shuffled.add("candidate", True) == process.add("production", 3, 10).add(
        "candidate", True
    )


@given(outcomes=OUTCOMES)
def test_every_outcome_is_counted_and_json_changes_nothing(outcomes):
    process = after(not_worse_by(0.02), outcomes)
    for arm, stream in zip(("production", "candidate"), process.seen, strict=True):
        mine = [bad for other, bad in outcomes if other == arm]
        assert stream == Stream(len(mine), sum(mine))
    assert EProcess.from_json(process.to_json()) == process


def test_e_stays_as_it_is_until_both_streams_have_delivered():
    process = after(worse(), [("production", False)] * 5 + [("candidate", True)] * 3)
    waiting = after(process, [("candidate", True)] * 4)
    assert waiting.log_e == process.log_e
    assert waiting.add("production", bad=False).log_e > process.log_e


def test_nothing_is_bet_on_a_candidate_that_looks_better():
    process = after(worse(), [("production", True), ("candidate", False)] * 20)
    assert process.log_e == 0
    assert process.outcomes_needed(ALPHA) is None


def test_several_kinds_are_joined_by_their_mean_and_their_least():
    some = [EProcess(worse().null, log_e=math.log(e)) for e in (1, 2, 6)]
    assert math.exp(log_mean(some)) == pytest.approx(3)
    assert math.exp(log_least(some)) == pytest.approx(1)
    far = [EProcess(worse().null, log_e=log) for log in (5000.0, -5000.0)]
    assert log_mean(far) == pytest.approx(5000 - math.log(2))


def test_the_number_of_outcomes_still_needed_is_about_right():
    process = not_worse_by(0.1)
    for count, bads, bad in stream_of_blocks(3, (0.1, 0.1), 60):
        process = process.add("production", bads, count) if count else process
        process = process.add("candidate", bad)
    needed = process.outcomes_needed(ALPHA)
    more = first_crossing(process, stream_of_blocks(4, (0.1, 0.1), 2000))
    assert needed is not None
    assert needed / 4 <= more <= needed * 4
    sure = EProcess(process.null, log_e=THRESHOLD + 1)
    assert sure.outcomes_needed(ALPHA) == 0


@pytest.mark.slow
def test_the_interval_covers_the_difference_at_every_look():
    missed = 0
    for run in range(200):
        a = b = Stream()
        for count, bads, bad in stream_of_blocks([run, 11], (0.1, 0.2), 300):
            a, b = a.plus(count, bads), b.plus(1, bad)
            interval = difference(a, b, ALPHA)
            if interval.low is not None and not interval.low <= 0.1 <= interval.high:
                missed += 1
                break
    assert missed <= ALPHA * 200


def test_few_outcomes_give_no_interval():
    few = difference(Stream(100, 3), Stream(FEWEST_FOR_INTERVAL - 1, 1), ALPHA)
    assert (few.low, few.high) == (None, None)
    assert difference(Stream(), Stream(), ALPHA).value == 0
    none_bad = difference(Stream(100, 0), Stream(100, 0), ALPHA)
    assert none_bad.low < 0 < none_bad.high
