import copy
import logging
from dataclasses import replace

import pytest
import torch

from llama_factory.continual.low_rank import low_rank_layers
from llama_factory.continual.merging import copy_into, snapshot
from llama_factory.continual.strategies.ewc import Ewc
from llama_factory.continual.strategies.freeze import Freeze
from llama_factory.continual.strategy_rows import encoded
from llama_factory.core.errors import ConfigError
from llama_factory.core.files import read_jsonl
from llama_factory.core.types import Memory
from llama_factory.training.strategy import STRATEGIES
from llama_factory.versions import memory as on_disk
from tests.continual.small import fit, flat, make, reopened, rows, shake


def remember(model, ewc, count=5, memory=None, seed=0):
    memory = memory or Memory()
    state = ewc.prepare(model, memory)
    return ewc.after_round(model, rows("退货", count), memory, state, seed=seed)


def own(memory, part):
    start = f"ewc.{part}."
    return {k.removeprefix(start): t for k, t in memory.tensors.items() if k.startswith(start)}


def pull(model, ewc, state):
    terms = ewc.penalty(model, state)
    return float(terms["ewc_penalty"].detach()) if terms else 0.0


def test_its_strength_is_called_lambda_where_people_write_it():
    ewc = STRATEGIES.parse({"type": "ewc", "lambda": 0.3})
    assert ewc.lambda_ == 0.3
    assert ewc.model_dump(mode="json")["lambda"] == 0.3
    assert STRATEGIES.parse({"type": "ewc", **ewc.model_dump(mode="json")}) == ewc
    assert "lambda" in Ewc.model_json_schema()["properties"]


@pytest.mark.variants
@pytest.mark.parametrize("form", ["delta", "adapter"])
def test_nothing_is_held_in_the_first_round(tiny_model, tmp_path, plain, form):
    held = fit(make(tiny_model), tmp_path, rows("a", 6), [Ewc(form=form)])
    assert torch.equal(flat(held.model), plain[0])


@pytest.mark.variants
@pytest.mark.parametrize("form", ["delta", "adapter"])
def test_with_lambda_zero_training_is_plain_bit_for_bit(tiny_model, tmp_path, plain, form):
    ewc = Ewc(form=form, lambda_=0)
    first = fit(make(tiny_model), tmp_path / "a", rows("a", 6), [ewc])
    second = fit(first.model, tmp_path / "b", rows("b", 6), [ewc], first.memory)
    assert torch.equal(flat(second.model), plain[1])


def test_the_adapter_form_is_half_lambda_times_the_weighted_squares(tiny_model):
    ewc, model = Ewc(form="adapter", lambda_=0.4), shake(make(tiny_model))
    memory = remember(model, ewc)
    fisher = own(memory, "weights")
    assert fisher.keys() == model.trainable().keys()
    assert float(torch.cat([f.flatten() for f in fisher.values()]).mean()) == pytest.approx(1)
    old = {name: weight.detach().clone() for name, weight in model.trainable().items()}
    state = ewc.prepare(model, memory)
    assert pull(model, ewc, state) == 0
    shake(model, seed=2)
    squares = ((fisher[n] * (w - old[n]) ** 2).sum() for n, w in model.trainable().items())
    assert pull(model, ewc, state) == pytest.approx(0.2 * float(sum(squares).detach()), rel=1e-5)


def full_updates(model):
    layers, weights = low_rank_layers(model), model.trainable()
    return {name: each.of(weights).dense().double() for name, each in layers.items()}


def test_the_delta_form_equals_the_penalty_on_full_updates(tiny_model):
    ewc, model = Ewc(lambda_=0.4), shake(make(tiny_model))
    memory = remember(model, ewc)
    r, c = own(memory, "outputs"), own(memory, "inputs")
    entries = [torch.outer(r[name], c[name]) for name in r]
    assert float(torch.cat([e.flatten() for e in entries]).mean()) == pytest.approx(1, rel=1e-5)
    old = full_updates(model)
    state = ewc.prepare(model, memory)
    shake(model, seed=2)
    new = full_updates(model)
    total = sum((torch.outer(r[n], c[n]) * (new[n] - old[n]) ** 2).sum() for n in old)
    assert pull(model, ewc, state) == pytest.approx(0.2 * float(total), rel=1e-4)


@pytest.mark.slow
def test_what_is_remembered_pulls_training_back(tiny_model, tmp_path):
    moved = {}
    first = fit(make(tiny_model), tmp_path / "a", rows("a", 6), [Ewc()], max_steps=10)
    before, start = full_updates(first.model), snapshot(first.model)
    for strength in (0.0, 3.0):
        copy_into(first.model, start)
        folder, strategies = tmp_path / str(strength), [Ewc(lambda_=strength)]
        second = fit(first.model, folder, rows("b", 6), strategies, first.memory, max_steps=10)
        after = full_updates(second.model)
        moved[strength] = sum(float((after[n] - before[n]).square().sum()) for n in before)
    assert moved[3.0] < 0.5 * moved[0.0]


