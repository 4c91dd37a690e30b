"""The label that an answer names: many ways to say it, and many to mention another one."""

import pytest

from llama_factory.evaluation.labels import find_label

LETTERS = ("A", "B", "C", "D")
YES_NO = ("yes", "no")
NLI = ("entailment", "not_entailment")
THREE = ("entailment", "neutral", "contradiction")
FEELINGS = ("positive", "negative", "neutral", "very positive")


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        *(
            (text, "B")
            for text in ("B", "b", "(B)", "**B**", "B)", "B.", "[B]", "`B`", "B:", "_B_")
        ),
        *(
            (text, "B")
            for text in ("Ｂ", "（B）", "Option B", "option b.", "\\boxed{B}", "$B$", '"B"')
        ),
        ("B. Paris", "B"),
        ("B) Paris is a capital", "B"),
        ("B: A city", "B"),
        ("(B) because A is too small", "B"),
        ("B, since A would be a river.", "B"),
        ("A", "A"),
        ("a", "A"),
        ("(a)", "A"),
        ("A.", "A"),
        ("A: Paris", "A"),
        ("A Paris", "A"),
        ("A is correct.", "A"),
        ("A because it is small", "A"),
        ("A good choice would be B.", "B"),
        ("A good choice.", ""),
        ("It is a city on a river.", ""),
        ("I have a hunch that it is C.", "C"),
        ("<think>Is it A? no. B fits.</think>\nB", "B"),
        ("<think>A or C</think>A thought later: the answer is D", "D"),
        ("Is it A or B? Maybe A.</think> C", "C"),
        ("<think>I believe it is A, because", ""),
        ("<thinking>A</thinking>B", "B"),
        ("<think>one: A</think> B <think>two: C</think> D", "D"),
        ("Is it A? no. B fits.", "B"),
        ("B?", "B"),
        ("Could it be A? I do not think it is A. It is C.", "C"),
        ("The answer is (C) because A is wrong", "C"),
        ("The answer is C because A comes later.", "C"),
        ("The correct answer is **D**. A and B are too long.", "D"),
        ("A is wrong. B is wrong. C is right.", "C"),
        ("A: too long.\nB: too short.\nAnswer: C", "C"),
        ("A) is not right because of the date. The answer is C", "C"),
        ("Option A looks plausible, but option B is correct.", "B"),
        ("A and C are incorrect; D", "D"),
        ("A, B and C are wrong, so D", "D"),
        ("We can rule out A and B. It is D", "D"),
        ("B, A is wrong", "B"),
        ("It is not A and B is right", "B"),
        ("None of A, B, C; D it is", "D"),
        ("Not A but B.", "B"),
        ("It isn't A, it is B.", "B"),
        ("not A", ""),
        ("I'd go with C.", "C"),
        ("I would choose D over A", "D"),
        ("My choice is B rather than A", "B"),
        ("Rather than A, B.", "B"),
        ("The answer is A. Wait, that is wrong: the answer is B.", "B"),
        ("Let me see.\nA has four legs.\n\nB", "B"),
        ('{"answer": "B"}', "B"),
        ("**Answer:** B", "B"),
        ("Final answer: (B).", "B"),
        ("The best option would be B.", "B"),
        ("Answer: the letter C", "C"),
        ("A looks right at first, so D is tempting, therefore B.", "B"),
        ("don't know", ""),
        ("e.g. C++ or the U.S.A.", ""),
        ("Abc", ""),
        ("C'est B", "B"),
        ("", ""),
    ],
)
def test_letters(answer, label):
    assert find_label(answer, LETTERS) == label


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        *(
            (text, "B")
            for text in ("答案是B。选B", "选B", "应选B", "答案：B", "答案为（B）", "B项正确")
        ),
        *((text, "B") for text in ("故选B。", "我选择B", "正确答案是B", "选项B正确", "B是正确的")),
        ("选项A错误，选项B正确。", "B"),
        ("A不对，B才是答案", "B"),
        ("不选A，选B", "B"),
        ("不是A，是B", "B"),
        ("答案不是A，而是C", "C"),
        ("答案是C，而不是A", "C"),
        ("A、B都不对，答案是D", "D"),
        ("A和B都错，D", "D"),
        ("是A吗？不，应该是B。", "B"),
        ("因为A比较早，所以选C", "C"),
        ("B，因为A太大", "B"),
        ("这道题很难", ""),
    ],
)
def test_letters_in_chinese(answer, label):
    assert find_label(answer, LETTERS) == label


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("There is no doubt: yes.", "yes"),
        ("No doubt, yes.", "yes"),
        ("No doubt about it", ""),
        ("Yes, no question about it.", "yes"),
        ("No.", "no"),
        ("no", "no"),
        ("No, it does not.", "no"),
        ("No it does not", "no"),
        ("No because it is late", "no"),
        ("The answer is no", "no"),
        ("The answer is no because yes would be odd", "no"),
        ("The answer: Yes", "yes"),
        ("I know nothing", ""),
        ("There is no evidence that it holds, so yes.", "yes"),
        ("yesterday", ""),
        ("Is it? Yes.", "yes"),
        ("Yes or no? No.", "no"),
        ("<think>yes? yes!</think>no", "no"),
    ],
)
def test_yes_and_no(answer, label):
    assert find_label(answer, YES_NO) == label


