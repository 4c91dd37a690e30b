import pytest

from llama_factory.evaluation.metrics import METRICS
from llama_factory.evaluation.scoring import (
    intervals_to_json,
    score_intervals,
    score_task,
)
from llama_factory.evaluation.task_rows import Prediction
from llama_factory.evaluation.tasks import EvalTask
from tests.evaluation.metrics.rows import task_row, text_row

ALL_ROWS = ["bleu", "chrf", "macro_f1", "micro_f1", "distinct_n"]
"""Metrics that are no mean over rows."""
EXPECTED = ["yes", "no", "maybe", "yes", "no", "no", "yes", "yes"]
ANSWERS = ["yes.", "yes", "Maybe!", "no idea", "yes", "no", "what?", "yes"]


def scored_task(*metrics):
    rows = tuple(task_row(each, line=n) for n, each in enumerate(EXPECTED))
    task = EvalTask("t", (*rows, text_row()), tuple(map(METRICS.parse, metrics)), 8, 64)
    given = [Prediction("t", "?", e, a, tokens=3) for e, a in zip(EXPECTED, ANSWERS, strict=True)]
    return score_task(task, [*given, Prediction("t", "Once", "", "", tokens=3)])


@pytest.mark.parametrize("name", ["exact_match", "token_f1", "perplexity", *ALL_ROWS])
def test_intervals_of_kept_predictions_are_those_of_the_suites(name):
    scored = scored_task(name) if name != "perplexity" else scored_task()
    read = [Prediction.from_json(each.to_json()) for each in scored.predictions]
    found = score_intervals(read)["t"][name]
    assert found == scored.result.scores[name]
    if name in ALL_ROWS:
        assert found.low < found.value < found.high or name == "distinct_n"


def test_a_metric_whose_settings_are_not_known_has_no_interval():
    scored = scored_task({"type": "distinct_n", "n": 3}, "exact_match")
    assert set(score_intervals(scored.predictions)["t"]) == {"exact_match", "perplexity"}


def test_intervals_are_plain_values_for_a_report():
    values = intervals_to_json(score_intervals(scored_task("macro_f1").predictions))
    assert set(values["t"]["macro_f1"]) == {"value", "low", "high", "count"}
    assert values["t"]["macro_f1"]["count"] == len(EXPECTED)