@pytest.mark.slow
def test_its_terms_and_its_cost_are_told(tiny_model, tmp_path):
    ewc = Ewc()
    first = fit(make(tiny_model), tmp_path / "a", rows("a", 9), [ewc])
    assert first.memory.numbers["ewc.ratio"] == 0
    assert first.memory.numbers["ewc.examples"] == 8  # what 3 % of four small updates pay for
    second = fit(first.model, tmp_path / "b", rows("b", 9), [ewc], first.memory)
    told = list(read_jsonl(tmp_path / "b" / "metrics.jsonl"))
    assert told[0]["ewc_penalty"] == 0
    assert told[-1]["ewc_ratio"] == pytest.approx(told[-1]["ewc_penalty"] / told[-1]["loss"])
    numbers = second.memory.numbers
    assert numbers["ewc.ratio"] == pytest.approx(sum(row["ewc_ratio"] for row in told) / 4)
    kept = sum(tensor.nbytes for tensor in second.memory.tensors.values())
    assert on_disk.num_bytes(second.memory) == {"ewc": kept}
    assert second.to_json()["hook_seconds"]["ewc"] > 0


@pytest.mark.slow
def test_importance_fades_by_the_decay_and_its_mean_stays_one(tiny_model):
    ewc, model = Ewc(form="adapter", decay=0.5), shake(make(tiny_model))
    first = remember(model, ewc, seed=1)
    alone = remember(model, ewc, seed=2)
    both = remember(model, ewc, memory=first, seed=2)
    assert (first.numbers["ewc.rounds"], both.numbers["ewc.rounds"]) == (1, 1.5)
    for name, value in own(both, "weights").items():
        expected = (0.5 * own(first, "weights")[name] + own(alone, "weights")[name]) / 1.5
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_rows_are_measured_as_far_as_the_round_can_afford(tiny_model):
    model, many = make(tiny_model), rows("a", 60)
    average = sum(len(code.ids) for code in encoded(model, many)) / len(many)
    for max_cost, fewest, most in ((0.001, 8, 8), (0.2, 18, 22), (100, 40, 40)):
        ewc = Ewc(max_cost=max_cost, examples=40)
        state = ewc.prepare(model, Memory())
        state.counts["tokens"] = 150 * average  # 100 rows at what measuring costs, 20 at 0.2 of it
        memory = ewc.after_round(model, many, Memory(), state, seed=0)
        assert fewest <= memory.numbers["ewc.examples"] <= most


