import pytest
import torch

from llama_factory.continual.strategies.olora import OLora
from llama_factory.core.errors import ConfigError
from llama_factory.core.types import Memory
from llama_factory.training.strategy import STRATEGIES
from llama_factory.versions import memory as on_disk
from tests.continual.strategies.models import disturb, make


def weights(model):
    return {name: weight.detach().clone() for name, weight in model.trainable().items()}


def learn(strategy, model, memory, steps=3):
    """A round whose loss pulls every weight, with weight decay; returns what is remembered."""
    state = strategy.prepare(model, memory)
    optimizer = torch.optim.AdamW(model.trainable().values(), lr=0.1, weight_decay=0.5)
    for _ in range(steps):
        sum(weight.sum() for weight in model.trainable().values()).backward()
        for term in strategy.penalty(model, state).values():
            term.backward()
        strategy.adjust_gradients(model, state)
        optimizer.step()
        optimizer.zero_grad()
        strategy.after_step(model, state)
    return strategy.after_round(model, (), memory, state, seed=0)


def test_a_round_trains_its_own_part_and_leaves_all_others_bit_for_bit(tiny_model):
    model, memory = make(tiny_model), Memory()
    for number in range(2):
        strategy = OLora(rank=3)
        before = weights(model)
        memory = learn(strategy, model, memory)
        for name, after in weights(model).items():
            dim = 0 if "lora_A" in name else 1
            same = (after == before[name]).all(1 - dim)
            own = torch.arange(8) // 3 == number
            if not (number and "lora_A" in name):
                assert torch.equal(same, ~own), name
            assert not same[own].any()
            assert same[torch.arange(8) < 3 * number].all()


def test_the_second_round_begins_without_overlap_and_is_held_there(tiny_model):
    model = make(tiny_model)
    memory = learn(OLora(), model, Memory())
    strategy = OLora(**{"lambda": 2.0})
    state = strategy.prepare(model, memory)
    assert strategy.penalty(model, state)["olora_penalty"] < 1e-2
    disturb(model)
    penalty = strategy.penalty(model, state)["olora_penalty"]
    penalty.backward()
    by_hand = 0.0
    for name, weight in model.trainable().items():
        if "lora_A" in name:
            by_hand += 2 * float(
                (weight.detach()[4:] @ memory.tensors[f"olora.{name}"].T).abs().sum()
            )
            assert weight.grad[4:].abs().sum() > 0
            assert weight.grad[:4].abs().sum() == 0
    assert penalty.item() == pytest.approx(by_hand, rel=1e-5)


def test_the_first_round_has_no_penalty(tiny_model):
    model, strategy = make(tiny_model), OLora()
    assert strategy.penalty(model, strategy.prepare(model, Memory())) == {}


def test_all_earlier_directions_are_kept_in_the_version(tiny_model, tmp_path):
    model, memory = make(tiny_model), Memory()
    for number in (1, 2):
        memory = learn(OLora(rank=4), model, memory)
        on_disk.save(memory, tmp_path / str(number))
        memory = on_disk.load(tmp_path / str(number))
        kept = {n: w[: 4 * number] for n, w in weights(model).items() if "lora_A" in n}
        assert memory.numbers["olora.used"] == 4 * number
        assert all(torch.equal(memory.tensors[f"olora.{n}"], w) for n, w in kept.items())


def test_a_resumed_round_starts_where_it_started_before(tiny_model, tmp_path):
    model = make(tiny_model)
    memory = learn(OLora(), model, Memory())
    model.save(tmp_path)
    starts = []
    for _ in range(2):
        again = make(tiny_model, tmp_path)
        OLora().prepare(again, memory)
        starts.append(weights(again))
    assert all(torch.equal(starts[0][name], starts[1][name]) for name in starts[0])


def test_an_adapter_without_room_is_refused_with_what_would_fit(tiny_model):
    model = make(tiny_model)
    memory = learn(OLora(rank=6), model, Memory())
    with pytest.raises(ConfigError, match="takes 6 .*6 of its 8 belong .*rank to at most 2"):
        OLora(rank=6).prepare(model, memory)
    memory = learn(OLora(rank=2), model, memory)
    with pytest.raises(ConfigError, match="8 of its 8 belong to earlier rounds. Leave olora out"):
        OLora(rank=1).prepare(model, memory)


def test_an_adapter_that_was_trained_without_it_is_refused(tiny_model):
    model = make(tiny_model)
    disturb(model)
    with pytest.raises(ConfigError, match="ranks 1 to 8 .* were trained without olora already"):
        OLora().prepare(model, Memory())


def test_an_adapter_that_was_changed_since_is_refused(tiny_model):
    model = make(tiny_model)
    memory = learn(OLora(), model, Memory())
    disturb(model)
    with pytest.raises(ConfigError, match="no longer holds the directions .* rollback"):
        OLora().prepare(model, memory)


@pytest.mark.parametrize("adapter", [{"use_dora": True}, {"type": "ia3"}])
def test_adapters_without_parts_are_refused(tiny_model, adapter):
    with pytest.raises(ConfigError, match="needs a plain LoRA adapter, and here .* trains"):
        OLora().prepare(make(tiny_model, **adapter), Memory())


def test_its_settings_survive_being_written_down():
    written = {"type": "olora", "lambda": 0.2, "rank": 2}
    part = STRATEGIES.parse(written)
    assert {"type": "olora", **part.model_dump(mode="json")} == written
