"""Trained products are found wherever they are, and nothing else is taken for one."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from llama_factory.continual.merging import interpolate
from llama_factory.continual.updates import (
    digest,
    is_unchanged,
    low_rank_layers,
    other_names,
    put_back,
    snapshot,
)
from llama_factory.model.load import AdaptedModel, load_network
from llama_factory.model.settings import ModelSettings
from tests.continual.small import flat, make, reopened, shake


def test_the_update_of_a_layer_is_what_merging_adds_to_its_weight(tiny_model):
    model = shake(make(tiny_model))
    layers, weights = low_rank_layers(model), model.trainable()
    assert len(layers) == 14
    for each in layers.values():
        delta = each.module.get_delta_weight("default")
        torch.testing.assert_close(each.of(weights).dense(), delta.detach())
    assert other_names(model, layers) == []


@pytest.mark.parametrize("options", [{"use_rslora": True}, {"alpha": 3}])
def test_its_scale_is_that_of_the_adapter(tiny_model, options):
    layers = low_rank_layers(make(tiny_model, **options))
    expected = 8 / 4**0.5 if "use_rslora" in options else 3 / 4
    assert {each.scale for each in layers.values()} == {expected}


def test_what_is_no_product_is_listed_apart(tiny_model):
    dora = make(tiny_model, use_dora=True)
    layers = low_rank_layers(dora)
    assert not any(each.is_plain for each in layers.values())
    assert all("magnitude" in name for name in other_names(dora, layers))
    ia3 = make(tiny_model, type="ia3")
    assert low_rank_layers(ia3) == {}
    assert other_names(ia3, {}) == list(ia3.trainable())


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
    interpolate(model, previous, 0.5)
    for name, each in layers.items():
        merged = each.module.get_delta_weight("default").detach()
        torch.testing.assert_close(merged, 2 * old[name], rtol=1e-4, atol=1e-5)


def test_a_snapshot_is_put_back_bit_for_bit(tiny_model):
    model = shake(make(tiny_model))
    kept, before, known = snapshot(model), flat(model), digest(model)
    shake(model, seed=2)
    assert digest(model) != known
    put_back(model, kept)
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


def test_the_start_of_pissa_is_a_sibling(tiny_model):
    assert all(
        each.has_siblings for each in low_rank_layers(make(tiny_model, init="pissa")).values()
    )
    assert not any(each.has_siblings for each in low_rank_layers(make(tiny_model)).values())
