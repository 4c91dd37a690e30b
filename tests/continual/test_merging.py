"""Two states of a model as one: what each rule is given, what is written where, what is lost."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from llama_factory.continual import merging
from llama_factory.continual.low_rank import (
    Combined,
    LowRank,
    factorize,
    low_rank_layers,
    magmax,
    other_names,
    ties,
)
from llama_factory.continual.merging import (
    Rule,
    blending,
    combine,
    copy_into,
    digest,
    is_unchanged,
    snapshot,
)
from llama_factory.model.adapted import AdaptedModel
from llama_factory.model.base import load_network
from llama_factory.model.settings import ModelSettings
from tests.continual.small import flat, make, reopened, shake


def drawn(seed, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    b = torch.randn(6, 2, generator=generator)
    return LowRank(b, torch.randn(2, 5, generator=generator), scale)


OLD, NEW = drawn(0), drawn(1)
PLAIN = torch.tensor([1.0, -4.0, 2.0]), torch.tensor([3.0, 2.0, 2.0])
"""Weights that are no part of a product, before and after."""


def same(one, other):
    torch.testing.assert_close(one.b, other.b)
    torch.testing.assert_close(one.a, other.a)
    assert one.scale == other.scale


def test_a_blend_goes_alpha_of_the_way_to_the_new_state():
    rule = merging.blending(0.25)
    shared = LowRank(NEW.b, OLD.a, 2.0)
    same(rule.products(OLD, shared).product, LowRank(0.75 * OLD.b + 0.25 * NEW.b, OLD.a, 2.0))
    assert rule.others(*PLAIN).tolist() == [1.5, -2.5, 2.0]


def test_replacing_a_takes_the_new_a_and_goes_a_part_of_the_way_to_the_new_b():
    rule = merging.replacing_a(0.25)
    combined = rule.products(OLD, NEW)
    same(combined.product, LowRank(0.75 * OLD.b + 0.25 * NEW.b, NEW.a, 2.0))
    assert (combined.lost, combined.total) == (0, 0)
    assert rule.others(*PLAIN).tolist() == [1.5, -2.5, 2.0]


@pytest.mark.parametrize(
    ("rule", "combined"),
    [
        (merging.choosing_largest(), magmax),
        (merging.electing_signs(0.3), lambda old, new: ties(old, new, 0.3)),
    ],
)
def test_rules_for_full_updates_see_the_products_whole_and_give_them_the_rank_again(rule, combined):
    expected = factorize(combined(OLD.dense(), NEW.dense()), 2, 2.0)
    found = rule.products(OLD, NEW)
    same(found.product, expected.product)
    assert (found.lost, found.total) == (expected.lost, expected.total)
    assert found.product.rank == 2
    assert torch.equal(rule.others(*PLAIN), combined(*PLAIN))


def test_what_is_lost_is_a_share_of_the_norm_of_all_updates_together(tiny_model):
    model = make(tiny_model)
    numbers = iter(range(1, 1000))
    seen = []

    def products(old, new):
        lost = float(next(numbers))
        seen.append(lost)
        return Combined(new, lost, 10 * lost + 1)

    error = combine(model, snapshot(model), Rule(products, torch.max))
    assert len(seen) == len(low_rank_layers(model)) > 2
    assert error == pytest.approx((sum(seen) / (10 * sum(seen) + len(seen))) ** 0.5)
    nothing = Rule(lambda _, new: Combined(new, 0.0, 0.0), torch.max)
    assert combine(model, snapshot(model), nothing) == 0
    assert combine(model, snapshot(model), Rule(lambda _, n: Combined(n, 0.0, 0.5), max)) == 0


def test_products_are_written_into_the_layers_they_come_from(tiny_model):
    model = make(tiny_model)
    previous = snapshot(shake(model))
    trained = snapshot(shake(model, seed=2))

    def products(old, new):
        return Combined(LowRank(old.b + 2 * new.b, old.a - new.a, new.scale))

    combine(model, previous, Rule(products, torch.max))
    weights = model.trainable()
    for each in low_rank_layers(model).values():
        torch.testing.assert_close(weights[each.b].detach(), previous[each.b] + 2 * trained[each.b])
        torch.testing.assert_close(weights[each.a].detach(), previous[each.a] - trained[each.a])


def test_other_weights_are_combined_as_what_was_added_since_the_first_round(tiny_model):
    model = make(tiny_model, type="ia3")
    previous = snapshot(shake(model))
    trained = snapshot(shake(model, seed=2))
    first, *others = other_names(model, low_rank_layers(model))
    origin = {first: torch.full_like(previous[first], 0.5)}
    combine(model, previous, Rule(None, lambda old, new: 10 * old + new), origin)
    weights = model.trainable()
    expected = 0.5 + 10 * (previous[first] - 0.5) + (trained[first] - 0.5)
    torch.testing.assert_close(weights[first].detach(), expected)
    assert others
    for name in others:  # what has no origin counts from zero
        torch.testing.assert_close(weights[name].detach(), 10 * previous[name] + trained[name])


@pytest.mark.parametrize("adapter", [{}, {"type": "ia3"}])
def test_interpolation_ends_at_the_new_and_at_the_previous_state(tiny_model, adapter):
    model = make(tiny_model, **adapter)
    previous = snapshot(shake(model))
    trained = snapshot(shake(model, seed=2))
    assert combine(model, previous, blending(1)) < 1e-6
    for each in low_rank_layers(model).values():
        found, expected = each.of(model.trainable()).dense(), each.of(trained).dense()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert combine(model, previous, blending(0)) < 1e-6
    for each in low_rank_layers(model).values():
        found, expected = each.of(model.trainable()).dense(), each.of(previous).dense()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for name in other_names(model, low_rank_layers(model)):
        assert torch.equal(model.trainable()[name], previous[name])


def test_interpolation_tells_what_the_rank_has_no_room_for(tiny_model):
    model = make(tiny_model)
    previous = snapshot(shake(model))
    trained = snapshot(shake(model, seed=2))
    layers = low_rank_layers(model).values()
    exact = [0.5 * each.of(previous).dense() + 0.5 * each.of(trained).dense() for each in layers]
    error = combine(model, previous, blending(0.5))
    merged = [each.of(model.trainable()).dense() for each in layers]
    lost = sum((x - y).double().square().sum() for x, y in zip(exact, merged, strict=True))
    total = sum(x.double().square().sum() for x in exact)
    assert error == pytest.approx(float(lost / total) ** 0.5, rel=1e-4)
    assert error > 0.01


def with_embeddings(folder):
    network = load_network(folder, ModelSettings(dtype="float32"))
    config = LoraConfig(r=4, target_modules=["embed_tokens", "q_proj"], task_type="CAUSAL_LM")
    return shake(AdaptedModel(get_peft_model(network, config), None, "", None))


def test_an_adapted_embedding_is_merged_as_a_product_too(tiny_model):
    model = with_embeddings(tiny_model)
    layers = low_rank_layers(model)
    assert [each.is_plain for each in layers.values()].count(False) == 1
    assert other_names(model, layers) == []
    old = {name: each.module.get_delta_weight("default").detach() for name, each in layers.items()}
    previous = snapshot(model)
    for each in layers.values():
        model.trainable()[each.b].data.mul_(3)
    combine(model, previous, blending(0.5))
    for name, each in layers.items():
        merged = each.module.get_delta_weight("default").detach()
        torch.testing.assert_close(merged, 2 * old[name], rtol=1e-4, atol=1e-5)


def test_a_snapshot_is_put_back_bit_for_bit(tiny_model):
    model = shake(make(tiny_model))
    kept, before, known = snapshot(model), flat(model), digest(model)
    shake(model, seed=2)
    assert digest(model) != known
    copy_into(model, kept)
    assert torch.equal(flat(model), before)
    assert digest(model) == known == float(int(known))


@pytest.mark.parametrize("change", ["signs", "places", "one bit"])
def test_weights_with_the_same_squares_are_other_weights(tiny_model, change):
    model = shake(make(tiny_model))
    numbers = {"ewc.digest": digest(model)}
    assert is_unchanged(model, numbers, "ewc")
    weight = next(iter(model.trainable().values())).data
    if change == "signs":
        weight.neg_()
    elif change == "places":
        weight.copy_(weight.flip(0))
    else:
        weight.view(-1)[3] = torch.nextafter(weight.view(-1)[3], torch.tensor(torch.inf))
    assert not is_unchanged(model, numbers, "ewc")


def test_the_sum_of_squares_of_earlier_releases_is_understood(tiny_model):
    model = shake(make(tiny_model))
    squares = float(flat(model).double().square().sum())
    assert is_unchanged(model, {"merge.norm": squares}, "merge")
    assert not is_unchanged(model, {"merge.norm": 1.01 * squares}, "merge")
    assert not is_unchanged(model, {}, "merge")


def test_saved_weights_are_the_same_when_they_are_read_again(tiny_model, tmp_path):
    model = shake(make(tiny_model))
    known = digest(model)
    assert digest(reopened(model, tiny_model, tmp_path / "saved")) == known
