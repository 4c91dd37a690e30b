import pytest

from llama_factory.evaluation.metrics import METRICS
from llama_factory.evaluation.metrics.exact_match import ExactMatch
from llama_factory.evaluation.metrics.token_f1 import TokenF1

PAIRS = [("a b", "a b"), ("a", "b"), ("", ""), ("a", ""), ("", "b"), ("你好", "你好吗"), ("!", "?")]


@pytest.mark.parametrize("name", METRICS.parts)
@pytest.mark.parametrize("pair", PAIRS)
def test_every_metric_stays_in_its_range_and_is_best_for_the_expected_text(name, pair):
    metric = METRICS.parse(name)
    assert metric.lowest <= metric.score(*pair) <= metric.highest
    best = metric.highest if metric.higher_is_better else metric.lowest
    assert metric.score(pair[0], pair[0]) == best


def test_exact_match_looks_past_case_and_spaces():
    assert ExactMatch().score("Sci  Tech", " sci tech\n") == 1
    assert ExactMatch().score("Sci Tech", "Sci-Tech") == 0


def test_token_f1_by_hand():
    # shared: the, b; precision 2/3, recall 2/4
    assert TokenF1().score("the a b c", "B the z") == pytest.approx(
        2 * (2 / 3) * 0.5 / (2 / 3 + 0.5)
    )


def test_token_f1_counts_chinese_by_character():
    assert TokenF1().score("保修三十一个月", "保修十个月") == pytest.approx(2 * 5 / (7 + 5))
    assert TokenF1().score("E47错误", "E47 错误") == 1
