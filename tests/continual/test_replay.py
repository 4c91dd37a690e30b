import random
from collections import Counter

import pytest

from llama_factory.continual.strategies.anchor import Anchor
from llama_factory.continual.strategies.replay import Replay, choose, share_out
from llama_factory.core.errors import ConfigError
from llama_factory.core.types import Example, Memory, Message


def rows(group, count):
    return [
        Example((Message("user", f"{group} {i}"), Message("assistant", "a")), group, "f", i)
        for i in range(count)
    ]


def test_quotas_are_even_and_small_groups_leave_room_to_others():
    assert share_out(10, {"a": 2, "b": 100, "c": 100}) == {"a": 2, "b": 4, "c": 4}
    assert sum(share_out(11, {"a": 100, "b": 100, "c": 100}).values()) == 11
    assert share_out(10, {"a": 3}) == {"a": 3}


def test_the_choice_does_not_depend_on_the_order_of_arrival():
    every = rows("a", 50) + rows("b", 9)
    shuffled = random.Random(0).sample(every, len(every))
    assert choose(every, 20, seed=1) == choose(shuffled, 20, seed=1)
    assert choose(every, 20, seed=1) != choose(every, 20, seed=2)


def test_keeping_round_by_round_equals_choosing_from_all_rounds():
    first, second = rows("a", 60), rows("b", 60)
    memory = Memory()
    for part in (first, second):
        memory = Replay(buffer_size=30).after_round(None, tuple(part), memory, seed=3)
    assert set(memory.rows["replay"]) == set(choose(first + second, 30, seed=3))
    assert Counter(row.group for row in memory.rows["replay"]) == {"a": 15, "b": 15}


def test_the_buffer_is_uniform_within_a_group():
    every = rows("a", 40)
    counts = Counter(row.line for seed in range(400) for row in choose(every, 10, seed=seed))
    expected = 400 * 10 / 40
    chi_square = sum((counts[i] - expected) ** 2 / expected for i in range(40))
    assert chi_square < 72.1  # 99.9 % point for 39 degrees of freedom


def test_the_first_round_has_no_source_and_later_ones_the_buffer():
    assert Replay().sources(Memory()) == ()
    memory = Replay(fraction=0.3).after_round(None, tuple(rows("a", 5)), Memory(), seed=0)
    (source,) = Replay(fraction=0.3).sources(memory)
    assert (source.name, source.share, len(source.rows)) == ("replay", 0.3, 5)


def test_the_built_in_anchor_is_there_and_a_missing_one_is_told(tmp_path):
    (source,) = Anchor().sources(Memory())
    assert len(source.rows) == 120
    with pytest.raises(ConfigError, match="does not exist"):
        Anchor(dataset=tmp_path / "x.jsonl").sources(Memory())
