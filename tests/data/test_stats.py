import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_factory.core.types import TEXT, Example, Message
from llama_factory.data import stats as stats_module
from llama_factory.data.reading import Refused
from llama_factory.data.stats import OTHERS, Histogram, collect

ENGLISH = "The little cat sleeps on the couch while the children play."


def chat(prompt, answer, group="g", **values):
    turns = (Message("user", prompt), Message("assistant", answer))
    return Example(turns, group, f"{group}.jsonl", 1, **values)


def histogram_of(values):
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    return histogram


ROWS = [
    chat("Why does the cat sleep?", ENGLISH, "pets"),
    chat("Why does the cat sleep?", ENGLISH, "pets"),
    chat("猫在做什么？", "猫在沙发上睡觉，孩子们在花园里玩。", "客服"),
    chat("How many?", "42", "maths", augmented_by="typo"),
    chat("Say it.", "Yes.", "dpo", rejected=Message("assistant", "No.")),
    chat("Say it.", "Yes.", "kto", is_desirable=False),
    Example((Message(TEXT, "A text. " * 30),), "texts", "texts.txt", 1),
    Example(
        (
            Message("system", "Be kind."),
            *chat("Hello?", "Hello!").messages,
            *chat("Bye.", "Bye!").messages,
        ),
        "talk",
        "talk.jsonl",
        1,
        tools="[]",
    ),
    Refused("pets.jsonl", 3, "'output' is empty."),
    Refused("pets.jsonl", 4, "'output' is empty."),
]


def test_rows_are_counted_by_all_that_they_are():
    counted = collect(ROWS)
    assert (counted.num_rows, counted.num_refused, counted.num_duplicates) == (8, 2, 1)
    assert counted.groups["pets"] == 2
    assert counted.files["texts.txt"] == 1
    assert counted.kinds == {"chat": 5, "preference": 1, "kto": 1, "text": 1}
    assert counted.languages["zh"] == 1
    assert counted.languages["und"] >= 1
    assert counted.turns == {1: 6, 2: 1}
    assert counted.features == {"augmented": 1, "system prompt": 1, "tools": 1}
    assert counted.refused == {"'output' is empty.": 2}
    assert counted.refused_fraction == 0.2
    assert counted.answers.largest == 240
    assert counted.prompts.num_values == 7


def test_counts_are_plain_json_and_hold_nothing_for_no_rows():
    values = json.loads(json.dumps(collect(ROWS).to_json()))
    assert values["rows"] == 8
    assert values["turns"] == {"1": 6, "2": 1}
    assert values["answer_characters"]["max"] == 240
    assert values["tokens"] is None
    empty = collect([]).to_json()
    assert (empty["rows"], empty["duplicates"], empty["answer_characters"]["p50"]) == (0, 0, 0)


def test_tokens_are_counted_where_a_tokenizer_is_given():
    counted = collect([chat("a b c", "d e")], num_tokens=lambda text: len(text.split()))
    assert counted.tokens.total == 5
    assert counted.to_json()["tokens"]["max"] == 5


def test_rows_are_read_once_and_not_kept():
    stream = iter([chat(f"question {i}", f"answer {i % 5}") for i in range(50)])
    counted = collect(stream)
    assert (counted.num_rows, counted.num_duplicates) == (50, 0)
    assert next(stream, None) is None


def test_too_many_names_share_one_count(monkeypatch):
    monkeypatch.setattr(stats_module, "MOST_NAMES", 3)
    counted = collect(chat("a", "b", f"group {i}") for i in range(10))
    assert counted.groups == {"group 0": 1, "group 1": 1, "group 2": 1, OTHERS: 7}


def test_a_limit_of_compared_rows_is_reported(monkeypatch):
    monkeypatch.setattr(stats_module, "MOST_KEYS", 4)
    counted = collect(chat("a", "b") for _ in range(10))
    assert (counted.num_compared, counted.num_duplicates) == (4, 3)


@pytest.mark.slow
@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=60), st.integers(1, 100))
def test_percentiles_from_bins_are_within_three_percent_and_rounding(values, percent):
    exact = np.percentile(values, percent, method="inverted_cdf")
    told = histogram_of(values).percentile(percent)
    assert abs(told - exact) <= 0.03 * exact + 0.51  # half of a bin, then rounded


def test_ends_mean_and_bins_are_exact():
    values = [random.Random(1).randrange(1, 5000) for _ in range(200)] + [0]
    told = histogram_of(values).to_json()
    assert (told["min"], told["max"], told["total"]) == (0, max(values), sum(values))
    assert told["mean"] == pytest.approx(np.mean(values), abs=0.06)
    assert sum(count for _, count in told["bins"]) == 201
    assert all(edge <= max(values) for edge, _ in told["bins"])
