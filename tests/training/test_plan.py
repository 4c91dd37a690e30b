from collections import Counter

import pytest

from llama_factory.core.files import read_jsonl
from llama_factory.training.items import NEW, Items, RowRef, Rows
from llama_factory.training.objectives.sft import PLAIN
from llama_factory.training.plan import plan_run, plan_steps, shuffled
from llama_factory.training.settings import TrainingSettings
from llama_factory.training.strategy import Share
from tests.training.short_runs import examples, fit


def test_every_new_row_is_seen_once_an_epoch():
    plan = plan_steps({NEW: 20}, {}, batch_size=5, num_steps=8, seed=1)
    for epoch in (plan[:4], plan[4:]):
        assert sorted(ref.index for step in epoch for ref in step) == list(range(20))
    assert plan[:4] != plan[4:]


def test_the_plan_is_a_function_of_the_seed():
    make = [
        plan_steps({NEW: 9, "replay": 4}, {"replay": Share(0.25)}, 4, 10, seed=s) for s in (3, 3, 4)
    ]
    assert make[0] == make[1]
    assert make[0] != make[2]


def test_without_shuffling_new_rows_come_as_they_lie_and_old_ones_as_before():
    items = {NEW: Items(range(5), PLAIN), "replay": Items(range(4), PLAIN)}
    rows = Rows(items, {"replay": examples(4)}, {"replay": ()}, {"replay": Share(0.25)})
    settings = TrainingSettings(batch_size=4, max_steps=3)
    as_they_lie = plan_run(rows, settings.model_copy(update={"shuffle": False}))
    new = [ref.index for step in as_they_lie for ref in step if ref.source == NEW]
    assert new == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    old = [[ref for ref in step if ref.source != NEW] for step in plan_run(rows, settings)]
    assert [[ref for ref in step if ref.source != NEW] for step in as_they_lie] == old
    assert RowRef("replay", old[0][0].index) in as_they_lie[0]


@pytest.mark.parametrize("share", [0.1, 0.125, 0.25, 0.4])
def test_shares_hold_over_the_run_and_the_batch_never_grows(share):
    plan = plan_steps({NEW: 50, "replay": 7}, {"replay": Share(share)}, 8, 40, seed=0)
    assert all(len(step) == 8 for step in plan)
    counts = Counter(ref.source for step in plan for ref in step)
    assert abs(counts["replay"] - share * 8 * 40) <= 1


def test_kinds_are_spread_evenly_over_the_order():
    kinds = [("a", str(i % 4)) for i in range(40)] + [("b", f"own {i}") for i in range(20)]
    orders = [shuffled(60, seed, kinds) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    for order in orders:
        assert sorted(order) == list(range(60))
        for start in range(0, 60, 12):
            part = order[start : start + 12]
            assert sum(i >= 40 for i in part) in (3, 4, 5)  # a third of it
            assert {kinds[i] for i in part if i < 40} == {("a", str(n)) for n in range(4)}
    # within a kind, every row has the same chance to come first
    firsts = Counter(shuffled(6, seed, [("a",)] * 3 + [("b",)] * 3)[0] for seed in range(1200))
    assert all(150 < firsts[i] < 250 for i in range(6))


def test_old_rows_are_mixed_in_evenly():
    kinds = {"replay": [("first",)] * 30 + [("second",)] * 10}
    plan = plan_steps({NEW: 50, "replay": 40}, {"replay": Share(0.5)}, 8, 10, seed=0, kinds=kinds)
    old = [[ref.index for ref in step if ref.source == "replay"] for step in plan]
    assert all(sum(index >= 30 for index in step) in (0, 1, 2) for step in old)
    assert sum(index >= 30 for step in old[:5] for index in step) == 5


@pytest.mark.parametrize(("share", "anchor", "last"), [(0.25, 0.0625, 4), (0.5, 0.125, 5.5)])
def test_a_rising_share_holds_over_the_run_and_leaves_room_for_new_rows(share, anchor, last):
    shares = {"replay": Share(share, rises=True), "anchor": Share(anchor)}
    plan = plan_steps({NEW: 50, "replay": 70, "anchor": 9}, shares, 8, 64, seed=0)
    assert all(len(step) == 8 for step in plan)
    counts = [Counter(ref.source for ref in step) for step in plan]
    old = [step["replay"] for step in counts]
    assert sum(old) == share * 8 * 64
    assert sum(step["anchor"] for step in counts) == anchor * 8 * 64
    # the mean of the first and the last eighth lies 1/16 of the run inside the two ends
    rise = last - share * 8
    assert sum(old[:8]) / 8 == pytest.approx(share * 8 - rise * 7 / 8, abs=0.2)
    assert sum(old[-8:]) / 8 == pytest.approx(share * 8 + rise * 7 / 8, abs=0.2)
    assert all(step[NEW] >= 1 for step in counts)


def test_an_update_of_one_row_has_room_for_one_source_at_a_time():
    shares = {"replay": Share(0.375), "anchor": Share(0.125)}
    plan = plan_steps({NEW: 5, "replay": 5, "anchor": 5}, shares, 1, 80, seed=0)
    assert [len(step) for step in plan] == [1] * 80
    counts = Counter(step[0].source for step in plan)
    assert counts["replay"] == 30
    assert counts["anchor"] in (9, 10)  # one that is due in the last update has to wait


def numbers(path):
    return list(read_jsonl(path / "metrics.jsonl"))


def test_epochs_count_the_rows(tiny, tmp_path):
    done = fit(tiny, tmp_path, rows=examples(10), max_steps=None, epochs=2, batch_size=4)
    assert done.position.step == 5
    assert done.ended_by == ""


@pytest.mark.slow
def test_a_run_ends_with_the_update_that_reaches_its_tokens(tiny, tmp_path):
    fit(tiny, tmp_path / "whole")
    log = list(read_jsonl(tmp_path / "whole/trainer_log.jsonl"))
    seen = [row["total_tokens"] for row in log]
    done = fit(tiny, tmp_path / "cut", max_train_tokens=seen[1] + 1)
    assert done.position.step == 3
    assert done.num_tokens == seen[2]
    exact = fit(tiny, tmp_path / "exact", max_train_tokens=seen[1])
    assert exact.position.step == 2


@pytest.mark.slow
def test_the_schedule_is_that_of_the_run_cut_by_tokens(tiny, tmp_path):
    fit(tiny, tmp_path, max_train_tokens=3000, final_lr_fraction=0.1, max_steps=50)
    rates = [row["learning_rate"] for row in numbers(tmp_path)]
    assert len(rates) < 50
    assert rates[-1] == pytest.approx(0.1 * 1e-2)
