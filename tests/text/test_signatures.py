import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_factory.text import signatures

ENGLISH = (
    "The parcel arrived on Monday with a torn wrapping and two of the five cups were broken. " * 3
)
CHINESE = "包裹星期一送到时外包装已经破损，里面五个杯子碎了两个，请问应该怎样申请退货和退款？" * 3


def pieces_by_hand(text):
    width = 3 if any("\u4e00" <= c <= "\u9fff" for c in text) else 5
    return {text[i : i + width] for i in range(max(1, len(text) - width + 1))}


@pytest.mark.parametrize("text", [ENGLISH, CHINESE])
def test_pieces_overlap_and_are_shorter_in_chinese(text):
    plain = signatures.letters_and_digits(text)
    assert signatures.pieces(plain) == pieces_by_hand(plain)


def test_case_marks_and_width_make_no_difference():
    assert signatures.letters_and_digits("Ｈｅｌｌｏ,  World!") == signatures.letters_and_digits(
        "hello world"
    )
    assert signatures.letters_and_digits("退货，多久？") == signatures.letters_and_digits(
        "退货 多久"
    )


@pytest.mark.parametrize("text", [ENGLISH, CHINESE])
def test_small_changes_leave_a_common_band(text):
    rng = random.Random(0)
    found = 0
    for _ in range(100):
        changed = list(signatures.letters_and_digits(text))
        for place in rng.sample(range(len(changed)), 3):
            changed[place] = rng.choice("abc的一是")
        bands = signatures.band_hashes([signatures.letters_and_digits(text), "".join(changed)])
        found += bool((bands[0] == bands[1]).any())
    assert found >= 97


@given(st.text(st.characters(max_codepoint=127)))
def test_plain_letters_are_normalised_as_all_others(text):
    assert (
        signatures.letters_and_digits(text)
        == signatures.letters_and_digits(text + "é").removesuffix("é").strip()
    )


def test_different_texts_share_no_band():
    rng = random.Random(0)
    texts = ["".join(rng.choices("abcdefgh ", k=200)) for _ in range(200)]
    bands = signatures.band_hashes(texts)
    assert all(len(np.unique(column)) == len(texts) for column in bands.T)


@pytest.mark.slow
@given(st.lists(st.text(), max_size=8))
def test_a_text_has_the_same_bands_whatever_stands_beside_it(texts):
    together = signatures.band_hashes(texts)
    assert together.shape == (len(texts), signatures.NUM_BANDS)
    for text, bands in zip(texts, together, strict=True):
        assert (signatures.band_hashes([text])[0] == bands).all()
