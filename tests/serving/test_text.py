"""Text is handed on in whole characters and never beyond a stop string."""

import random
from collections.abc import Sequence

import pytest
from transformers import PreTrainedTokenizerFast

from llama_factory.serving.text import UNFINISHED, TextPieces
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
