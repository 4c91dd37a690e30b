"""Positions beyond a model's own length are those of a config that says so itself."""

import json

import pytest
import torch

from llama_factory.core.errors import ModelError
from llama_factory.model.base import load_network
from llama_factory.model.settings import ModelSettings
from tests.tiny import MAX_TOKENS, make_tiny_model


def network(folder, **given):
    settings = ModelSettings(base_model=str(folder), dtype="float32", **given)
    return load_network(folder, settings)


def logits(model):
    ids = torch.arange(40).view(1, -1) % 17 + 3
    with torch.no_grad():
        return model(ids).logits


def by_hand(folder, **rope):
    """The same model, whose own config has other positions."""
    config = json.loads((make_tiny_model(folder) / "config.json").read_text())
    config["rope_parameters"] |= rope
    (folder / "config.json").write_text(json.dumps(config))
    return network(folder)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("linear", {}),
        ("yarn", {"original_max_position_embeddings": MAX_TOKENS}),
        (
            "llama3",
            {
                "original_max_position_embeddings": MAX_TOKENS,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
            },
        ),
    ],
)
def test_positions_are_those_of_a_config_that_says_so(tiny_model, tmp_path, kind, more):
    asked = network(tiny_model, rope_scaling=kind, rope_tokens=4 * MAX_TOKENS - 7)
    assert asked.config.max_position_embeddings == 4 * MAX_TOKENS
    expected = by_hand(tmp_path / "m", rope_type=kind, factor=4.0, **more)
    assert torch.equal(logits(asked), logits(expected))
    assert not torch.allclose(logits(asked), logits(network(tiny_model)))


def test_a_model_that_reaches_far_enough_stays_as_it_is_and_twice_is_usual(tiny_model):
    plain = network(tiny_model)
    enough = network(tiny_model, rope_scaling="linear", rope_tokens=MAX_TOKENS)
    assert torch.equal(logits(enough), logits(plain))
    twice = network(tiny_model, rope_scaling="linear")
    frequencies = (each.model.rotary_emb.inv_freq for each in (twice, plain))
    assert torch.equal(next(frequencies), next(frequencies) / 2)


def test_other_positions_are_refused(tmp_path):
    bloom = make_tiny_model(tmp_path / "bloom", "bloom")
    with pytest.raises(ModelError, match="'bloom' has no rotary positions of one kind"):
        network(bloom, rope_scaling="linear")
    by_hand(tmp_path / "m", rope_type="linear", factor=2.0)
    with pytest.raises(ModelError, match="of the kind 'linear' already and reach 512 tokens"):
        network(tmp_path / "m", rope_scaling="yarn", rope_tokens=5000)