@pytest.mark.slow
def test_the_same_seed_measures_the_same(tiny_model):
    model = shake(make(tiny_model))
    one, same, other = (remember(model, Ewc(), count=12, seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(one.tensors[name], same.tensors[name]) for name in one.tensors)
    assert not all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


def test_it_comes_back_from_disk_exactly(tiny_model, tmp_path):
    memory = remember(shake(make(tiny_model)), Ewc())
    on_disk.save(memory, tmp_path)
    again = on_disk.load(tmp_path)
    assert again.numbers == memory.numbers
    assert again.tensors.keys() == memory.tensors.keys()
    assert all(torch.equal(again.tensors[name], memory.tensors[name]) for name in memory.tensors)


def test_what_other_strategies_remember_is_left_alone(tiny_model):
    memory = Memory({"replay": tuple(rows("b", 2))}, {"olora.A": torch.ones(2)}, {"replay.seed": 3})
    kept = remember(shake(make(tiny_model)), Ewc(), memory=memory)
    assert kept.rows == memory.rows
    assert torch.equal(kept.tensors["olora.A"], torch.ones(2))
    assert kept.numbers["replay.seed"] == 3


@pytest.mark.slow
def test_a_resumed_run_ends_like_an_uninterrupted_one(tiny_model, tmp_path):
    ewc, options = Ewc(lambda_=1.0), {"checkpoint_steps": 2, "max_steps": 6}
    first = fit(make(tiny_model), tmp_path / "a", rows("a", 6), [ewc])
    start = snapshot(first.model)

    def second(path):
        model = make(tiny_model)
        copy_into(model, start)
        return fit(model, path, rows("b", 6), [ewc], first.memory, **options)

    whole = second(tmp_path / "whole")
    second(tmp_path / "cut")
    (tmp_path / "cut/checkpoints/step-00000006/weights.safetensors").write_bytes(b"")
    resumed = second(tmp_path / "cut")
    assert torch.equal(flat(whole.model), flat(resumed.model))
    for name, tensor in whole.memory.tensors.items():
        assert torch.equal(tensor, resumed.memory.tensors[name])
    assert whole.memory.numbers["ewc.ratio"] == resumed.memory.numbers["ewc.ratio"]


def test_the_delta_form_without_lora_is_refused(tiny_model):
    model = make(tiny_model, type="ia3")
    with pytest.raises(ConfigError, match="holds the updates of plain LoRA layers.*form: adapter"):
        Ewc().prepare(model, Memory())


def test_the_adapter_form_holds_any_adapter(tiny_model, tmp_path):
    ewc, model = Ewc(form="adapter"), make(tiny_model, use_dora=True)
    memory = remember(shake(model), ewc)
    state = ewc.prepare(model, memory)
    shake(model, seed=2)
    assert pull(model, ewc, state) > 0


@pytest.mark.variants
@pytest.mark.parametrize("form", ["delta", "adapter"])
def test_after_a_change_of_the_adapter_only_the_adapter_form_starts_empty(tiny_model, caplog, form):
    ewc, model = Ewc(form=form), shake(make(tiny_model))
    memory = remember(model, ewc)
    for name, weight in model.trainable().items():
        weight.data *= 2.0 if "lora_A" in name else 0.5
    state = ewc.prepare(model, memory)
    is_held = form == "delta"
    assert pull(model, ewc, state) == 0
    assert (pull(shake(model), ewc, state) > 0) is is_held
    assert ("changed by a merge or by a round without ewc" in caplog.text) is not is_held
    memory = ewc.after_round(model, rows("b", 6), memory, state, seed=0)
    assert memory.numbers["ewc.rounds"] == (1.95 if is_held else 1)


@pytest.mark.slow
def test_frozen_layers_do_not_make_the_adapter_look_changed(tiny_model, tmp_path, caplog):
    held, frozen = Ewc(form="adapter"), Freeze(layers=1)
    done = fit(make(tiny_model), tmp_path / "0", rows("a", 6), [held])
    for index in (1, 2):
        model = reopened(done.model, tiny_model, tmp_path / f"model-{index}")
        done = fit(model, tmp_path / str(index), rows(f"b{index}", 6), [held, frozen], done.memory)
        told = list(read_jsonl(tmp_path / str(index) / "metrics.jsonl"))
        assert told[-1]["ewc_penalty"] > 0
    assert "forgotten" not in caplog.text


def test_another_form_than_the_parents_starts_empty_and_says_so(tiny_model, caplog):
    model = shake(make(tiny_model))
    memory = remember(model, Ewc(form="adapter"))
    with caplog.at_level(logging.WARNING):
        Ewc().prepare(model, memory)
    assert "in another form than delta, so it is forgotten" in caplog.text


@pytest.mark.variants
@pytest.mark.parametrize(("strength", "said"), [(1e-6, "raise lambda"), (1e5, "lower lambda")])
def test_a_penalty_that_cannot_do_its_work_is_told(tiny_model, tmp_path, caplog, strength, said):
    ewc = Ewc(lambda_=strength)
    first = fit(make(tiny_model), tmp_path / "a", rows("a", 6), [ewc])
    assert "ewc: the penalty" not in caplog.text
    fit(first.model, tmp_path / "b", rows("b", 6), [ewc], first.memory)
    assert "ewc: the penalty was" in caplog.text
    assert said in caplog.text


@pytest.mark.variants
@pytest.mark.parametrize("form", ["delta", "adapter"])
def test_weights_that_are_new_or_of_another_shape_are_told_and_not_held(tiny_model, caplog, form):
    ewc, model = Ewc(form=form), shake(make(tiny_model))
    memory = remember(model, ewc)
    names = [name for name in memory.tensors if ".weights." in name or ".outputs." in name]
    grown, gone = names[0], names[1]
    tensors = {**memory.tensors, grown: torch.ones(memory.tensors[grown].shape[0] + 1)}
    del tensors[gone]
    now = replace(memory, tensors=tensors)
    state = ewc.prepare(model, now)
    assert f"ewc: 2 of {len(names)} trained layers or weights are new" in caplog.text
    assert pull(model, ewc, state) == 0
    kept = remember(model, ewc, memory=now)
    assert kept.tensors[grown].shape == memory.tensors[grown].shape
    assert gone in kept.tensors


@pytest.mark.slow
def test_what_is_remembered_holds_a_base_model_that_took_the_adapter_up(tiny_model, tmp_path):
    """The same later change is as dear beside the adapter as after it became part of the base."""
    ewc, model = Ewc(), shake(make(tiny_model, rank=8))
    weights, layers = model.trainable(), low_rank_layers(model)
    for layer in layers.values():
        weights[layer.b].data[:, 4:] = 0  # room for what comes later
    memory = remember(model, ewc)
    copy.deepcopy(model.network).merge_and_unload().save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    fresh = make(tmp_path, rank=4)
    change = shake(make(tmp_path, rank=4)).trainable()
    paid = []
    for held in (model, fresh):
        state = ewc.prepare(held, memory)
        now = held.trainable()
        for layer in low_rank_layers(held).values():
            now[layer.b].data[:, -4:] = change[layer.b].detach()
            now[layer.a].data[-4:] = change[layer.a].detach()
        paid.append(pull(held, ewc, state))
    assert paid[0] == pytest.approx(paid[1], rel=1e-4)
    assert paid[0] > 0
