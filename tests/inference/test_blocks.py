"""Layers in few operations compute what Transformers' own do, and other layers stay as they are."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from llama_factory.inference.blocks import quicken
from llama_factory.inference.packed import PackedNetwork, Span
from tests.tiny import make_tiny_model

PROMPTS = ([5, 3, 7, 4, 6, 2, 8, 1, 9], [4, 8, 5])


def read(network):
    """Logits of two prompts in one pass, and of their next tokens."""
    reader = PackedNetwork(network)
    sequences = [reader.begin() for _ in PROMPTS]
    first = reader.read([Span(s, p, len(p)) for s, p in zip(sequences, PROMPTS, strict=True)])
    for sequence in sequences:
        reader.settle(sequence)
    return torch.cat([first, reader.read([Span(sequence, [7]) for sequence in sequences])])


def load(folder, kind):
    model = make_tiny_model(folder / kind, kind)
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2"])
def test_logits_are_those_of_the_plain_layers(tmp_path, kind):
    network = load(tmp_path, kind)
    plain, hidden = read(network), PackedNetwork(network).hidden("", PROMPTS[0])
    assert quicken(network.modules()) == network.config.num_hidden_layers
    torch.testing.assert_close(read(network), plain, rtol=1e-5, atol=1e-5)
    again = PackedNetwork(network).hidden("", PROMPTS[0])
    torch.testing.assert_close(again, hidden, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["gemma", "phi", "gpt_neox"])
def test_other_layers_stay_as_they_are(tmp_path, kind):
    assert quicken(load(tmp_path, kind).modules()) == 0


def test_a_layer_that_norms_otherwise_stays_as_it_is(tmp_path):
    network = load(tmp_path, "llama")
    norm = network.model.layers[0].input_layernorm
    norm.forward = lambda x: x * norm.weight
    assert quicken(network.modules()) == network.config.num_hidden_layers - 1
