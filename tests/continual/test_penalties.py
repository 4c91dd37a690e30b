"""Penalties that never form the full matrix, against those that do."""

import pytest
import torch
from torch import nn

from llama_factory.continual.fisher import Fisher
from llama_factory.continual.low_rank import LowRankLayer
from llama_factory.continual.penalties import WeightPenalty, penalties

SHAPES = {"q": (6, 5, 3), "v": (6, 5, 3), "down": (4, 7, 2)}
"""Outputs, inputs and rank of layers."""
SCALES = {"q": 2.0, "v": 0.5, "down": 1.5}


def layer_names():
    return {
        name: LowRankLayer(f"{name}.B", f"{name}.A", SCALES[name], nn.Identity()) for name in SHAPES
    }


def draw(seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, (out, inside, rank) in SHAPES.items():
        weights[f"{name}.B"] = torch.randn(out, rank, generator=generator, dtype=dtype)
        weights[f"{name}.A"] = torch.randn(rank, inside, generator=generator, dtype=dtype)
    return weights


def draw_fisher(seed):
    generator = torch.Generator().manual_seed(seed)
    outputs = {name: torch.rand(shape[0], generator=generator) for name, shape in SHAPES.items()}
    inputs = {name: torch.rand(shape[1], generator=generator) for name, shape in SHAPES.items()}
    return Fisher(outputs=outputs, inputs=inputs)


def by_full_matrix(fisher, old, new):
    """The definition, in float64."""
    total = torch.zeros((), dtype=torch.float64)
    for name, scale in SCALES.items():
        before = scale * old[f"{name}.B"].double() @ old[f"{name}.A"].double()
        now = scale * new[f"{name}.B"].double() @ new[f"{name}.A"].double()
        importance = torch.outer(fisher.outputs[name], fisher.inputs[name]).double()
        total = total + (importance * (now - before) ** 2).sum()
    return total


def by_products(fisher, old, new):
    return sum(anchor.value(new) for anchor in penalties(fisher, layer_names(), old))


def test_the_penalty_on_updates_equals_that_on_full_matrices():
    fisher, old, new = draw_fisher(0), draw(1), draw(2)
    expected = by_full_matrix(fisher, old, new)
    assert float(by_products(fisher, old, new)) == pytest.approx(float(expected), rel=1e-5)


def test_its_gradient_is_that_of_the_full_matrix():
    fisher, old, new = draw_fisher(0), draw(1), draw(2)
    for weight in new.values():
        weight.requires_grad_()
    expected = torch.autograd.grad(by_full_matrix(fisher, old, new), list(new.values()))
    gradients = torch.autograd.grad(by_products(fisher, old, new), list(new.values()))
    for gradient, right in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, right, rtol=1e-4, atol=1e-4)


def test_layers_of_one_shape_are_held_together():
    anchors = penalties(draw_fisher(0), layer_names(), draw(1))
    assert sorted(len(anchor.layers) for anchor in anchors) == [1, 2]


def test_it_is_exactly_zero_where_nothing_changed():
    old = draw(1, torch.float32)
    assert float(by_products(draw_fisher(0), old, old)) == 0


def test_a_small_change_does_not_drown_in_rounding():
    fisher, old = draw_fisher(0), draw(1, torch.float32)
    new = {name: weight * (1 + 1e-5) for name, weight in old.items()}
    expected = by_full_matrix(fisher, old, new)
    assert float(by_products(fisher, old, new)) == pytest.approx(float(expected), rel=1e-2)


def test_factoring_the_update_anew_costs_nothing():
    fisher, old = draw_fisher(0), draw(1, torch.float32)
    again = {name: w * (4.0 if name.endswith("A") else 0.25) for name, w in old.items()}
    assert float(by_products(fisher, old, again)) < 1e-3  # what float32 rounds
    other = {name: weight * 4.0 for name, weight in old.items()}
    assert float(by_products(fisher, old, other)) > 1


def test_weights_are_held_one_by_one():
    old = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[3.0]]), "new": torch.ones(2)}
    importance = {"a": torch.tensor([2.0, 0.5]), "b": torch.tensor([[4.0]])}
    anchor = WeightPenalty.at(importance, old)
    now = {"a": torch.tensor([2.0, 4.0]), "b": torch.tensor([[3.5]]), "new": torch.zeros(2)}
    assert float(anchor.value(now)) == 2 * 1 + 0.5 * 4 + 4 * 0.25


def test_without_importance_nothing_is_held():
    assert penalties(Fisher(), layer_names(), draw(1)) == ()
