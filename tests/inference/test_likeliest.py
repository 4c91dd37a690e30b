"""The likeliest token is found where bfloat16 rounds several to the same value."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from llama_factory.inference import likeliest

IDS = torch.tensor([[5, 6, 7], [8, 9, 10]])


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("has_bias", [False, True])
def test_values_that_round_to_the_same_are_told_apart(tiny_model, kind, has_bias):
    network = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=kind).eval()
    head = network.get_output_embeddings()
    seen = {}
    head.register_forward_hook(lambda _, given, out: seen.update(hidden=given[0][:, -1]))
    with torch.no_grad():
        before = network(IDS).logits
        # The rows of two tokens nearly alike, and far above all others.
        head.weight.mul_(0.01)
        head.weight[40] = seen["hidden"][0] * 2
        head.weight[41] = seen["hidden"][0] * 2
        head.weight[41, 0] += 0.02 * seen["hidden"][0, 0].sign()
        if has_bias:
            head.bias = torch.nn.Parameter(torch.zeros(len(head.weight), dtype=kind))
        coarse = network(IDS).logits
        with likeliest.in_float32(network):
            fine = network(IDS).logits
        exact = seen["hidden"].float() @ head.weight.float().T
    assert coarse[0, -1, 40] == coarse[0, -1, 41], (
        "they must round to the same for this to be a test"
    )
    assert coarse[0, -1].argmax() == 40
    assert fine.dtype == torch.float32
    assert fine[0, -1].argmax() == exact[0].argmax() == 41
    assert fine[1, -1].argmax() == exact[1].argmax()
    assert torch.allclose(fine[:, :-1], coarse[:, :-1].float(), rtol=0.02, atol=1e-3)
    assert before.dtype == network(IDS).logits.dtype == kind


def test_a_float32_network_computes_as_it_is(tiny_model):
    network = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    plain = network(IDS).logits
    with likeliest.in_float32(network):
        assert torch.equal(network(IDS).logits, plain)