@pytest.mark.parametrize(
    ("answer", "labels", "label"),
    [
        ("not entailment", NLI, "not_entailment"),
        ("Not-entailment.", NLI, "not_entailment"),
        ("not_entailment", NLI, "not_entailment"),
        ("NOT  ENTAILMENT", NLI, "not_entailment"),
        ("entailment", NLI, "entailment"),
        ("This is entailment.", NLI, "entailment"),
        ("not entailment", THREE, ""),
        ("not entailment but contradiction", THREE, "contradiction"),
        ("It is not an entailment; it is neutral.", THREE, "neutral"),
        ("no entailment", THREE, ""),
        ("The relation is contradiction, not entailment", THREE, "contradiction"),
        ("neither entailment nor contradiction: neutral", THREE, "neutral"),
        ("very positive", FEELINGS, "very positive"),
        ("The sentiment is positive", FEELINGS, "positive"),
        ("not positive", FEELINGS, ""),
        ("non-negative", FEELINGS, ""),
        ("isn't negative, it is positive", FEELINGS, "positive"),
        ("unpositive", FEELINGS, ""),
        ("toxic", ("toxic", "non-toxic"), "toxic"),
        ("non toxic", ("toxic", "non-toxic"), "non-toxic"),
        ("不好", ("好", "坏"), ""),
        ("不好", ("好", "不好"), "不好"),
        ("未通过", ("通过", "未通过"), "未通过"),
        ("未通过", ("通过", "失败"), ""),
        ("不属于体育，属于娱乐", ("体育", "娱乐"), "娱乐"),
        ("类别：体育", ("体育", "娱乐"), "体育"),
        ("体育新闻", ("体育", "体育新闻"), "体育新闻"),
        ("3", ("1", "2", "3"), "3"),
        ("The answer is 3.", ("1", "2", "3"), "3"),
        ("3.5", ("1", "2", "3"), ""),
        ("1,000", ("1", "2"), ""),
        ("-1", ("1", "-1"), "-1"),
        ("13", ("1", "3"), ""),
        ("C++", ("C", "C++"), "C++"),
        ("C++", ("C", "Java"), ""),
        ("II", ("I", "II", "III"), "II"),
        ("I think it is II.", ("I", "II", "III"), "II"),
        ("I", ("I", "II"), "I"),
        ("Statement I is correct", ("I", "II"), "I"),
        ("not true", ("true", "false"), ""),
        ("That is false.", ("true", "false"), "false"),
        ("The claim is false, although it sounds true.", ("true", "false"), "false"),
        ("anything", (), ""),
        ("anything", ("",), ""),
    ],
)
def test_words_that_contain_or_deny_one_another(answer, labels, label):
    assert find_label(answer, labels) == label
