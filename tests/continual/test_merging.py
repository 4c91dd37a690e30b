"""Two states of a model as one: what each rule is given, what is written where, what is lost."""

import pytest
import torch

from llama_factory.continual import merging
from llama_factory.continual.combining import Combined, factored, magmax, ties
from llama_factory.continual.merging import Rule, combine, interpolate
from llama_factory.continual.updates import LowRank, low_rank_layers, other_names, snapshot
from tests.continual.small import make, shake


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
    expected = factored(combined(OLD.dense(), NEW.dense()), 2, 2.0)
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
    assert interpolate(model, previous, 1) == 0
    assert all(torch.equal(weight, trained[name]) for name, weight in model.trainable().items())
    assert interpolate(model, previous, 0) < 1e-6
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
    error = interpolate(model, previous, 0.5)
    merged = [each.of(model.trainable()).dense() for each in layers]
    lost = sum((x - y).double().square().sum() for x, y in zip(exact, merged, strict=True))
    total = sum(x.double().square().sum() for x in exact)
    assert error == pytest.approx(float(lost / total) ** 0.5, rel=1e-4)
    assert error > 0.01
