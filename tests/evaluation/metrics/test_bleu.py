import math

import pytest

from llama_factory.evaluation.metrics.bleu import Bleu4
from llama_factory.evaluation.metrics.chrf import Chrf
from llama_factory.evaluation.metrics.corpus_bleu import CorpusBleu
from tests.evaluation.metrics.rows import corpus

ENGLISH = [
    ("the cat is on the mat", "the cat sat on the mat"),
    ("There is a cat on the mat.", "There is a dog, on the mat."),
    ("it's raining", "raining it is"),
    ("one two three four five", ""),
]
CHINESE = [
    ("您可以在三十天之内把包裹寄回来。", "您可以在三十天内寄回包裹。"),
    ("今天的天气很好", "今天天气好"),
    ("请联系 GPT4 客服", "请联系 gpt4 的客服"),
]


def texts(pairs):
    return [answer for _, answer in pairs], [[expected for expected, _ in pairs]]


@pytest.mark.parametrize(("pairs", "tokenizer"), [(ENGLISH, "13a"), (CHINESE, "zh")])
def test_corpus_bleu_is_that_of_sacrebleu(pairs, tokenizer):
    sacrebleu = pytest.importorskip("sacrebleu.metrics")
    expected = sacrebleu.BLEU(tokenize=tokenizer).corpus_score(*texts(pairs)).score
    assert 0 < expected < 100
    assert corpus(CorpusBleu(), *pairs) == pytest.approx(expected / 100, abs=1e-9)


@pytest.mark.parametrize("pairs", [ENGLISH, CHINESE, [("a", "b")], [("ab", "a")], [("", "x")]])
def test_chrf_is_that_of_sacrebleu(pairs):
    sacrebleu = pytest.importorskip("sacrebleu.metrics")
    theirs = sacrebleu.CHRF()
    expected = theirs.corpus_score(*texts(pairs)).score
    assert corpus(Chrf(), *pairs) == pytest.approx(expected / 100, abs=1e-9)
    for wanted, given in pairs:
        alone = theirs.sentence_score(given, [wanted]).score
        assert Chrf().score(wanted, given) == pytest.approx(alone / 100, abs=1e-9)


def test_chrf_by_hand():
    # ab against abc. n=1: precision 2/2, recall 2/3; n=2: 1/1, 1/2; n=3 has only one side
    precision, recall = 1.0, (2 / 3 + 1 / 2) / 2
    by_hand = 5 * precision * recall / (4 * precision + recall)
    assert Chrf().score("abc", "ab") == pytest.approx(by_hand)
    assert Chrf().score("退货政策", "退货 政策") == 1


@pytest.mark.parametrize("pairs", [ENGLISH, CHINESE, [("好的", "好的"), ("", "x"), ("x", "")]])
def test_bleu_4_is_that_of_nltk_over_characters(pairs):
    nltk = pytest.importorskip("nltk.translate.bleu_score")
    smooth = nltk.SmoothingFunction().method3
    for expected, answer in pairs:
        theirs = nltk.sentence_bleu([list(expected)], list(answer), smoothing_function=smooth)
        assert Bleu4().score(expected, answer) == theirs


def test_bleu_4_by_hand():
    # abcde against abcd: all n-grams of the answer are right, brevity penalty exp(1 - 5/4)
    assert Bleu4().score("abcde", "abcd") == pytest.approx(math.exp(1 - 5 / 4))
    # 退货政策 against 退货制度: 2 of 4 characters, 1 of 3 pairs, then a half of 2, a quarter of 1
    by_hand = (2 / 4 * 1 / 3 * 1 / 4 * 1 / 4) ** 0.25
    assert Bleu4().score("退货政策", "退货制度") == pytest.approx(by_hand)
    # two characters have no 3- and no 4-gram: 1/2 and 1/4 stand for them
    assert Bleu4().score("好的", "好的") == pytest.approx((1 / 2 * 1 / 4) ** 0.25)
    assert Bleu4().score("退货", "") == Bleu4().score("", "word") == Bleu4().score("ab", "cd") == 0


def test_bleu_of_a_row_is_1_for_the_expected_text_and_0_for_none():
    for text in ("a", "你", "", "!", "退货政策是什么？", "one two three four five"):
        assert CorpusBleu().score(text, text) == 1
    assert CorpusBleu().score("退货", "") == CorpusBleu().score("", "word") == 0


def test_bleu_of_a_row_by_hand():
    # Papineni's candidate 1-gram clipping: 'the' seven times, twice in the reference; then no
    # 2-gram matches, so the precisions are 2/7, 1/(2*6), 1/(4*5), 1/(8*4) with smoothing
    expected, answer = "the cat is on the mat", "the the the the the the the"
    precisions = (2 / 7, 1 / 12, 1 / 20, 1 / 32)
    by_hand = math.prod(precisions) ** 0.25
    assert CorpusBleu().score(expected, answer) == pytest.approx(by_hand)
    # a prefix of 4 of 6 words: all precisions are 1, the brevity penalty is exp(1 - 6/4)
    assert CorpusBleu().score(expected, "the cat is on") == pytest.approx(math.exp(1 - 6 / 4))
    # 4 of 6 Chinese characters, in order
    assert CorpusBleu().score("退货政策是的", "退货政策") == pytest.approx(math.exp(1 - 6 / 4))


def test_corpus_bleu_by_hand():
    # 1-grams 4/5 + 2/2 = 6/7; 2-grams 2/4 + 1/1 = 3/5; 3-grams 1/3; 4-grams 0/2 smoothed to 1/(2*2)
    pairs = [("a b c d e", "a b c x e"), ("f g", "f g")]
    precisions = (6 / 7, 3 / 5, 1 / 3, 1 / 4)
    assert corpus(CorpusBleu(), *pairs) == pytest.approx(math.prod(precisions) ** 0.25)
