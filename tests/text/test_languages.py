import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_factory.text.languages import CODES, SAME_AS, UNKNOWN, language_of


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The cat sleeps on the couch.", "en"),
        ("THE CAT SLEEPS ON THE COUCH.", "en"),
        ("the cat sleeps on the couch", "en"),
        ("The Cat Sleeps On The Couch, And The Dog Sleeps On The Floor", "en"),
        ("猫在沙发上睡觉。", "zh"),
        ("貓在沙發上睡覺。", "zh"),
        ("安装 Python 3.11，然后运行 pip install numpy", "zh"),
        ("我最喜欢的品牌是優の良品，它很好吃。", "zh"),
        ("猫はソファで寝ています。", "ja"),
        ("고양이가 소파에서 자고 있어요.", "ko"),
        ("Le chat dort sur le canapé.", "fr"),
        ("LE CHAT DORT SUR LE CANAPÉ.", "fr"),
        ("Кошка спит на диване, а дети играют в саду.", "ru"),
        ("القطة تنام على الأريكة.", "ar"),
        ("Line one of this text\nand line two of it\r\nand the third.", "en"),
        ("\ud800The cat sleeps on the couch.", "en"),
    ],
)
def test_languages_are_told_apart_in_any_case(text, code):
    language, confidence = language_of(text)
    assert language == code
    assert confidence > 0.5


@pytest.mark.parametrize(
    "text", ["", " \n", "42", "x^2 = 4", "😀😀", "```python\nprint(1)\n```", "1, 2, 3"]
)
def test_numbers_and_code_are_in_no_language(text):
    assert language_of(text) == (UNKNOWN, 0.0)


def test_a_mixture_is_doubtful():
    mixed = "老师问大家：Votre chien a essayé différents jouets pour chiens 是用什么语言写的？"
    _, confidence = language_of(mixed)
    assert confidence < 0.65


def test_code_and_links_do_not_hide_the_language():
    text = "```\nfor i in range(10):\n    print(i)\n```\n这段代码打印从零到九的数字。"
    assert language_of(text)[0] == "zh"
    assert language_of("看这里 https://example.org/some/long/path/in/english")[0] == "zh"


def test_only_the_beginning_is_read():
    text = "The cat sleeps on the couch. " * 20
    assert language_of(text + "猫" * 5000) == language_of(text)
    assert language_of("The cat sleeps. " + "猫在沙发上睡觉。" * 50, 400)[0] == "zh"


def test_names_that_people_use_lead_to_known_codes():
    assert set(SAME_AS.values()) <= CODES
    assert len(CODES) == 176


@given(st.text(st.characters(exclude_categories=()), max_size=400))
@settings(deadline=None)
def test_any_text_has_an_answer(text):
    language, confidence = language_of(text)
    assert language in CODES | {UNKNOWN}
    assert 0 <= confidence <= 1


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("You can send the parcel back within thirty days and pay nothing for this.", "en"),
        ("Wir senden das Paket und die Rechnung an the same address.", "de"),
        ("Ik heb de factuur van de winkel en het pakket nog niet ontvangen.", "nl"),
        ("El paquete llega en tres dias y la factura viene con la caja.", "es"),
    ],
)
def test_common_words_tell_english_and_no_other_language(text, language):
    assert language_of(text)[0] == language


def test_the_quick_look_agrees_with_the_model_on_english():
    from llama_factory.text import languages

    text = "You can send the parcel back within thirty days, and this costs you nothing."
    assert languages._is_plainly_english(text)
    assert languages._by_model(text)[0] == "en"
