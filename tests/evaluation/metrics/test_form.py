"""Metrics of an answer's form, whatever it says."""

import pytest

from llama_factory.evaluation.metrics.distinct_n import DistinctN
from llama_factory.evaluation.metrics.json_validity import JsonValidity
from llama_factory.evaluation.metrics.length_ratio import LengthRatio
from llama_factory.evaluation.metrics.repetition_rate import RepetitionRate
from llama_factory.evaluation.metrics.termination import Termination
from tests.evaluation.metrics.rows import answered, corpus


def test_distinct_n_counts_over_all_answers():
    pairs = [("", "the cat sat"), ("", "The cat ran")]
    # the-cat, cat-sat, the-cat, cat-ran: 3 of 4
    assert corpus(DistinctN(), *pairs) == pytest.approx(3 / 4)
    assert corpus(DistinctN(n=1), *pairs) == pytest.approx(4 / 6)
    assert DistinctN().score("", "the cat sat") == 1


def test_distinct_n_counts_chinese_by_character():
    # 好的 的好 好的: 2 of 3
    assert DistinctN().score("", "好的好的") == pytest.approx(2 / 3)
    assert [DistinctN().label, DistinctN(n=3).label] == ["distinct_n", "distinct_n:3"]


def test_repetition_by_hand():
    # 4-grams of a b a b a b a: abab, baba, abab, baba: 2 of 4 were there before
    assert RepetitionRate().score("", "a b a b a b a") == pytest.approx(0.5)
    assert RepetitionRate().score("", "a b c d e f") == 0
    assert RepetitionRate().score("", "too short") == 0
    # 很好 好很 很好 好很 很好: 3 of 5
    assert RepetitionRate(n=2).score("", "很好很好很好") == pytest.approx(3 / 5)
    assert [RepetitionRate().label, RepetitionRate(n=2).label] == ["repetition", "repetition:2"]


def test_length_is_the_shorter_over_the_longer():
    assert LengthRatio().score("one two three four", "one") == 0.25
    assert LengthRatio().score("好的", "好的好的好的好的") == 0.25
    assert LengthRatio().score("word", "!") == 0


def test_termination_is_the_share_that_ended_by_itself():
    rows = [answered("a", "b", is_cut=cut) for cut in (False, True, True, False)]
    scored = Termination().score_rows(rows)
    assert [each.score for each in scored] == [1, 0, 0, 1]
    assert Termination().total(scored) == 0.5


@pytest.mark.parametrize(
    ("answer", "is_valid"),
    [
        ('{"名字": "小明", "age": 3}', True),
        (' [{"a": 1}]\n', True),
        ('```json\n{"a": 1}\n```', True),
        ('Here it is: {"a": 1}', False),
        ("{'a': 1}", False),
        ("NaN", False),
        ("", False),
        ("[" * 100_000, False),
    ],
)
def test_valid_json(answer, is_valid):
    assert JsonValidity().score("", answer) == is_valid


def test_json_must_have_its_fields():
    metric = JsonValidity(fields=["name", "城市"])
    assert metric.score("", '{"name": 1, "城市": 2, "x": 3}') == 1
    assert metric.score("", '[{"name": 1, "城市": 2}]') == 1
    assert metric.score("", '[{"name": 1, "城市": 2}, {"name": 1}]') == 0
    assert metric.score("", '"name"') == metric.score("", "[]") == 0
