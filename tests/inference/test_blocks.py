"""Layers in few operations compute what Transformers' own do, and other layers stay as they are."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from llama_factory.inference import blocks
from llama_factory.inference.blocks import plain_blocks
from llama_factory.inference.packed import PackedNetwork, Span
from llama_factory.inference.version_weights import VersionedNetwork
from tests.tiny import make_tiny_model

PROMPTS = ([5, 3, 7, 4, 6, 2, 8, 1, 9], [4, 8, 5])


def read(reader):
    """Logits of two prompts in one pass, and of their next tokens."""
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
    assert len(plain_blocks(network)) == network.config.num_hidden_layers
    reader = PackedNetwork(network)
    plain, hidden = read(reader), reader.hidden("", PROMPTS[0])
    quick = VersionedNetwork(network, "float32")
    torch.testing.assert_close(read(quick), plain, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(quick.hidden("", PROMPTS[0]), hidden, rtol=1e-5, atol=1e-5)


def test_layers_of_which_some_have_a_bias_are_joined(tmp_path):
    network = load(tmp_path, "qwen2")
    for layer in network.model.layers:
        layer.self_attn.k_proj.bias = None
        torch.nn.init.normal_(layer.self_attn.q_proj.bias)
    plain = read(PackedNetwork(network))
    torch.testing.assert_close(
        read(VersionedNetwork(network, "float32")), plain, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("kind", ["gemma", "phi", "gpt_neox"])
def test_other_layers_stay_as_they_are(tmp_path, kind):
    assert plain_blocks(load(tmp_path, kind)) == {}


def test_a_layer_that_norms_otherwise_stays_as_it_is(tmp_path):
    network = load(tmp_path, "llama")
    norm = network.model.layers[0].input_layernorm
    norm.forward = lambda x: x * norm.weight
    assert len(plain_blocks(network)) == network.config.num_hidden_layers - 1


@pytest.fixture
def fast_bfloat16(monkeypatch):
    """A processor with fast products in bfloat16, or one that can at least compute them."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no products in bfloat16")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})


@pytest.mark.usefixtures("fast_bfloat16")
@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2"])
def test_a_network_in_bfloat16_is_float32_between_its_products(tmp_path, kind):
    """Its logits are nearer to those of the same weights in float32 than the plain network's."""
    coarse = load(tmp_path, kind).bfloat16()
    exact = read(PackedNetwork(copy.deepcopy(coarse).float()))
    plain = read(PackedNetwork(copy.deepcopy(coarse))).float()
    reader = VersionedNetwork(coarse, "auto")
    assert reader.dtype == torch.float32
    ours = read(reader)
    assert ours.dtype == torch.float32
    assert (ours - exact).norm() < (plain - exact).norm()
    assert reader.hidden("", PROMPTS[0]).dtype == torch.float32


@pytest.mark.usefixtures("fast_bfloat16")
@pytest.mark.parametrize("kind", ["gemma", "phi"])
def test_a_network_of_other_layers_stays_in_bfloat16(tmp_path, kind):
    coarse = load(tmp_path, kind).bfloat16()
    plain = read(PackedNetwork(copy.deepcopy(coarse))).float()
    reader = VersionedNetwork(coarse, "auto")
    assert reader.dtype == torch.bfloat16
    torch.testing.assert_close(read(reader).float(), plain, rtol=2e-2, atol=2e-2)


def test_where_products_in_bfloat16_are_slow_nothing_is_widened(tmp_path):
    coarse = load(tmp_path, "llama").bfloat16()
    assert not blocks.widen(coarse)
    assert {weight.dtype for weight in coarse.parameters()} == {torch.bfloat16}
