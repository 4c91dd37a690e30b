"""How sure AA, LA, BWT, forgetting and FWT are, from answers that are made up."""

import json
import math

import numpy as np
import pytest

from llama_factory.evaluation import statistics
from llama_factory.evaluation.forgetting import summary_intervals
from tests.evaluation.lineages import answers, matrix_of

RNG = np.random.default_rng(0)
F1 = "token_f1"


def scores(count=60, low=0.0, high=1.0):
    return RNG.uniform(low, high, count).tolist()


FIRST = {"v0001 a": scores()}
LAST = {"v0001 a": [max(0.0, s - 0.1) for s in FIRST["v0001 a"]], "v0002 b": scores()}
UNTAUGHT, BASE_A, BASE_B = {"v0002 b": scores()}, {"v0001 a": scores()}, {"v0002 b": scores()}
ANSWERS = {
    "v0000": answers(BASE_A, F1) + answers(BASE_B, F1),
    "v0001": answers(FIRST, F1) + answers(UNTAUGHT, F1),
    "v0002": answers(LAST, F1),
}
MATRIX = matrix_of(
    {"v0001": FIRST, "v0002": LAST}, untaught=[BASE_A, UNTAUGHT], base=[BASE_A, BASE_B]
)


def test_every_number_has_an_interval_around_the_value_that_is_told():
    found = summary_intervals(MATRIX, ANSWERS)
    assert list(found) == list(MATRIX.summary)
    for name, each in found.items():
        assert each.value == MATRIX.summary[name]
        assert each.low < each.value < each.high
    counts = [each.count for each in found.values()]
    assert counts == [120, 120, 60, 60, 60]  # BWT and forgetting: task a alone; FWT: task b alone


def test_the_interval_of_an_average_is_near_the_normal_one_of_a_stratified_sample():
    # the variance of a mean over tasks is the mean of the tasks' variances over their number
    found = summary_intervals(MATRIX, ANSWERS)["average"]
    variances = [np.var(rows, ddof=1) / len(rows) for rows in LAST.values()]
    half = 1.96 * math.sqrt(sum(variances)) / len(variances)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.08)


def test_backward_transfer_of_one_task_is_its_paired_difference():
    pairs = FIRST["v0001 a"], LAST["v0001 a"]
    found, wanted = (
        summary_intervals(MATRIX, ANSWERS)["backward_transfer"],
        statistics.difference(*pairs),
    )
    assert (found.value, found.low, found.high) == pytest.approx(
        (wanted.value, wanted.low, wanted.high), abs=2e-3
    )
    # each row lost about as much as any other, so the loss is far surer than either score
    apart = statistics.mean(pairs[0])
    assert found.high - found.low < 0.2 * (apart.high - apart.low)
    assert found.is_below_zero


def test_forgetting_is_against_the_best_round_of_each_resample():
    middle = {"v0001 a": scores(), "v0002 b": scores()}
    last = {"v0001 a": scores(), "v0002 b": scores(), "v0003 c": scores()}
    taught = {"v0001": FIRST, "v0002": middle, "v0003": last}
    found = summary_intervals(
        matrix_of(taught), {name: answers(r, F1) for name, r in taught.items()}
    )
    assert found["forgetting"].low < found["forgetting"].value < found["forgetting"].high
    assert found["forgetting"].value >= -found["backward_transfer"].value


def test_rows_that_were_not_kept_leave_out_only_what_needs_them():
    without_base = {name: rows for name, rows in ANSWERS.items() if name != "v0000"}
    found = summary_intervals(MATRIX, without_base)
    assert set(found) == {"average", "learned", "backward_transfer", "forgetting"}
    only_last = {"v0002": ANSWERS["v0002"]}
    assert set(summary_intervals(MATRIX, only_last)) == {"average"}
    assert summary_intervals(MATRIX, {}) == {}


def test_rows_that_do_not_come_to_the_score_told_have_no_interval():
    others = {**ANSWERS, "v0002": answers({"v0001 a": scores(), "v0002 b": scores()}, F1)}
    assert set(summary_intervals(MATRIX, others)) == {"forward_transfer"}


def test_a_question_that_was_retired_counts_only_where_it_was_asked():
    last = {"v0001 a": LAST["v0001 a"][:40], "v0002 b": LAST["v0002 b"]}
    matrix = matrix_of({"v0001": FIRST, "v0002": last})
    found = summary_intervals(matrix, {"v0001": answers(FIRST, F1), "v0002": answers(last, F1)})
    lost = matrix.summary["backward_transfer"]
    assert found["backward_transfer"].value == lost
    assert found["backward_transfer"].low < lost < found["backward_transfer"].high


@pytest.mark.parametrize("same", [0.0, 1.0])
def test_rows_that_are_all_alike_tell_nothing_of_chance(same):
    rows = {"v0001 a": [same] * 20}
    assert summary_intervals(matrix_of({"v0001": rows}), {"v0001": answers(rows, F1)}) == {}


def test_one_row_tells_nothing_of_chance():
    rows = {"v0001 a": scores(), "v0001 b": [0.5]}
    assert summary_intervals(matrix_of({"v0001": rows}), {"v0001": answers(rows, F1)}) == {}


def test_a_score_that_is_no_mean_over_rows_has_none_here():
    matrix = matrix_of({"v0001": FIRST}, "macro_f1")
    assert summary_intervals(matrix, {"v0001": answers(FIRST, "macro_f1")}) == {}


def test_a_row_that_could_not_be_judged_is_no_answer():
    kept = answers(FIRST, F1)
    unjudged = [*kept[:1], *answers({"v0001 a": [math.nan]}, F1)]
    unjudged[1] = type(kept[0])("v0001 a", "?", "!", "!", {F1: math.nan}, key="unheard of")
    matrix = matrix_of({"v0001": FIRST})
    assert summary_intervals(matrix, {"v0001": [*kept, unjudged[1]]})["average"].count == 60


def test_intervals_are_plain_json():
    from dataclasses import replace

    values = json.loads(
        json.dumps(replace(MATRIX, intervals=summary_intervals(MATRIX, ANSWERS)).to_json())
    )
    assert values["average"] == values["intervals"]["average"]["value"]
    assert set(values["intervals"]["forward_transfer"]) == {"value", "low", "high", "count"}
