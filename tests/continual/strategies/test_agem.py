from dataclasses import replace

import pytest
import torch
from torch import nn

from llama_factory.continual.strategies.agem import Agem, project
from llama_factory.continual.strategies.olora import OLora
from llama_factory.continual.strategies.replay import Replay, choose
from llama_factory.continual.strategy_rows import encoded, padded
from llama_factory.core.types import Memory, Message
from llama_factory.model.padding import IGNORED
from llama_factory.versions import memory as on_disk
from tests.continual.small import fit, flat, make, rows, shake


def parameters(*gradients):
    made = {}
    for number, gradient in enumerate(gradients):
        made[str(number)] = nn.Parameter(torch.zeros_like(gradient))
        made[str(number)].grad = gradient.clone()
    return made


def as_vector(weights):
    return torch.cat([weight.grad.flatten().double() for weight in weights.values()])


def test_a_gradient_against_the_reference_becomes_orthogonal_to_it_over_all_weights():
    generator = torch.Generator().manual_seed(0)
    shapes = ((5, 3), (7,))
    reference = [torch.randn(shape, generator=generator) for shape in shapes]
    gradient = [
        torch.randn(s, generator=generator) - r for s, r in zip(shapes, reference, strict=True)
    ]
    weights = parameters(*gradient)
    g, r = as_vector(weights), torch.cat([each.flatten().double() for each in reference])
    assert g @ r < 0
    assert project(weights, dict(zip("01", reference, strict=True)))
    turned = as_vector(weights)
    assert abs(float(turned @ r)) < 1e-6 * float(turned.norm() * r.norm())
    torch.testing.assert_close(turned, g - (g @ r) / (r @ r) * r, rtol=1e-5, atol=1e-6)


def test_a_gradient_that_agrees_is_left_as_it_is():
    weights = parameters(torch.tensor([1.0, 2.0]), torch.tensor([-3.0]))
    before = as_vector(weights)
    assert not project(weights, {"0": torch.tensor([1.0, 1.0]), "1": torch.tensor([0.5])})
    assert torch.equal(as_vector(weights), before)
    assert not project(weights, {"0": torch.zeros(2), "1": torch.zeros(1)})


def test_a_weight_without_a_gradient_counts_as_zero():
    weights = parameters(torch.tensor([-1.0]), torch.tensor([0.0]))
    weights["1"].grad = None
    assert project(weights, {"0": torch.tensor([1.0]), "1": torch.tensor([1.0])})
    assert as_vector(weights).tolist() == [-0.5, 0.5]


def gradient_of(model, taught):
    """Gradient of the mean loss over tokens, from all logits of one row at a time."""
    model.network.eval()
    total, count = 0.0, 0
    for code in encoded(model, taught):
        ids, targets = padded(model, [code])
        log_probs = model.network(input_ids=ids).logits.log_softmax(-1)[targets != IGNORED]
        total = total - log_probs.gather(1, targets[targets != IGNORED][:, None]).sum()
        count += code.num_trained
    weights = list(model.trainable().values())
    return torch.cat([g.flatten() for g in torch.autograd.grad(total / count, weights)])


def test_the_reference_is_the_gradient_of_the_loss_on_the_old_rows(tiny_model):
    model, old = shake(make(tiny_model, dropout=0.5)), rows("退货", 5)
    memory = Memory({"replay": tuple(old)})
    agem = Agem(rows=5)
    state = agem.prepare(model, memory)
    expected = gradient_of(model, old)
    model.network.train()
    start = 0
    for weight in model.trainable().values():
        part = expected[start : start + weight.numel()].view_as(weight)
        start += weight.numel()
        weight.grad = -part + 0.1 * torch.randn(part.shape) * part.abs().mean()
    before = torch.cat([w.grad.flatten() for w in model.trainable().values()]).double()
    agem.adjust_gradients(model, state)
    assert model.network.training
    after = torch.cat([w.grad.flatten() for w in model.trainable().values()]).double()
    r = expected.double()
    torch.testing.assert_close(after, before - (before @ r) / (r @ r) * r, rtol=1e-3, atol=1e-5)
    kept = agem.after_round(model, rows("b", 2), memory, state, seed=0)
    assert (kept.numbers["agem.updates"], kept.numbers["agem.projections"]) == (1, 1)


@pytest.mark.slow
def test_nothing_is_turned_in_the_first_round(tiny_model, tmp_path, plain):
    first = fit(make(tiny_model), tmp_path, rows("a", 6), [Agem()])
    assert torch.equal(flat(first.model), plain[0])
    assert first.memory.numbers["agem.updates"] == 0


def test_the_rows_of_an_update_depend_on_its_seed_alone(tiny_model):
    model, agem = make(tiny_model), Agem(rows=3)
    state = agem.prepare(model, Memory({"agem": tuple(rows("退货", 30))}))
    drawn = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        torch.rand(seed)  # what dropout draws changes nothing
        drawn.append([code.ids for code in agem.draw(model, state)])
    assert drawn[0] == drawn[2] != drawn[1]
    assert all(len(chosen) == 3 for chosen in drawn)


