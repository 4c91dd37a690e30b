"""Strategies in one run: each does its part, and none disturbs what another remembers."""

import pytest
import torch

from llama_factory.continual.presets import PRESETS
from llama_factory.continual.strategies.agem import Agem
from llama_factory.continual.strategies.anchor import Anchor
from llama_factory.continual.strategies.distill import Distill
from llama_factory.continual.strategies.ewc import Ewc
from llama_factory.continual.strategies.merge import Merge
from llama_factory.continual.strategies.replay import Replay
from llama_factory.core.files import read_jsonl
from llama_factory.training.strategy import STRATEGIES
from llama_factory.versions import memory as on_disk
from tests.continual.small import fit, flat, make, rows

ALL = [
    Replay(buffer_size=6),
    Anchor(),
    Agem(rows=3),
    Merge(method="ties", density=0.6),
    Ewc(examples=8),
]


def rounds(tiny_model, path, number, strategies=ALL):
    model, memory = make(tiny_model), None
    for index in range(number):
        done = fit(model, path / str(index), rows(f"第{index}轮", 8), strategies, memory)
        on_disk.save(done.memory, path / str(index) / "memory")
        memory = on_disk.load(path / str(index) / "memory")
    return done.model, memory


def test_three_rounds_with_all_of_them(tiny_model, tmp_path):
    _, memory = rounds(tiny_model, tmp_path, 3)
    assert list(memory.rows) == ["replay"]
    assert memory.numbers["merge.rounds"] == 3
    assert memory.numbers["ewc.rounds"] == pytest.approx(1 + 0.95 + 0.95**2)
    assert memory.numbers["agem.updates"] == 4
    told = list(read_jsonl(tmp_path / "2" / "metrics.jsonl"))
    assert all(
        {"loss_new", "loss_replay", "ewc_penalty", "ewc_ratio"} <= row.keys() for row in told
    )


def test_the_same_rounds_again_give_the_same_bits(tiny_model, tmp_path):
    one, remembered = rounds(tiny_model, tmp_path / "a", 2)
    again, same = rounds(tiny_model, tmp_path / "b", 2)
    assert torch.equal(flat(one), flat(again))
    assert remembered.tensors.keys() == same.tensors.keys()
    assert all(torch.equal(remembered.tensors[name], same.tensors[name]) for name in same.tensors)


def test_counters_of_a_round_are_not_kept(tiny_model, tmp_path):
    _, memory = rounds(tiny_model, tmp_path, 1)
    assert not [name for name in memory.tensors if name.endswith(".sums")]


def test_importance_is_measured_where_merging_left_the_weights(tiny_model, tmp_path):
    strategies = [Merge(alphas=(0.5,)), Ewc(form="adapter")]
    _, memory = rounds(tiny_model, tmp_path, 3, strategies)
    assert memory.numbers["ewc.digest"] == memory.numbers["merge.digest"]


@pytest.mark.parametrize("is_first", [True, False])
def test_what_is_held_and_compared_is_the_parent_wherever_merge_begins(
    tiny_model, tmp_path, is_first
):
    merge = Merge(method="slao")
    others = [Replay(), Ewc(form="delta"), Distill(rows=["replay"])]
    strategies = [merge, *others] if is_first else [*others, merge]
    done = fit(make(tiny_model), tmp_path / "0", rows("a", 8), strategies)
    done = fit(done.model, tmp_path / "1", rows("b", 8), strategies, done.memory)
    fit(done.model, tmp_path / "2", rows("c", 8), strategies, done.memory)
    began = next(iter(read_jsonl(tmp_path / "2" / "metrics.jsonl")))
    assert began["ewc_penalty"] > 0  # slao begins away from the version that answered
    assert began["kl_replay"] > 0


@pytest.mark.parametrize("name", PRESETS)
def test_a_recipe_does_the_same_in_every_order_of_its_strategies(tiny_model, tmp_path, name):
    written = [STRATEGIES.parse(each) for each in PRESETS[name].strategies]
    model, memory = rounds(tiny_model, tmp_path / "a", 2, written)
    again, same = rounds(tiny_model, tmp_path / "b", 2, written[::-1])
    torch.testing.assert_close(flat(model), flat(again), rtol=1e-3, atol=1e-5)
    assert memory.rows == same.rows
    assert memory.numbers == pytest.approx(same.numbers, rel=1e-3)
    assert {k: t.shape for k, t in memory.tensors.items()} == {
        k: t.shape for k, t in same.tensors.items()
    }


def test_settings_come_back_from_what_a_version_records():
    from llama_factory.rounds.settings import LearningConfig

    config = LearningConfig(strategies=[Ewc(lambda_=0.2), Merge(method="ties"), Agem(rows=4)])
    recorded = config.model_dump(mode="json")
    assert recorded["strategies"][0]["lambda"] == 0.2
    assert LearningConfig.model_validate(recorded).strategies == config.strategies
