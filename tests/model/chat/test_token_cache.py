import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from llama_factory.core.progress import SILENT
from llama_factory.core.types import TEXT, Example, Message
from llama_factory.model.chat import token_cache
from llama_factory.model.chat.encoding import EncodeOptions, encode
from llama_factory.model.chat.token_cache import Cut, encode_rows
from tests.tiny import make_tokenizer

OPTIONS = EncodeOptions(max_tokens=64)


def row(number, turn_weight=1.0, **more):
    turns = (
        Message("user", f"Question {number}?"),
        Message("assistant", f"答案 {number}", turn_weight),
    )
    return Example(turns, "g", "f", number, **more)


ROWS = [
    *(row(number) for number in range(7)),
    row(1, turn_weight=0.5),
    row(2, weight=3.0),
    Example((Message(TEXT, "Plain text, all of it trained."),), "g", "f", 9),
]
TOO_LONG = Example((Message("user", "word " * 100), Message("assistant", "a")), "g", "f", 10)


@pytest.fixture
def tokenizer():
    return make_tokenizer()


def encoded(rows, tokenizer, cache, options=OPTIONS):
    return encode_rows(rows, tokenizer, options, cache=cache, progress=SILENT)


def test_cached_rows_are_those_that_encoding_gives(tokenizer, tmp_path):
    rows, unfit = encoded(ROWS, tokenizer, tmp_path)
    assert list(rows) == [(encode(row, tokenizer, OPTIONS),) for row in ROWS]
    assert rows[2:4] == tuple(rows)[2:4]
    assert unfit == []


def test_rows_are_encoded_once_and_only_new_ones_the_next_time(tokenizer, tmp_path, monkeypatch):
    seen = []
    answers = token_cache.ENCODERS["answers"]
    spy = {"answers": lambda row, *rest: seen.append(row) or answers(row, *rest)}
    monkeypatch.setattr(token_cache, "ENCODERS", spy)
    first, _ = encoded(ROWS[:4], tokenizer, tmp_path)
    again, _ = encoded(ROWS[:6], tokenizer, tmp_path)
    assert seen == ROWS[:6]
    assert list(again)[:4] == list(first)


def test_the_same_row_with_other_weights_is_another_row(tokenizer, tmp_path):
    given = [row(1), row(1, turn_weight=0.5), row(1, weight=3.0)]
    rows, _ = encoded(given, tokenizer, tmp_path)
    assert [each.weight for (each,) in rows] == [1.0, 1.0, 3.0]
    assert rows[0][0].weights is None
    assert set(rows[1][0].weights) == {0.5}


def test_other_options_or_another_template_are_encoded_anew(tokenizer, tmp_path):
    encoded(ROWS, tokenizer, tmp_path)
    whole, _ = encoded(ROWS, tokenizer, tmp_path, EncodeOptions(64, train_on_prompt=True))
    assert whole[0][0].num_trained > encoded(ROWS, tokenizer, tmp_path)[0][0][0].num_trained
    tokenizer.chat_template = tokenizer.chat_template.replace("\n", "\n\n")
    assert len(encoded(ROWS, tokenizer, tmp_path)[0][0][0].ids) > len(
        encode(ROWS[0], make_tokenizer(), OPTIONS).ids
    )
    assert len(list(tmp_path.glob("*.sqlite"))) == 3


def test_what_cannot_be_taught_is_remembered_with_its_reason(tokenizer, tmp_path):
    for _ in range(2):
        rows, unfit = encoded([ROWS[0], TOO_LONG], tokenizer, tmp_path)
        assert len(rows) == 1
        ((left_out, code),) = unfit
        assert left_out == TOO_LONG
        assert "tokens" in code.reason


@pytest.mark.parametrize(
    ("more", "told"),
    [({"images": ("a.png",)}, "it shows pictures"), ({"is_desirable": False}, "marked as bad")],
)
def test_pictures_and_bad_answers_are_not_taught(tokenizer, tmp_path, more, told):
    _, unfit = encoded([row(1, **more)], tokenizer, tmp_path)
    assert told in unfit[0][1].reason


def test_a_killed_run_keeps_what_it_had_encoded(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(token_cache, "ROWS_A_WRITE", 2)
    answers = token_cache.ENCODERS["answers"]

    def dies(row, *rest):
        if row.line == 5:
            raise KeyboardInterrupt
        return answers(row, *rest)

    monkeypatch.setattr(token_cache, "ENCODERS", {"answers": dies})
    with pytest.raises(KeyboardInterrupt):
        encoded(ROWS, tokenizer, tmp_path)
    seen = []
    spy = {"answers": lambda row, *rest: seen.append(row.line) or answers(row, *rest)}
    monkeypatch.setattr(token_cache, "ENCODERS", spy)
    rows, _ = encoded(ROWS, tokenizer, tmp_path)
    assert seen[0] == 4
    assert len(rows) == len(ROWS)


def test_several_threads_that_begin_one_cache_all_get_every_row(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(token_cache, "ROWS_A_WRITE", 2)
    expected = list(encoded(ROWS, tokenizer, tmp_path / "alone")[0])

    def read(cache):
        return list(encoded(ROWS, make_tokenizer(), cache)[0])

    with ThreadPoolExecutor(6) as crew:
        for attempt in range(3):
            done = [crew.submit(read, tmp_path / str(attempt)) for _ in range(6)]
            assert [each.result() == expected for each in done] == [True] * 6


@pytest.mark.slow
def test_a_cache_can_be_begun_by_many_at_the_same_moment(tmp_path):
    barrier = threading.Barrier(6)

    def begin(number):
        barrier.wait(60)
        token_cache._open(tmp_path / f"{number}.sqlite").close()

    with ThreadPoolExecutor(6) as crew:
        for number in range(12):
            for each in [crew.submit(begin, number) for _ in range(6)]:
                each.result()
    assert len(list(tmp_path.glob("*.sqlite*"))) == 12


def test_what_rows_lose_is_counted_also_when_they_come_from_the_cache(tokenizer, tmp_path):
    cut = Example((Message("user", "Hi?"), Message("assistant", "word " * 100)), "g", "f", 11)
    pairs = [Message("user", "word " * 5), Message("assistant", "word " * 5)] * 3
    old = Example(tuple(pairs), "g", "f", 12)
    text = Example((Message(TEXT, "word " * 100),), "g", "f", 13)
    rows = [*ROWS, cut, old, text, TOO_LONG]
    codes = [encode(row, tokenizer, OPTIONS) for row in (cut, old, text)]
    assert [code.cut_tokens > 0 for code in codes] == [True, False, True]
    lost = sum(code.lost_tokens for code in codes)
    for _ in range(2):
        found, _ = encoded(rows, tokenizer, tmp_path)
        assert found.cut == Cut(shortened=1, cut=2, tokens=lost)
    nothing, _ = encoded(ROWS, tokenizer, tmp_path)
    assert nothing.cut == Cut()
