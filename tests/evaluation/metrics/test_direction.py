"""Every metric: a right answer is no worse than a wrong one in the direction that it declares."""

import sys

import pytest

from llama_factory.evaluation.metrics import METRICS
from llama_factory.evaluation.task_rows import ScoredRow
from tests.evaluation.metrics.rows import answered
from tests.evaluation.metrics.test_preference import judge, longer

RIGHT = "one two three four five"
WRONG = ["", "no", "五", "five four three two one", f"{RIGHT} {RIGHT}", "loop " * 20]
FORMS = {
    "distinct_n": (RIGHT, "loop " * 20),
    "repetition": (RIGHT, "loop " * 20),
    "json_validity": ('{"a": 1}', "a is 1"),
}
"""A good and a bad answer by metrics that judge its form alone."""


def of_texts(name, tmp_path):
    metric = METRICS.parse(name)
    wrong = [metric.score_rows([answered(RIGHT, text)]) for text in WRONG]
    return metric, metric.score_rows([answered(RIGHT, RIGHT)]), wrong


def of_forms(name, tmp_path):
    metric = METRICS.parse(name)
    good, bad = (metric.score_rows([answered(RIGHT, text)]) for text in FORMS[name])
    return metric, good, [bad]


def of_termination(name, tmp_path):
    metric = METRICS.parse(name)
    ended, cut = (metric.score_rows([answered("a", "a", is_cut=each)]) for each in (False, True))
    return metric, ended, [cut]


def of_pass_rate(name, tmp_path):
    if sys.platform == "win32":
        pytest.skip("limits need a POSIX system")
    metric = METRICS.parse({"type": name, "allow_code": True, "memory_mb": 256})
    good, bad = (metric.score_rows([answered("assert x == 1", f"x = {n}")]) for n in (1, 2))
    return metric, good, [bad]


def of_custom(name, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def score(expected, answer):\n    return expected == answer\n", "utf-8")
    metric = METRICS.parse({"type": name, "path": str(file)})
    good, bad = (metric.score_rows([answered("a", text)]) for text in ("a", "b"))
    return metric, good, [bad]


def of_preference(name, tmp_path):
    with judge(longer) as (url, _):
        metric = METRICS.parse({"type": name, "url": url, "model": "judge"})
        good, bad = (metric.score_rows([answered("middle", t)]) for t in ("much longer", "no"))
    return metric, good, [bad]


def of_likelihood(name, tmp_path):
    """What a model measures: it is certain of every token, or finds another option likelier."""
    certain, unsure = {"perplexity": (1.0, 50.0), "label_likelihood": (1.0, 0.0)}[name]
    return (
        METRICS.parse(name),
        [ScoredRow("a", "a", certain, 3.0)],
        [[ScoredRow("a", "b", unsure, 3.0)]],
    )


OTHERS = {
    **dict.fromkeys(FORMS, of_forms),
    "termination": of_termination,
    "pass_rate": of_pass_rate,
    "custom": of_custom,
    "preference": of_preference,
    "perplexity": of_likelihood,
    "label_likelihood": of_likelihood,
}
"""Metrics that need more than an expected text and an answer, or judge something else."""


@pytest.mark.variants
@pytest.mark.parametrize("name", METRICS.parts)
def test_a_right_answer_is_better_in_the_declared_direction_and_all_lie_in_the_range(
    name, tmp_path
):
    metric, right, wrong = OTHERS.get(name, of_texts)(name, tmp_path)
    sign = 1 if metric.higher_is_better else -1
    best = metric.total(right)
    gaps = [sign * (best - metric.total(each)) for each in wrong]
    assert min(gaps) >= 0
    assert max(gaps) > 0
    for rows in (right, *wrong):
        for value in (metric.total(rows), *(row.score for row in rows)):
            assert metric.lowest <= value <= metric.highest
