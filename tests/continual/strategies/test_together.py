"""Strategies in one run: each does its part, and none disturbs what another remembers."""

from itertools import permutations

import pytest
import torch

from llama_factory.continual.presets import PRESETS
from llama_factory.continual.strategies.agem import Agem
from llama_factory.continual.strategies.anchor import Anchor
from llama_factory.continual.strategies.distill import Distill
from llama_factory.continual.strategies.ewc import Ewc
from llama_factory.continual.strategies.freeze import Freeze
from llama_factory.continual.strategies.merge import Merge
from llama_factory.continual.strategies.replay import Replay
from llama_factory.core.files import read_jsonl
from llama_factory.training.strategy import STRATEGIES, Protection
from llama_factory.versions import memory as on_disk
from tests.continual.small import fit, flat, make, rows

ALL = [
    Replay(buffer_size=6),
    Anchor(),
    Agem(rows=3),
    Merge(method="ties", density=0.6),
    Ewc(examples=8),
]


def rounds(tiny_model, path, number, strategies=ALL, **options):
    """The trained weights and the memory after each round."""
    model, memory, done = make(tiny_model), None, []
    for index in range(number):
        taught, folder = rows(f"第{index}轮", 8), path / str(index)
        trained = fit(model, folder, taught, strategies, memory, **options)
        on_disk.save(trained.memory, folder / "memory")
        memory = on_disk.load(folder / "memory")
        done.append((flat(model), memory))
    return done


@pytest.fixture(scope="module")
def three(tiny_model, tmp_path_factory):
    """A folder, and three rounds in it with all of them."""
    path = tmp_path_factory.mktemp("three")
    return path, rounds(tiny_model, path, 3)


@pytest.mark.slow
def test_three_rounds_with_all_of_them(three):
    path, done = three
    _, memory = done[-1]
    assert list(memory.rows) == ["replay"]
    assert memory.numbers["merge.rounds"] == 3
    assert memory.numbers["ewc.rounds"] == pytest.approx(1 + 0.95 + 0.95**2)
    assert memory.numbers["agem.updates"] == 4
    logged = list(read_jsonl(path / "2" / "metrics.jsonl"))
    assert all(
        {"loss_new", "loss_replay", "ewc_penalty", "ewc_ratio"} <= row.keys() for row in logged
    )


@pytest.mark.slow
def test_the_same_rounds_again_give_the_same_bits(tiny_model, tmp_path, three):
    again, same = rounds(tiny_model, tmp_path, 2)[-1]
    weights, memory = three[1][1]
    assert torch.equal(weights, again)
    assert memory.tensors.keys() == same.tensors.keys()
    assert all(torch.equal(memory.tensors[name], same.tensors[name]) for name in same.tensors)


def test_strategies_are_called_by_their_turns_whatever_their_place_in_the_list():
    every = [Freeze(layers=1), Merge(), Ewc(), Agem()]
    for listed in permutations(every):
        assert list(Protection(listed).strategies) == every


@pytest.mark.slow
def test_importance_is_measured_where_merging_left_the_weights(tiny_model, tmp_path):
    strategies = [Merge(alphas=(0.5,)), Ewc(form="adapter")]
    _, memory = rounds(tiny_model, tmp_path, 3, strategies)[-1]
    assert memory.numbers["ewc.digest"] == memory.numbers["merge.digest"]


@pytest.mark.slow
def test_what_is_held_and_compared_is_the_parent_wherever_merge_begins(tiny_model, tmp_path):
    strategies = [Merge(method="slao"), Replay(), Ewc(form="delta"), Distill(rows=["replay"])]
    done = fit(make(tiny_model), tmp_path / "0", rows("a", 8), strategies)
    done = fit(done.model, tmp_path / "1", rows("b", 8), strategies, done.memory)
    fit(done.model, tmp_path / "2", rows("c", 8), strategies, done.memory)
    began = next(iter(read_jsonl(tmp_path / "2" / "metrics.jsonl")))
    assert began["ewc_penalty"] > 0  # slao begins away from the version that answered
    assert began["kl_replay"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PRESETS if PRESETS[name].strategies])
def test_a_preset_does_the_same_in_every_order_of_its_strategies(tiny_model, tmp_path, name):
    written = [STRATEGIES.parse(each) for each in PRESETS[name].strategies]
    weights, memory = rounds(tiny_model, tmp_path / "a", 2, written, max_steps=2)[-1]
    again, same = rounds(tiny_model, tmp_path / "b", 2, written[::-1], max_steps=2)[-1]
    torch.testing.assert_close(weights, again, rtol=1e-3, atol=1e-5)
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
