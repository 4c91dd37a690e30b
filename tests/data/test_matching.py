import random

import numpy as np
import pytest

from llama_factory.data import matching
from llama_factory.data.matching import TextComparison, pairs_between, pairs_within
from tests.data.rows import chat, table_of

WORDS = [
    "parcel",
    "cup",
    "refund",
    "invoice",
    "voucher",
    "garden",
    "window",
    "letter",
    "yellow",
    "quickly",
    "broken",
    "monday",
]


def rows(count, seed=0):
    rng = random.Random(seed)
    return [
        chat(" ".join(rng.choices(WORDS, k=15)), " ".join(rng.choices(WORDS, k=15)))
        for _ in range(count)
    ]


def test_copies_are_found_within_and_between_tables(tmp_path):
    first, second = rows(30), rows(30, seed=1)
    copied = table_of(tmp_path / "a", [*first, *first[:3]])
    other = table_of(tmp_path / "b", [*second, first[7]])
    assert {(30, 0), (31, 1), (32, 2)} <= set(
        pairs_within(copied, "bands", np.arange(33), np.ones(33, bool))
    )
    assert (7, 30) in set(pairs_between(TextComparison(0.8), copied, np.arange(33), other))
    assert (7, 30) not in set(pairs_between(TextComparison(0.8), copied, np.arange(5), other))
    chosen = set(pairs_between(TextComparison(0.8), copied, np.arange(33), other, np.arange(30)))
    assert (7, 30) not in chosen


def test_large_tables_are_sorted_in_shares_with_the_same_pairs(tmp_path, monkeypatch):
    first = rows(40)
    table = table_of(tmp_path / "a", [*first, *first[::-1]])
    whole = set(pairs_within(table, "bands", np.arange(80), np.ones(80, bool)))
    monkeypatch.setattr(matching, "MAX_ROWS_AT_ONCE", 7)
    assert set(pairs_within(table, "bands", np.arange(80), np.ones(80, bool))) == whole


def test_texts_with_other_numbers_are_never_alike(tmp_path):
    question = "How long does it take to send a parcel of this size to the south of France?"
    table = table_of(
        tmp_path, [chat(question, "It takes 3 days."), chat(question, "It takes 4 days.")]
    )
    assert not TextComparison(0.8).are_alike((table, 0), (table, 1))
    assert TextComparison(0.8, "prompt_bands").are_alike((table, 0), (table, 1))


def test_what_was_compared_is_not_compared_again(tmp_path, monkeypatch):
    table = table_of(tmp_path / "t", rows(3))
    with TextComparison(0.8, cache=tmp_path) as texts:
        first = [texts.are_alike((table, 0), (table, other)) for other in (0, 1, 2)]
    monkeypatch.setattr(TextComparison, "_features", None)
    again = TextComparison(0.8, cache=tmp_path)
    assert [again.are_alike((table, 0), (table, other)) for other in (0, 1, 2)] == first


TEMPLATE = "Classify the sentiment of the following sentence as positive or negative: "


def templated(count, seed, num_words=4):
    """Rows that follow one template, some of them nearly the same; some with a number."""
    rng = random.Random(seed)
    words = [f"w{number}x" for number in range(300)]
    found = []
    for number in range(count):
        said = rng.choices(words, k=num_words)
        if found and rng.random() < 0.3:
            said = [*rng.choice(found)[0][:-1], rng.choice(words)]
        found.append((said, rng.choice(["yes", "no"]), number % 50 == 0))
    return [
        chat(TEMPLATE + " ".join(said) + (" 7" if has_number else ""), answer)
        for said, answer, has_number in found
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("band", "at_least"), [("bands", 0.8), ("prompt_bands", 0.95)])
def test_of_many_rows_of_one_template_no_pair_is_lost(tmp_path, monkeypatch, band, at_least):
    table, other = (
        table_of(tmp_path / "a", templated(200, 0)),
        table_of(tmp_path / "b", templated(150, 1) + templated(20, 0)),
    )

    def alike():
        texts = TextComparison(at_least, band)
        pairs = set(pairs_between(texts, table, np.arange(200), other))
        return {pair for pair in pairs if texts.are_alike((table, pair[0]), (other, pair[1]))}

    monkeypatch.setattr(matching, "MAX_TEXTS", 64)
    found = alike()
    monkeypatch.setattr(matching, "FEW_PAIRS", 10**9)  # compares all rows that share a band
    assert found == alike()
    assert len(found) >= 20


@pytest.mark.slow
def test_rows_of_one_template_are_not_all_compared(tmp_path):
    table, other = (
        table_of(tmp_path / "a", templated(600, 0, 8)),
        table_of(tmp_path / "b", templated(600, 1, 8)),
    )
    num_pairs = len(set(pairs_between(TextComparison(0.8), table, np.arange(600), other)))
    assert num_pairs < 20 * 600  # of 600 * 600, most of which share a band


@pytest.mark.slow
def test_a_row_that_is_out_is_not_compared_any_more(tmp_path):
    same = [chat(TEMPLATE + "this is fine", "yes")] * 40
    table, other = table_of(tmp_path / "a", same), table_of(tmp_path / "b", same)
    is_in = np.ones(40, bool)
    taken = []
    for row, _ in pairs_between(TextComparison(0.8), table, np.arange(40), other, is_in=is_in):
        is_in[row] = False
        taken.append(row)
    assert sorted(taken) == list(range(40))
