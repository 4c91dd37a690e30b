"""Text is handed on in whole characters and never beyond a stop string."""

import itertools
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, strategies
from transformers import PreTrainedTokenizerFast

from llama_factory.inference.streamed_text import MAX_UNFINISHED, UNFINISHED, TextPieces
from tests.tiny import make_tokenizer

CHINESE = "退货政策：三十天内可以退货。😀 Naïve café — 謝謝！"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


def pieces_of(
    tokenizer: PreTrainedTokenizerFast, tokens: Sequence[int], *stop: str
) -> tuple[list[str], TextPieces]:
    heard: list[str] = []
    pieces = TextPieces(tokenizer.decode, stop, heard.append)
    for token in tokens:
        pieces.push(token)
    pieces.finish()
    return heard, pieces


def test_characters_spread_over_tokens_arrive_whole(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = tokenizer.encode(CHINESE)
    heard, pieces = pieces_of(tokenizer, tokens)
    assert len(tokens) > len(CHINESE), "the tokenizer must split characters for this to be a test"
    assert "".join(heard) == pieces.text == CHINESE
    assert not any(UNFINISHED in piece for piece in heard)
    assert len(heard) > 10


def test_half_a_character_at_the_end_is_dropped(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = tokenizer.encode("ok 鑫")
    heard, _ = pieces_of(tokenizer, tokens[:-1])
    assert "".join(heard) == "ok "


def test_spaces_between_tokens_survive(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "The refund policy , of  your shop .\n\n Seven days"
    assert "".join(pieces_of(tokenizer, tokenizer.encode(text))[0]) == text


@pytest.mark.parametrize("stop", ["政策", "天内可", "。😀", "é — 謝", "三十"])
def test_text_ends_before_a_stop_string_spread_over_tokens(
    tokenizer: PreTrainedTokenizerFast, stop: str
) -> None:
    heard, pieces = pieces_of(tokenizer, tokenizer.encode(CHINESE), stop)
    assert "".join(heard) == pieces.text == CHINESE.split(stop, maxsplit=1)[0]
    assert pieces.is_stopped


def test_the_first_of_several_stop_strings_counts(tokenizer: PreTrainedTokenizerFast) -> None:
    heard, _ = pieces_of(tokenizer, tokenizer.encode("one two three"), "three", "two")
    assert "".join(heard) == "one "


def test_what_only_began_like_a_stop_string_is_handed_on(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    heard, pieces = pieces_of(tokenizer, tokenizer.encode("a##b##"), "###")
    assert "".join(heard) == "a##b##"
    assert not pieces.is_stopped


def test_no_part_of_a_stop_string_is_ever_handed_on() -> None:
    """Against an independent answer, on random texts over two letters: `str.split`."""
    random_text = random.Random(0)
    for _ in range(500):
        text = "".join(random_text.choices("ab", k=12))
        stop = "".join(random_text.choices("ab", k=random_text.randint(1, 5)))
        heard: list[str] = []
        pieces = TextPieces(lambda ids: "".join(map(chr, ids)), (stop,), heard.append)
        for letter in text:
            pieces.push(ord(letter))
            assert text.split(stop)[0].startswith("".join(heard))
        pieces.finish()
        assert "".join(heard) == text.split(stop)[0]


def test_a_long_stop_string_costs_in_proportion_to_its_length() -> None:
    """Two hundred thousand repeated letters against as many in the text: seconds, not hours."""
    length = 200_000
    heard: list[str] = []
    pieces = TextPieces(lambda ids: "".join(map(chr, ids)), ("a" * length + "b",), heard.append)
    for _ in range(4):
        pieces._take("a" * (length // 2))
    pieces._take("c")
    assert "".join(heard) == pieces.text == "a" * 2 * length + "c"


def first_whole(text: str, stops: list[str]) -> str:
    """Where the text would end, by looking at every beginning of it: an independent answer."""
    for end in range(len(text) + 1):
        met = [stop for stop in stops if text[:end].endswith(stop)]
        if met:
            return text[: end - max(map(len, met))]
    return text


@given(
    text=strategies.text("ab", max_size=20),
    stops=strategies.lists(strategies.text("ab", min_size=1, max_size=6), max_size=4),
    cuts=strategies.lists(strategies.integers(0, 20), max_size=5),
)
def test_the_first_whole_stop_string_ends_the_text_however_it_arrives(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    pieces = TextPieces(lambda ids: "".join(map(chr, ids)), tuple(stops), lambda _: None)
    places = [0, *sorted(cuts), len(text)]
    for start, end in itertools.pairwise(places):
        pieces._take(text[start:end])
    pieces.finish()
    assert pieces.text == first_whole(text, stops)


def test_bytes_that_never_become_a_character_are_decoded_a_few_at_a_time() -> None:
    longest = 0

    def decode(ids: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return bytes(ids).decode("utf-8", "replace")

    pieces = TextPieces(decode, (), lambda _: None)
    for _ in range(1000):
        pieces.push(0x80)
    pieces.finish()
    assert longest <= 2 * MAX_UNFINISHED
