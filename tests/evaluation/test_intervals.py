import pytest

from llama_factory.evaluation.exam import Exam
from llama_factory.evaluation.intervals import of_predictions, to_json
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