def in_turn(model, strategies, new, memory):
    """The memory after a round of these strategies."""
    states = [strategy.prepare(model, memory) for strategy in strategies]
    for strategy, state in zip(strategies, states, strict=True):
        memory = strategy.after_round(model, new, memory, state, seed=3)
    return memory


def test_it_keeps_rows_of_its_own_only_where_replay_keeps_none(tiny_model):
    model, agem, new = make(tiny_model), Agem(buffer_size=5), rows("退货", 20)
    alone = in_turn(model, [agem], new, Memory())
    assert alone.rows["agem"] == choose(new, 5, seed=3)
    shared = in_turn(model, [Replay(), agem], new, alone)
    assert list(shared.rows) == ["replay"]


def test_rows_of_a_replay_that_was_given_up_are_used_beside_its_own(tiny_model):
    model, agem = make(tiny_model), Agem(buffer_size=5)
    shared = in_turn(model, [Replay(), agem], rows("a", 4), Memory())
    later = in_turn(model, [agem], rows("b", 3), shared)
    assert {row.group for row in later.rows["agem"]} == {"b"}
    assert sorted(row.group for row in agem.prepare(model, later).rows) == ["a"] * 4 + ["b"] * 3


def test_it_comes_back_from_disk_exactly(tiny_model, tmp_path):
    memory = in_turn(make(tiny_model), [Agem(buffer_size=5)], rows("退货", 9), Memory())
    on_disk.save(memory, tmp_path)
    again = on_disk.load(tmp_path)
    assert again.rows == memory.rows
    assert again.numbers == memory.numbers


@pytest.mark.slow
@pytest.mark.parametrize("strategies", [[Agem(rows=4)], [Replay(), Agem(rows=4)]])
def test_a_resumed_run_ends_like_an_uninterrupted_one(tiny_model, tmp_path, strategies):
    options = {"checkpoint_steps": 2, "max_steps": 6}
    memory = fit(make(tiny_model), tmp_path / "a", rows("a", 8), strategies).memory
    whole = fit(make(tiny_model), tmp_path / "b", rows("b", 8), strategies, memory, **options)
    fit(make(tiny_model), tmp_path / "c", rows("b", 8), strategies, memory, **options)
    (tmp_path / "c/checkpoints/step-00000006/weights.safetensors").write_bytes(b"")
    resumed = fit(make(tiny_model), tmp_path / "c", rows("b", 8), strategies, memory, **options)
    assert torch.equal(flat(whole.model), flat(resumed.model))
    assert whole.memory.numbers["agem.updates"] == resumed.memory.numbers["agem.updates"] == 6
    projections = [each.memory.numbers["agem.projections"] for each in (whole, resumed)]
    assert projections[0] == projections[1]


def test_rows_that_cannot_be_taught_are_passed_over(tiny_model):
    model, agem = make(tiny_model), Agem()
    long = rows("很长" * 300, 2)
    memory = Memory({"agem": tuple(long)})
    state = agem.prepare(model, memory)
    for weight in model.trainable().values():
        weight.grad = torch.ones_like(weight)
    agem.adjust_gradients(model, state)
    assert all((weight.grad == 1).all() for weight in model.trainable().values())


def test_its_own_rows_that_were_edited_are_left_out_and_told(tiny_model, caplog):
    model, agem = make(tiny_model), Agem()
    memory = in_turn(model, [agem], rows("a", 4), Memory())
    first, *others = memory.rows["agem"]
    wrong = replace(first, messages=(first.messages[0], Message("assistant", "假的")))
    edited = replace(memory, rows={"agem": (wrong, *others)})
    state = agem.prepare(model, edited)
    assert "strategies.agem: 1 of 4 kept rows do not fit the hash" in caplog.text
    after = agem.after_round(model, rows("b", 2), edited, state, seed=0)
    assert set(after.rows["agem"]) == {*others, *rows("b", 2)}
    assert after.numbers["agem.edited"] == 1


@pytest.mark.slow
def test_beside_olora_it_turns_what_olora_trains_and_nothing_else(tiny_model, tmp_path):
    first = fit(make(tiny_model), tmp_path, rows("a", 8), [OLora(rank=2), Agem(rows=4)])
    model, olora, agem = first.model, OLora(rank=2), Agem(rows=8)
    parts = olora.prepare(model, first.memory)
    state = agem.prepare(model, first.memory)
    old = gradient_of(model, first.memory.rows["agem"])
    start = 0
    for weight in model.trainable().values():
        weight.grad = -old[start : start + weight.numel()].view_as(weight).clone()
        start += weight.numel()
    olora.adjust_gradients(model, parts)
    agem.adjust_gradients(model, state)
    own = torch.cat([model.parts[name].flatten() for name in model.trainable()])
    turned = torch.cat([weight.grad.flatten() for weight in model.trainable().values()])
    assert not turned[own == 0].any()
    part = (old * own).double()
    assert abs(float(turned.double() @ part)) < 1e-3 * float(part @ part)
