import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_factory.core.types import Message
from llama_factory.data.cleaning import CLEANERS, Dropped
from llama_factory.data.cleaning.unicode import Unicode
from tests.data.cleaning.rows import CODE, SAMPLES, chat

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60)
NASTY_TEXT = st.text(
    st.sampled_from(
        "aé中锛鏄Ã©â€™\ud83d\ude00\u200b\u200d\u200c\ufeff\r\n\t \x00\x85\u2028\xa0e\u0301😀م"
        "\x0crac{"
    ),
    max_size=25,
)
clean = Unicode().clean_text


@pytest.mark.slow
@given(ANY_TEXT | NASTY_TEXT)
@settings(max_examples=400, deadline=None)
def test_cleaning_again_changes_nothing_whatever_the_text(text):
    once = clean(text)
    assert clean(once) == once
    assert not any("\ud800" <= character <= "\udfff" for character in once)
    assert unicodedata.is_normalized("NFC", once)


@given(ANY_TEXT)
@settings(max_examples=200, deadline=None)
def test_every_form_survives_any_text(text):
    for form in ("NFC", "NFKC", "none"):
        step = Unicode(form=form)
        assert step.clean_text(step.clean_text(text)) == step.clean_text(text)


def test_a_clean_row_comes_back_as_the_same_object():
    for text in SAMPLES:
        row = chat(text, text, rejected=Message("assistant", text))
        assert Unicode().clean(row) is row


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a\r\nb\rc\u2028d\x85e", "a\nb\nc\nd\ne"),
        ("\ufeffhel\u200blo\xad \x00wor\x07ld", "hello world"),
        ("cafe\u0301", "café"),
        ("a  \nb\t\n\n\n\n\n\nc", "a\nb\n\n\nc"),
        ("\n\n  Hello. \n", "Hello."),
        ("10\xa0km", "10 km"),
        ("half \ud800 of \ud83d\ude00", "half  of 😀"),
        ("left\u200e to \u202eright", "left to right"),
        ("\x0crac{1}{2} and \x08egin{matrix}", r"\frac{1}{2} and \begin{matrix}"),
        ("　　他说：“你好！”", "他说：“你好！”"),
    ],
)
def test_one_text_is_spelled_in_one_way(text, cleaned):
    assert clean(text) == cleaned


@pytest.mark.parametrize(
    "text",
    [
        "👩‍👩‍👧 ❤️‍🔥 👍🏽 🏳️‍🌈",
        "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
        "می\u200cخواهم",  # Persian: without the non-joiner another word
        "क्\u200dष",
        "שלום \u200fabc\u200f",
        "ភាសា\u200bខ្មែរ",
        "　　第一段。\n　　第二段。",
        "full-width，：？！（）ＡＢＣ①",
        "© 2020, naïve, Ångström, ÃO, «A» — 5 €",
        "Россия и СССР, РФ",
        "联通 浜 横浜の涓涓细流",
        "    return 1\n    # the whole block is indented",
        CODE,
    ],
)
def test_what_scripts_emoji_and_code_need_stays(text):
    assert clean(text) == text


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("你好，世界。", "latin-1"),
        ("我们的世界真大，", "gbk"),
        ("café’s menu – 5 €", "cp1252"),
        ("naïve 😀", "latin-1"),
        ("naïve café", "mac-roman"),
        ("it’s – good", "mac-roman"),
        ("Привет, мир", "cp1251"),
        ("Привет, мир", "latin-1"),
    ],
)
def test_mojibake_is_mended(text, wrong):
    garbled = text.encode().decode(wrong)
    assert clean(garbled) == text
    assert Unicode(fix_mojibake=False).clean_text(garbled) != text


def test_gbk_mojibake_is_mended_line_by_line():
    assert clean("这一行是好的。\n浣犲ソ锛屼笘鐣岋紒") == "这一行是好的。\n你好，世界！"


def test_full_width_punctuation_is_changed_only_by_nfkc():
    assert clean("你好，世界！") == "你好，世界！"
    assert Unicode(form="NFKC").clean_text("你好，世界！") == "你好,世界!"


@pytest.mark.parametrize("lost", ["� ab � cd � ef", "锟斤拷锟斤拷锟斤拷 你好"])
def test_a_row_that_lost_its_characters_is_dropped(lost):
    dropped = Unicode().clean(chat("What?", lost))
    assert dropped == Dropped("characters lost by wrong decoding (U+FFFD or 锟斤拷)")
    row = chat("What?", lost)
    assert Unicode(max_broken_fraction=1).clean(row) is row


def test_a_text_about_lost_characters_stays():
    row = chat("什么是锟斤拷？", "“锟斤拷”是 U+FFFD 的 UTF-8 字节被当作 GBK 解码的结果。")
    assert Unicode().clean(row) is row


def test_blank_lines_are_a_setting():
    assert Unicode(max_blank_lines=0).clean_text("a\n\n\nb") == "a\nb"
    assert CLEANERS.parse({"type": "unicode", "max_blank_lines": 1}).clean_text("a\n\n\nb") == (
        "a\n\nb"
    )
