import pytest

from llama_factory.core.types import TEXT, Example, Message
from llama_factory.evaluation.suites.robustness import ALL, noisy
from llama_factory.evaluation.task_rows import TaskRow


def row(question, answer):
    return TaskRow(Example((Message("user", question), Message("assistant", answer)), "g", "f", 1))


ENGLISH = row("What is the refund policy, and how long does it take?", "30 days")
CHINESE = row("你们的退货政策是什么，需要多长时间？", "三十天")
LISTED = row("Is it good?\nOptions: good, bad, so-so\nAnswer:", "bad")
CHINESE_LIST = row("这条评论怎么样？\n选项：好评、差评、中评\n答案：", "差评")
LETTERED = row("Which one?\nA. red\nB. green\nC. blue", "B")
WORDED = row("选哪个？\nA、红色\nB、绿色\nC、蓝色", "绿色")
TEXT_ROW = TaskRow(Example((Message(TEXT, "Plain text, nobody asks."),), "g", "f", 1))
ROWS = [ENGLISH, CHINESE, LISTED, CHINESE_LIST, LETTERED, WORDED, TEXT_ROW]


def asked(found):
    return found.row.example.prompt[-1].content


@pytest.mark.parametrize("noise", ALL)
def test_noise_changes_the_question_and_keeps_its_meaning(noise):
    found = noisy(ROWS, noise, rate=0.1)
    assert found
    for each in found:
        clean = ROWS[each.place]
        assert asked(each) != clean.example.prompt[-1].content
        if noise != "options":
            assert each.row.expected == clean.expected
    assert found == noisy(ROWS, noise, rate=0.1)
    assert 6 not in [each.place for each in found]  # plain text asks nothing


def test_typing_mistakes_are_those_of_the_language():
    assert {each.place for each in noisy(ROWS, "typos", rate=0.1)} == {0, 2, 4}
    assert {each.place for each in noisy(ROWS, "homophones", rate=0.1)} == {1, 3, 5}


def test_a_higher_rate_changes_more():
    clean = ENGLISH.example.prompt[-1].content
    few, many = (asked(noisy([ENGLISH], "typos", rate=rate)[0]) for rate in (0.02, 0.5))
    differences = [sum(a != b for a, b in zip(each, clean, strict=False)) for each in (few, many)]
    assert differences[0] < differences[1]


@pytest.mark.parametrize("clean", [LISTED, CHINESE_LIST])
def test_listed_options_change_places(clean):
    (found,) = noisy([clean], "options", rate=0.1)
    assert found.row.expected == clean.expected
    before = clean.example.prompt[-1].content
    assert sorted(asked(found)) == sorted(before)
    assert asked(found).splitlines()[::2] == before.splitlines()[::2]


def test_an_expected_letter_follows_its_option():
    (found,) = noisy([LETTERED], "options", rate=0.1)
    letter = found.row.expected
    assert f"{letter}. green" in asked(found)
    assert "B. green" not in asked(found)
    (found,) = noisy([WORDED], "options", rate=0.1)
    assert found.row.expected == "绿色"
    assert "B、绿色" not in asked(found)


def test_a_word_of_one_letter_is_no_option():
    clean = row("How does it begin?\nA. late\nB. early", "A train leaves at nine.")
    (found,) = noisy([clean], "options", rate=0.1)
    assert found.row.expected == "A train leaves at nine."
    (found,) = noisy([row("Which?\nA) late\nB) early", "(B) early")], "options", rate=0.1)
    assert found.row.expected == "(A) early"


def test_rows_without_options_have_no_other_order():
    assert noisy([ENGLISH, CHINESE], "options", rate=0.1) == []
    assert noisy([row("A. one\nB. one", "A")], "options", rate=0.1) == []  # which A is meant?


def test_distraction_speaks_the_language_of_the_question():
    english, chinese = noisy([ENGLISH, CHINESE], "distraction", rate=0.1)
    assert asked(english).endswith(ENGLISH.example.prompt[-1].content)
    assert asked(english).isascii()
    assert asked(chinese)[0] > "\u4e00"
