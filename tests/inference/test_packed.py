"""Networks of many kinds read packed sequences, or one after the other, as they read each alone."""

import pytest
import torch

from llama_factory.inference import attention
from llama_factory.inference.memory import bytes_per_token
from llama_factory.inference.one_by_one import OneByOneNetwork
from llama_factory.inference.packed import PackedNetwork, Span, can_pack
from llama_factory.inference.request import Request
from tests.inference.plain import (
    ONE_BY_ONE,
    PACKED,
    VOCAB,
    engine_of,
    network_of,
    plain_logits,
    require_plain,
    run,
)

REQUESTS = [
    Request(
        tuple((7 * i * j + j * j + 3 * i) % VOCAB for j in range(1, 4 + 5 * i)),
        max_tokens=10,
        end_tokens=frozenset(range(0, VOCAB, 11)),
        num_logprobs=2,
    )
    for i in range(1, 8)
]


@pytest.mark.variants
@pytest.mark.parametrize("name", PACKED)
def test_packed_answers_are_those_of_plain_passes(name):
    network = network_of(name)
    assert can_pack(network)
    reader = PackedNetwork(network)
    answers = run(engine_of(reader, chunk_tokens=7, read_tokens=30), REQUESTS)
    for request, answer in zip(REQUESTS, answers, strict=True):
        require_plain(network, request, answer)
    assert len({tuple(answer.ids) for answer in answers}) > 3


@pytest.mark.variants
@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_answers_one_by_one_are_those_of_plain_passes(name):
    network = network_of(name)
    assert not can_pack(network)
    answers = run(engine_of(OneByOneNetwork(network)), REQUESTS[:4])
    for request, answer in zip(REQUESTS, answers, strict=False):
        require_plain(network, request, answer)
    assert bytes_per_token(network, torch.float32) > 0


def read_in_turns(reader, prompts, size):
    """Logits after each token of several prompts, [tokens, vocabulary] each, some at a time."""
    sequences = [reader.begin() for _ in prompts]
    rows = [[] for _ in prompts]
    longest = max(map(len, prompts))
    for start in range(0, longest, size):
        parts = [prompt[start : start + size] for prompt in prompts]
        spans = [Span(s, p, len(p)) for s, p in zip(sequences, parts, strict=True) if p]
        logits = reader.read(spans).split([len(span.ids) for span in spans])
        for row, part in zip(
            (r for r, p in zip(rows, parts, strict=True) if p), logits, strict=True
        ):
            row.append(part)
        for sequence in sequences:
            if sequence.length and start >= 2 * size:
                reader.settle(sequence)
    for sequence in sequences:
        reader.end(sequence)
    return [torch.cat(parts) for parts in rows]


@pytest.mark.parametrize("size", [1, 3, 64])
def test_logits_after_every_token_are_those_of_a_plain_pass(size):
    network = network_of("gemma3, some layers with a window")
    prompts = [list(range(3, 3 + n)) for n in (20, 1, 9, 14)]
    for prompt, ours in zip(
        prompts, read_in_turns(PackedNetwork(network), prompts, size), strict=True
    ):
        torch.testing.assert_close(ours, plain_logits(network, prompt), atol=2e-5, rtol=1e-4)


def test_hidden_states_are_those_of_a_plain_pass():
    network, ids = network_of("llama"), [5, 9, 2, 77, 3]
    with torch.no_grad():
        plain = network(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
    for reader in (PackedNetwork(network), OneByOneNetwork(network)):
        torch.testing.assert_close(reader.hidden("", ids), plain, atol=1e-5, rtol=1e-5)


def test_sequences_that_outgrow_their_buffers_keep_what_they_hold():
    network = network_of("llama")
    prompts = [
        [(3 * n + k) % VOCAB for n in range(length)] for k, length in enumerate((260, 126, 40))
    ]
    for prompt, ours in zip(
        prompts, read_in_turns(PackedNetwork(network), prompts, 25), strict=True
    ):
        torch.testing.assert_close(ours, plain_logits(network, prompt), atol=2e-5, rtol=1e-4)


def test_a_sequence_may_be_made_shorter_and_read_on():
    network, ids = network_of("llama"), list(range(4, 30))
    reader = PackedNetwork(network)
    sequences = [reader.begin() for _ in range(3)]
    reader.read([Span(each, ids[:20]) for each in sequences])
    for each in sequences:
        reader.settle(each)
    reader.read([Span(sequences[1], [99, 98, 97])])
    sequences[1].length = 20
    (first, second, third) = reader.read([Span(each, ids[20:21]) for each in sequences])
    torch.testing.assert_close(second, first, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(third, plain_logits(network, ids[:21])[-1], atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_values_that_are_no_numbers_stay_in_their_row():
    """A row of shared buffers is taken over by the next sequence, and looked at by longer ones."""
    network = network_of("llama")
    reader = PackedNetwork(network)
    good, bad = reader.begin(), reader.begin()
    reader.read([Span(good, range(3, 43)), Span(bad, range(3, 33))])
    for each in (good, bad):
        reader.settle(each)
    for keys, values in bad.held().values():
        keys.fill_(torch.nan)
        values.fill_(torch.nan)
    third = reader.begin()
    reader.read([Span(third, range(3, 9))])
    reader.settle(third)
    for ended in (bad, None):
        spans = [Span(good, [7]), Span(third, [9])]
        assert reader.read(spans).isfinite().all()
        if ended:
            reader.end(ended)
    fourth = reader.begin()
    reader.read([Span(fourth, [5, 6])])
    reader.settle(fourth)
    assert reader.read([Span(good, [7]), Span(third, [9]), Span(fourth, [1])]).isfinite().all()


def test_the_network_attends_as_before_after_a_pass():
    network = network_of("llama")
    before, ids = plain_logits(network, [4, 5, 6]), [4, 5, 6]
    reader = PackedNetwork(network)
    with pytest.raises(IndexError):
        reader.read([Span(reader.begin(), [VOCAB + 5])])
    reader.read([Span(reader.begin(), ids)])
    assert network.config._attn_implementation != attention.NAME
    torch.testing.assert_close(plain_logits(network, ids), before)
