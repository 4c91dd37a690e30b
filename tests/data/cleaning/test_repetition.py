import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_factory.core.types import Message
from llama_factory.data.cleaning import Dropped
from llama_factory.data.cleaning.repetition import RepeatedText
from tests.data.cleaning.rows import CHINESE, CODE, ENGLISH, SAMPLES, chat, plain

SONG = """The river runs down to the sea,
it carries my letters to you,
the wind has a story for me,
and all that it tells me is true.

Row on, my love, row on,
the night is nearly gone.

The moon hangs low over the trees,
the lamps in the village are lit,
I followed the smoke on the breeze,
and wondered who sat under it.

Row on, my love, row on,
the night is nearly gone.

The morning will open the door,
the baker will carry his bread,
and I shall be waiting no more,
but listen to stories instead.

Row on, my love, row on,
the night is nearly gone."""
TABLE = "| name | red | green | blue |\n|---|---|---|---|\n" + "".join(
    f"| sample {i} | yes | no | {i * i} |\n" for i in range(12)
)
HTML = "<table>\n" + "".join(
    f"  <tr>\n    <td>{name}</td>\n    <td>{i}</td>\n  </tr>\n"
    for i, name in enumerate(("Ann", "Bo", "Cleo", "Dan", "Eve"))
)
RECORDS = json.dumps([{"title": f"Film {i}", "genre": "action", "year": 2019} for i in range(12)])
PLAN = "".join(
    f"Day {i}: {a}\n"
    for i, a in enumerate(
        ("run 5 km", "rest", "swim 1 km", "rest", "run 8 km", "rest", "cycle 30 km") * 2, 1
    )
)
CHART = "\n".join(
    f"    +-------------------+\n    |    {name}       |\n    +-------------------+\n        |"
    for name in ("加载数据集", "清洗数据", "训练模型", "评估结果")
)


@pytest.mark.parametrize(
    "text",
    [*SAMPLES, SONG, TABLE, HTML, RECORDS, PLAN, CHART, "1, 2, 3, " * 20 + ENGLISH,
     "A googol is 1" + "0" * 100 + ". " + ENGLISH, "-" * 200 + "\n" + ENGLISH, CHINESE + CODE],
)  # fmt: skip
def test_songs_tables_code_and_lists_stay(text):
    row = chat("Write it.", text)
    assert RepeatedText().clean(row) is row
    row = plain(text)
    assert RepeatedText().clean(row) is row


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a" * 300, "the same letters on and on"),
        (ENGLISH + "哈" * 200, "the same letters on and on"),
        (ENGLISH + "la" * 100, "the same letters on and on"),
        ("1326134." + "0" * 800, "the same letters on and on"),
        (ENGLISH + " very" * 40, "the same phrase again and again"),
        (ENGLISH + " I am a" * 40, "the same phrase again and again"),
        (CHINESE + "我是一个好人。" * 20, "the same phrase again and again"),
        ("Yes.\nNo, not this one at all.\n" * 12, "the same lines"),
        (f"{ENGLISH}\n" * 3, "the same lines"),
        (f"{ENGLISH} " * 3, "the same passages"),
        (CHINESE.replace("\n", "") * 3, "the same passages"),
        (
            "".join(f"Call the number {i * 7919} to learn more today! " for i in range(20)),
            "one phrase everywhere",
        ),
        (
            "".join(f"欢迎拨打我们的服务热线{i * 7919}！" for i in range(20)),
            "one phrase everywhere",
        ),
    ],
)
def test_loops_are_dropped_and_named(text, reason):
    assert RepeatedText().clean(chat("Write it.", text)) == Dropped(f"repetition: {reason}")
    assert RepeatedText().clean(plain(text)) == Dropped(f"repetition: {reason}")


def test_prompts_bad_answers_and_untrained_turns_may_repeat():
    loop = " I am a" * 100
    for row in (
        chat(loop, "That text goes in circles."),
        chat("Write it.", ENGLISH, rejected=Message("assistant", loop)),
        chat("Write it.", loop, is_desirable=False),
    ):
        assert RepeatedText().clean(row) is row


def test_short_texts_are_not_judged():
    row = chat("Laugh!", "ha " * 60)
    assert RepeatedText().clean(row) is row
    assert isinstance(RepeatedText(min_characters=50).clean(row), Dropped)


@pytest.mark.slow
@given(st.text(min_size=1, max_size=9), st.integers(1, 400))
@settings(max_examples=200, deadline=None)
def test_no_text_makes_it_fail(text, times):
    row = plain(text * times)
    result = RepeatedText().clean(row)
    assert result is row or isinstance(result, Dropped)
