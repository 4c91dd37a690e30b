"""The planted set of the benchmark: recall, precision, and nothing left after masking."""

import sys
from pathlib import Path

import pytest

from llama_factory.core.types import Example, Message
from llama_factory.data.cleaning.private_data import PrivateData
from llama_factory.text.private import KINDS

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
import planted_private as planted

TARGET = 0.98


@pytest.mark.variants
@pytest.mark.parametrize("part", planted.PARTS)
def test_recall_and_precision_reach_the_target(part):
    private = planted.make_planted(1000, seed=7, part=part)
    total = planted.measure([*private, *planted.make_harmless(1000, seed=7, part=part)])["total"]
    assert total.planted >= 1000
    assert total.recall >= TARGET
    assert total.precision >= TARGET


def test_every_kind_is_planted_and_the_seed_decides():
    items = planted.make_planted(100, seed=3)
    assert {span[2] for item in items for span in item.spans} == set(KINDS)
    assert items == planted.make_planted(100, seed=3)
    assert items != planted.make_planted(100, seed=4)


def test_no_value_that_was_found_is_left_after_masking():
    step, left = PrivateData(), 0
    items = planted.make_planted(500, seed=9, part="tuning")
    for item in items:
        row = Example((Message("user", item.text), Message("assistant", "ok")), "g", "f", 1)
        text = step.clean(row).messages[0].content
        left += sum(item.text[start:end] in text for start, end, _ in item.spans)
    assert left == 0
