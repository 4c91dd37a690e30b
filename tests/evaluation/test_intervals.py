import math

import pytest

from llama_factory.evaluation.exam import Exam
from llama_factory.evaluation.intervals import of_changes, of_predictions, to_json
from llama_factory.evaluation.marks import judge
from llama_factory.evaluation.metrics import METRICS
from llama_factory.evaluation.prediction import Prediction
from tests.evaluation.metrics.rows import task_row, text_row

ALL_ROWS = ["bleu", "chrf", "macro_f1", "micro_f1", "distinct_n"]
"""Metrics that are no mean over rows."""
EXPECTED = ["yes", "no", "maybe", "yes", "no", "no", "yes", "yes"]
ANSWERS = ["yes.", "yes", "Maybe!", "no idea", "yes", "no", "what?", "yes"]


def marked(*metrics):
    rows = tuple(task_row(each, line=n) for n, each in enumerate(EXPECTED))
    exam = Exam("t", (*rows, text_row()), tuple(map(METRICS.parse, metrics)), 8, 64)
    given = [Prediction("t", "?", e, a, tokens=3) for e, a in zip(EXPECTED, ANSWERS, strict=True)]
    return judge(exam, [*given, Prediction("t", "Once", "", "", tokens=3)])


@pytest.mark.parametrize("name", ["exact_match", "token_f1", "perplexity", *ALL_ROWS])
def test_intervals_of_kept_predictions_are_those_of_the_suites(name):
    marks = marked(name) if name != "perplexity" else marked()
    read = [Prediction.from_json(each.to_json()) for each in marks.predictions]
    found = of_predictions(read)["t"][name]
    assert found == marks.result.scores[name]
    if name in ALL_ROWS:
        assert found.low < found.value < found.high or name == "distinct_n"


def test_a_metric_whose_settings_are_not_known_has_no_interval():
    marks = marked({"type": "distinct_n", "n": 3}, "exact_match")
    assert set(of_predictions(marks.predictions)["t"]) == {"exact_match", "perplexity"}


def test_intervals_are_plain_values_for_a_report():
    told = to_json(of_predictions(marked("macro_f1").predictions))
    assert set(told["t"]["macro_f1"]) == {"value", "low", "high", "count"}
    assert told["t"]["macro_f1"]["count"] == len(EXPECTED)


def judged(task, scores, metric="token_f1"):
    return [
        Prediction(task, "?", "", "", {metric: score}, key=str(number))
        for number, score in enumerate(scores)
    ]


def test_a_change_is_paired_by_row_whatever_the_order_of_the_rows():
    before, after = [0.25, 0.875, 0.5, math.nan], [0.5, 0.75, 1.0, math.nan]
    earlier = [*judged("other", [1.0]), *judged("t", [0.0]), *judged("t", before)]
    later = [*reversed(judged("t", after)), *judged("new", [1.0])]
    found = of_changes(earlier, later, "token_f1")
    assert list(found) == ["t"]  # of "new" nothing is known before
    changes = [0.25, -0.125, 0.5]
    assert found["t"].count == 3
    assert found["t"].value == pytest.approx(sum(changes) / 3)
    assert -0.125 <= found["t"].low < found["t"].value < found["t"].high <= 0.5


def test_a_change_is_told_only_of_the_same_rows_and_of_means():
    one = judged("t", [0.5, 0.5])
    assert of_changes(one, judged("t", [0.5, math.nan]), "token_f1") == {}
    assert of_changes(one, judged("t", [0.5, 0.5, 0.5]), "token_f1") == {}
    assert of_changes(one, one, "exact_match") == {}
    assert of_changes(judged("t", [1, 0], "bleu"), judged("t", [1, 0], "bleu"), "bleu") == {}
