import logging
import random
from collections import Counter
from dataclasses import replace

import pytest
import torch

from llama_factory.continual.strategies.replay import Replay, choose, share_out
from llama_factory.continual.strategy_rows import intact, num_missing
from llama_factory.core.types import Example, Memory, Message
from llama_factory.versions import memory as on_disk


def rows(group, count, start=0):
    return [
        Example((Message("user", f"{group} 第{i}问"), Message("assistant", "答")), group, "f", i)
        for i in range(start, start + count)
    ]


def keep(new, memory=None, seed=0, **options):
    return Replay(**options).after_round(None, tuple(new), memory or Memory(), None, seed=seed)


def chi_square(counts, expected):
    return sum((counts[key] - expected[key]) ** 2 / expected[key] for key in expected)


def test_quotas_are_even_and_small_groups_leave_room_to_others():
    assert share_out(10, {"a": 2, "b": 100, "c": 100}) == {"a": 2, "b": 4, "c": 4}
    assert sum(share_out(11, {"a": 100, "b": 100, "c": 100}).values()) == 11
    assert share_out(10, {"a": 3}) == {"a": 3}


def test_the_choice_does_not_depend_on_the_order_of_arrival():
    every = rows("a", 90) + rows("客服", 9)
    shuffled = random.Random(0).sample(every, len(every))
    assert choose(every, 20, seed=1) == choose(shuffled, 20, seed=1)
    assert choose(every, 20, seed=1) != choose(every, 20, seed=2)


def test_of_equal_rows_one_is_kept_whichever_comes_first():
    row, copy = rows("a", 1)[0], replace(rows("a", 1)[0], file="g")
    assert choose([row, copy], 5, seed=0) == choose([copy, row], 5, seed=0) == (row,)


def test_keeping_round_by_round_equals_choosing_from_all_rounds():
    first, second = rows("a", 60), rows("b", 60)
    memory = Memory()
    for part in (first, second):
        memory = keep(part, memory, seed=3, buffer_size=30)
    assert set(memory.rows["replay"]) == set(choose(first + second, 30, seed=3))
    assert Counter(row.group for row in memory.rows["replay"]) == {"a": 15, "b": 15}


def test_another_seed_in_a_later_round_ranks_the_rows_as_before():
    first, second = rows("a", 60), rows("a", 60, start=60)
    memory = keep(second, keep(first, seed=3, buffer_size=30), seed=4, buffer_size=30)
    assert set(memory.rows["replay"]) == set(choose(first + second, 30, seed=3))


def test_the_buffer_is_uniform_within_a_group():
    every = rows("a", 40)
    counts = Counter(row.line for seed in range(400) for row in choose(every, 10, seed=seed))
    expected = dict.fromkeys(range(40), 400 * 10 / 40)
    assert chi_square(counts, expected) < 72.1  # 99.9 % point for 39 degrees of freedom


@pytest.mark.slow
def test_rows_that_came_round_by_round_are_kept_with_the_same_chance():
    counts = Counter()
    for seed in range(200):
        memory = Memory()
        for start in (0, 20, 40):
            memory = keep(rows("a", 20, start), memory, seed=seed, buffer_size=15)
        counts += Counter(row.line for row in memory.rows["replay"])
    expected = dict.fromkeys(range(60), 200 * 15 / 60)
    assert chi_square(counts, expected) < 98.3  # 99.9 % point for 59 degrees of freedom


def test_groups_are_equal_by_group_and_follow_their_sizes_by_row():
    every = rows("a", 30) + rows("b", 90)
    counts = {"group": Counter(), "row": Counter()}
    for seed in range(300):
        for balance, found in counts.items():
            found += Counter(row.group for row in choose(every, 12, seed=seed, balance=balance))
    assert counts["group"] == {"a": 1800, "b": 1800}
    assert chi_square(counts["row"], {"a": 900, "b": 2700}) < 10.8  # 99.9 %, 1 degree of freedom


def test_the_first_round_has_no_source_and_later_ones_the_buffer():
    assert Replay().sources(Memory()) == ()
    memory = keep(rows("a", 5))
    (source,) = Replay(fraction=0.3).sources(memory)
    assert (source.name, source.share, source.weight, len(source.rows)) == ("replay", 0.3, None, 5)


def test_the_weight_in_the_loss_may_be_another_than_the_share_of_rows():
    (source,) = Replay(fraction=0.1, weight=0.3).sources(keep(rows("a", 5)))
    assert (source.share, source.weight) == (0.1, 0.3)


def test_a_rising_schedule_is_passed_on():
    memory = keep(rows("a", 5))
    (even,), (rising,) = (Replay(schedule=s).sources(memory) for s in ("even", "rising"))
    assert (even.rises, rising.rises) == (False, True)
    assert even.share == rising.share


def test_rows_that_were_edited_are_dropped_counted_and_never_kept_again(caplog):
    memory = keep(rows("a", 10))
    first, *others = memory.rows["replay"]
    wrong = replace(first, messages=(first.messages[0], Message("assistant", "假的")))
    edited = replace(memory, rows={"replay": (wrong, *others)})
    with caplog.at_level(logging.WARNING):
        (source,) = Replay().sources(edited)
    assert source.rows == tuple(others)
    assert "1 of 10 kept rows do not fit the hash they were kept with" in caplog.text
    after = keep(rows("b", 3), edited)
    assert wrong not in after.rows["replay"]
    assert after.numbers["replay.edited"] == 1


def test_a_changed_weight_or_group_is_an_edit_and_a_lost_row_is_counted():
    memory = keep(rows("a", 10))
    first, second, *others = memory.rows["replay"]
    changed = (replace(first, weight=1000.0), replace(second, group="b"), *others[:-1])
    edited = replace(memory, rows={"replay": changed})
    assert intact(edited, "replay") == (tuple(others[:-1]), 2)
    assert (num_missing(memory), num_missing(edited)) == ({}, {"replay": 1})


def test_rows_that_a_round_corrects_may_go_without_being_called_edited():
    memory = keep(rows("a", 10))
    fewer = replace(memory, rows={"replay": memory.rows["replay"][3:]})
    assert intact(fewer, "replay") == (memory.rows["replay"][3:], 0)


def test_the_buffer_is_the_same_after_a_way_through_the_disk(tmp_path):
    memory = keep(rows("客服", 12) + rows("b", 12), buffer_size=9)
    on_disk.save(memory, tmp_path)
    again = on_disk.load(tmp_path)
    assert again.rows == memory.rows
    assert again.numbers == memory.numbers
    assert torch.equal(again.tensors["replay.hashes"], memory.tensors["replay.hashes"])
    text = (tmp_path / "rows.jsonl").read_text(encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text(text.replace("客服 第", "客服 改", 1), encoding="utf-8")
    assert intact(on_disk.load(tmp_path), "replay")[1] == 1


@pytest.mark.parametrize("number", [0, 1, 1.5])
def test_a_weight_is_a_share(number):
    with pytest.raises(ValueError, match="weight"):
        Replay(weight=number)
