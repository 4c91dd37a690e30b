import pytest
from pydantic import ValidationError

from llama_factory.core.types import Example, Message
from llama_factory.data.cleaning import Dropped
from llama_factory.data.cleaning.language import Language
from tests.data.cleaning.rows import CODE, SAMPLES, chat, plain

FRENCH = "Le petit chat dort sur le canapé pendant que les enfants jouent dans le jardin."
JAPANESE = "東京は日本の首都であり、世界でも最も人口の多い都市の一つです。"
BOTH = Language(keep=("en", "zh"))


def test_wanted_languages_code_and_short_answers_stay():
    for text in SAMPLES:
        for row in (chat("Why?", text), chat("为什么会这样呢？请解释。", text), plain(text)):
            assert BOTH.clean(row) is row


@pytest.mark.parametrize(("text", "code"), [(FRENCH, "fr"), (JAPANESE, "ja")])
def test_other_languages_are_dropped_by_name(text, code):
    reason = Dropped(f"language is {code}, kept are en, zh")
    assert BOTH.clean(plain(text)) == reason
    assert BOTH.clean(chat(text, text)) == reason
    assert BOTH.clean(chat(text, "42")) == reason


def test_a_question_or_an_answer_in_a_wanted_language_keeps_the_row():
    for row in (
        chat("Translate this English sentence into French, please: the cat sleeps.", FRENCH),
        chat(FRENCH, "The little cat sleeps on the couch while the children play outside."),
        chat("请把下面的句子翻译成法语：小猫在沙发上睡觉。", FRENCH),
    ):
        assert BOTH.clean(row) is row


def test_the_result_of_a_tool_is_not_the_question():
    turns = (
        Message("user", "Please translate this sentence into French for me: the cat sleeps."),
        Message("tool", FRENCH),
        Message("assistant", FRENCH),
    )
    row = Example(turns, "g", "g.jsonl", 1)
    assert BOTH.clean(row) is row


def test_no_language_is_dropped_unless_asked():
    row = chat(FRENCH, FRENCH)
    assert Language().clean(row) is row


def test_short_and_doubtful_texts_are_not_judged():
    row = chat("Bonjour tout le monde !", "Bonjour à tous !")
    assert BOTH.clean(row) is row
    assert Language(keep=("en",), min_characters=5).clean(row) == Dropped(
        "language is fr, kept are en"
    )
    row = chat("写一个打招呼的函数，没有名字时什么也不返回。", CODE)
    assert Language(keep=("zh",)).clean(row) is row


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("cn", "'cn' is no language code. Did you mean 'zh'? Examples: en, zh, ja, fr."),
        ("zh_CN", "Did you mean 'zh'?"),
        ("English", "Did you mean 'en'?"),
        ("qq", "'qq' is no language code."),
    ],
)
def test_an_unknown_code_is_refused_with_the_right_one(code, told):
    with pytest.raises(ValidationError) as caught:
        Language(keep=(code,))
    assert told in str(caught.value)
