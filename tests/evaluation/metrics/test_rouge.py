import pytest

from llama_factory.evaluation.metrics.rouge import Rouge1, Rouge2, RougeL, words

METRICS = {"rouge-1": Rouge1(), "rouge-2": Rouge2(), "rouge-l": RougeL()}
THEIRS = [
    ("您可以在三十天之内把包裹寄回来。", "您可以在三十天内寄回包裹。", (66.6667, 37.5, 66.6667)),
    ("the cat is on the mat", "the Cat sat on the mat.", (54.5455, 36.3636, 61.5385)),
    ("第一段。\n\n第二段！ 第三段……", "第一段。\n第三段.......", (61.5385, 30.7692, 53.3333)),
    ("请联系 GPT4 客服", "请联系 gpt4 的客服", (66.6667, 28.5714, 66.6667)),
    ("你", "你", (100.0, 0.0, 100.0)),
]
"""Expected text, answer, and what LLaMA-Factory reports with rouge-chinese 1.0.3."""


def test_rouge_by_hand():
    # Lin 2004, section 3: S1 'police killed the gunman', S2 'police kill the gunman',
    # S3 'the gunman kill police': ROUGE-L of S2 is 3/4, of S3 2/4; ROUGE-2 of both is 1/3
    expected = "police killed the gunman"
    second, third = "police kill the gunman", "the gunman kill police"
    assert RougeL().score(expected, second) == pytest.approx(3 / 4)
    assert RougeL().score(expected, third) == pytest.approx(2 / 4)
    assert Rouge2().score(expected, second) == pytest.approx(1 / 3)
    assert Rouge2().score(expected, third) == pytest.approx(1 / 3)
    assert Rouge1().score(expected, third) == pytest.approx(3 / 4)


def test_rouge_counts_chinese_by_word():
    # 我们 | 一起 | 去 | 公园 against 我们 | 去 | 公园: precision 1, recall 3/4
    assert Rouge1().score("我们一起去公园", "我们去公园") == pytest.approx(2 * 0.75 / 1.75)


def test_case_and_marks_count_and_what_is_there_twice_counts_once():
    # a, b against A, b, !: 1 of 2 and 1 of 3
    assert Rouge1().score("a b", "A b!") == pytest.approx(2 / 5)
    assert Rouge1().score("a b", "a a a b") == 1
    # but a subsequence counts every word: 2 of 2 and 2 of 4
    assert RougeL().score("a b", "a a a b") == pytest.approx(4 / 6)


@pytest.mark.parametrize("metric", METRICS.values())
def test_the_expected_text_scores_one_and_nothing_scores_zero(metric):
    for text in ("退货政策是什么？", "one two three four five"):
        assert metric.score(text, text) == 1
    assert metric.score("退货", "") == metric.score("", "word") == metric.score("", " ") == 0


def test_a_single_word_has_no_pairs():
    for text in ("a", "你", "!"):
        assert Rouge1().score(text, text) == RougeL().score(text, text) == 1
        assert Rouge2().score(text, text) == 0


def test_words_are_jiebas_and_a_blank_line_is_one():
    assert words("The fox's den!") == ["The", "fox", "'", "s", "den", "!"]
    assert words("我们一起去公园散步吧。") == ["我们", "一起", "去", "公园", "散步", "吧", "。"]
    assert words("a\n\nb\nc\n") == ["a", "", "b", "c"]


@pytest.mark.parametrize(("expected", "answer", "theirs"), THEIRS)
def test_rouge_is_what_llama_factory_reports(expected, answer, theirs):
    found = [100 * metric.score(expected, answer) for metric in METRICS.values()]
    assert found == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize(("expected", "answer"), [row[:2] for row in THEIRS])
def test_rouge_is_that_of_rouge_chinese_where_it_is_installed(expected, answer):
    theirs = pytest.importorskip("rouge_chinese").Rouge()
    jieba = pytest.importorskip("jieba")
    (found,) = theirs.get_scores(*(" ".join(jieba.cut(text)) for text in (answer, expected)))
    for name, metric in METRICS.items():
        assert metric.score(expected, answer) == pytest.approx(found[name]["f"], abs=1e-7)
