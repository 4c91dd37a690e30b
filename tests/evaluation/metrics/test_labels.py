import math

import pytest

from llama_factory.evaluation.labels import find_label
from llama_factory.evaluation.metrics.accuracy import Accuracy
from llama_factory.evaluation.metrics.f1 import MacroF1, MicroF1
from tests.evaluation.metrics.rows import answered, score, task_row

TOPICS = ("World", "World news", "Sports", "Sci/Tech")


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("sports", "Sports"),
        ("It is Sports, not World.", "Sports"),
        ("World  News today", "World news"),
        ("Worldwide", ""),
        ("the underworld", ""),
        ("Sci/Tech!", "Sci/Tech"),
        ("答案是World。", "World"),
        ("", ""),
        ("politics", ""),
    ],
)
def test_the_first_label_in_an_answer_is_found(answer, label):
    assert find_label(answer, TOPICS) == label


def test_chinese_labels_are_found_inside_sentences():
    assert (
        find_label("这是一条体育新闻，不是娱乐新闻。", ["娱乐", "体育", "体育新闻"]) == "体育新闻"
    )
    assert find_label("时政", ["娱乐"]) == ""


def test_accuracy_takes_the_options_of_the_row():
    scores, total = score(
        Accuracy(),
        ("World", "World", *TOPICS),
        ("World", "World news", *TOPICS),
        ("Sports", "I think Sports", *TOPICS),
        ("Sports", "no idea", *TOPICS),
    )
    assert scores == [1, 0, 1, 0]
    assert total == 0.5


def test_without_options_the_labels_are_what_the_rows_expect():
    rows = [answered("好", "不好"), answered("不好", "不好"), answered("好", "好的")]
    scored = Accuracy().score_rows(rows)
    assert [each.answer for each in scored] == ["不好", "不好", "好"]
    assert [each.score for each in scored] == [0, 1, 1]


def test_f1_by_hand():
    rows = [("a", "a"), ("a", "b"), ("b", "b"), ("b", "nothing"), ("c", "a"), ("a", "a")]
    # a: TP 2, expected 3, answered 3 -> 4/6; b: TP 1, expected 2, answered 2 -> 2/4; c: 0/1
    expected = (4 / 6 + 2 / 4 + 0) / 3
    assert score(MacroF1(), *((*row, "a", "b", "c") for row in rows))[1] == pytest.approx(expected)
    # TP 3 of 5 answered labels and of 6 expected ones
    assert score(MicroF1(), *((*row, "a", "b", "c") for row in rows))[1] == pytest.approx(6 / 11)


def test_micro_f1_is_accuracy_where_every_answer_names_a_label():
    rows = [("好", "好", "好", "坏"), ("好", "坏", "好", "坏"), ("坏", "坏", "好", "坏")]
    assert score(MicroF1(), *rows)[1] == pytest.approx(score(Accuracy(), *rows)[1])


def test_macro_f1_counts_rare_labels_as_much_as_frequent_ones():
    rows = [*[("a", "a", "a", "b")] * 9, ("b", "a", "a", "b")]
    assert score(Accuracy(), *rows)[1] == pytest.approx(0.9)
    assert score(MacroF1(), *rows)[1] == pytest.approx(18 / 19 / 2)
    assert math.isnan(MacroF1().total([]))


def test_a_label_outside_the_options_is_refused():
    rows = [task_row("Sports", *TOPICS), task_row("Sport", *TOPICS, line=9)]
    assert Accuracy().unfit(rows) == (
        "rows.jsonl:9 expects 'Sport', which is not among its options (World, World news, Sports, "
        "Sci/Tech). Did you mean 'Sports'?"
    )


def test_free_answers_are_refused_as_labels():
    rows = [task_row(f"Answer {number}.") for number in range(30)]
    assert MacroF1().unfit(rows) == (
        "its 30 rows have 30 different expected answers, so these are no labels. Give the rows "
        "options, or use exact_match."
    )
    assert MacroF1().unfit([task_row("yes"), task_row("no")]) == ""
