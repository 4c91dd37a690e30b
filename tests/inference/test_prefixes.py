"""What was read before is reused, never by another version, and within its bounds of memory."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_factory.inference.batch_engine import BatchEngine, Limits
from llama_factory.inference.keys_values import Sequence
from llama_factory.inference.packed import PackedNetwork
from llama_factory.inference.prefixes import BLOCK, Prefixes, is_shared_beyond
from llama_factory.inference.request import Request
from tests.inference.plain import VOCAB, engine_of, network_of, require_plain, run

HEADS, WIDTH, LAYERS = 2, 4, 3
BLOCK_BYTES = LAYERS * 2 * HEADS * BLOCK * WIDTH * 4


def sequence_of(ids, version=""):
    """A sequence that has read ids; keys and values say which token lies where."""
    sequence = Sequence(version, length=len(ids), capacity=512)
    for layer in range(LAYERS):
        like = torch.zeros(HEADS, 1, WIDTH)
        for number, buffer in enumerate(sequence.buffers(layer, (like, like))):
            buffer[:, : len(ids)] = torch.tensor(ids)[None, :, None] + 1000.0 * layer + 500 * number
    return sequence


def num_reused(prefixes, ids, version=""):
    """How much is reused of a prompt; what is held must be its tokens."""
    sequence = Sequence(version)
    length = prefixes.reuse(sequence, ids)
    assert length == sequence.length
    if length:
        for layer, pair in sequence.held().items():
            expected = sequence_of(ids[:length]).held()[layer]
            assert all(torch.equal(ours, own) for ours, own in zip(pair, expected, strict=True))
    return length


def storages(prefixes):
    """Bytes of memory that its tensors keep alive."""
    held = [t for b in prefixes._used.values() for pair in b.held.values() for t in pair]
    return sum(
        {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held}.values()
    )


def test_whole_blocks_are_reused_and_one_token_is_left_to_read():
    prefixes, ids = Prefixes(1 << 20), list(range(100))
    prefixes.keep(sequence_of(ids), ids)
    assert num_reused(prefixes, ids) == 96
    assert num_reused(prefixes, ids[:96]) == 80
    assert num_reused(prefixes, ids[:97]) == 96
    assert num_reused(prefixes, [*ids[:50], 7, *ids[50:]]) == 48
    assert num_reused(prefixes, [7, *ids]) == 0
    assert prefixes.num_known("", ids) == 96


def test_versions_share_nothing_and_forget_alone():
    prefixes, ids = Prefixes(1 << 20), list(range(40))
    for version in ("a", "b"):
        prefixes.keep(sequence_of(ids, version), ids)
    prefixes.forget("a")
    assert num_reused(prefixes, ids, "a") == 0
    assert num_reused(prefixes, ids, "b") == 32
    assert num_reused(prefixes, ids) == 0
    prefixes.forget("b")
    prefixes.forget("never seen")
    assert prefixes.num_bytes == 0
    assert not prefixes._used
    assert not prefixes._roots


def test_the_least_recently_used_leaves_first_and_memory_is_freed():
    prefixes = Prefixes(6 * BLOCK_BYTES)
    first, second, third = ([n * 100 + i for i in range(48)] for n in range(3))
    prefixes.keep(sequence_of(first), first)
    prefixes.keep(sequence_of(second), second)
    assert prefixes.num_bytes == storages(prefixes) == 6 * BLOCK_BYTES
    assert num_reused(prefixes, [*first, 1]) == 48
    prefixes.keep(sequence_of(third[:32]), third[:32])
    assert num_reused(prefixes, [*first, 1]) == 48
    assert num_reused(prefixes, [*second, 1]) == 16
    assert prefixes.num_bytes == storages(prefixes) == 6 * BLOCK_BYTES
    while prefixes.shrink():
        assert prefixes.num_bytes == storages(prefixes)
    assert prefixes.num_bytes == 0


def test_of_what_is_too_large_the_beginning_is_kept():
    prefixes, ids = Prefixes(3 * BLOCK_BYTES), list(range(200))
    prefixes.keep(sequence_of(ids), ids)
    assert num_reused(prefixes, ids) == 48
    nothing = Prefixes(0)
    nothing.keep(sequence_of(ids), ids)
    assert nothing.num_bytes == 0
    assert num_reused(nothing, ids) == 0


PROMPTS = st.lists(st.integers(0, 1), min_size=1, max_size=5).map(
    lambda bits: [token for bit in bits for token in [bit, *range(2, 11)]]
)


@pytest.mark.slow
@settings(max_examples=100)
@given(
    steps=st.lists(st.tuples(st.sampled_from(["keep", "reuse", "forget"]), st.booleans(), PROMPTS)),
    most=st.integers(0, 6),
)
def test_it_holds_what_it_says_whatever_comes(steps, most):
    prefixes = Prefixes(most * BLOCK_BYTES)
    for action, is_first, ids in steps:
        version = "a" if is_first else "b"
        if action == "keep":
            prefixes.keep(sequence_of(ids, version), ids)
        elif action == "reuse":
            known = prefixes.num_known(version, ids)
            assert num_reused(prefixes, ids, version) == known <= len(ids) - 1
        else:
            prefixes.forget(version)
            assert num_reused(prefixes, ids, version) == 0
        assert prefixes.num_bytes == storages(prefixes) <= most * BLOCK_BYTES
        for block in prefixes._used.values():
            assert block.parent is not None
            assert block.parent.children[block.ids] is block


@given(
    first=st.lists(st.integers(0, 1), max_size=70),
    second=st.lists(st.integers(0, 1), max_size=70),
    same=st.integers(0, 70),
    known=st.integers(0, 70),
)
def test_more_is_shared_where_more_whole_blocks_are(first, second, same, known):
    first, second = [3] * same + first, [3] * same + second
    most = min(len(first), len(second) - 1)
    equal = next((n for n in range(max(0, most)) if first[n] != second[n]), max(0, most))
    shared = equal // BLOCK * BLOCK
    assert is_shared_beyond(first, second, known) == (shared > known)


class Counted(PackedNetwork):
    """Counts the tokens that it reads."""

    num_read = 0

    def read(self, spans):
        self.num_read += sum(len(span.ids) for span in spans)
        return super().read(spans)


@pytest.mark.slow
def test_the_tenth_turn_of_a_chat_reads_only_what_is_new():
    network = network_of("llama")
    reader = Counted(network)
    engine = engine_of(reader, max_drafts=0)
    chat = [1, 2, 3, 4, 5]
    for turn in range(10):
        chat += [(11 * turn + 3 * k) % VOCAB for k in range(7)]
        request = Request(tuple(chat), max_tokens=13)
        before = reader.num_read
        (answer,) = run(engine, [request])
        require_plain(network, request, answer)
        assert answer.end
        num_new = len(chat) - answer.end.num_reused
        assert reader.num_read - before == num_new + 12
        assert turn == 0 or num_new <= 7 + 13 + BLOCK
        chat += answer.ids
    assert answer.end.num_reused > 150


def test_a_prompt_that_is_being_read_is_waited_for_and_not_read_twice():
    network = network_of("llama")
    reader = Counted(network)
    engine = engine_of(reader, max_drafts=0, read_tokens=32, chunk_tokens=32)
    shared = [(5 * n + n * n) % VOCAB for n in range(100)]
    requests = [Request((*shared, 50 + n), max_tokens=2) for n in range(6)]
    for request, answer in zip(requests, run(engine, requests), strict=True):
        require_plain(network, request, answer)
    assert reader.num_read == 101 + 5 * (101 - 96) + 6


def test_where_nothing_may_be_kept_nothing_is():
    engine = engine_of(PackedNetwork(network_of("llama")), prefix_bytes=0)
    request = Request(tuple(range(3, 60)), max_tokens=20)
    first, second = run(engine, [request]), run(engine, [request])
    assert first[0].ids == second[0].ids
    assert second[0].end.num_reused == 0
    assert engine.prefixes.num_bytes == 0


def test_prompts_of_other_versions_are_read_anew():
    networks = {"": network_of("llama"), "v1": network_of("llama", seed=1)}
    readers = {name: PackedNetwork(network) for name, network in networks.items()}
    engine = BatchEngine(readers.__getitem__, Limits())
    for _ in range(2):
        for name, network in networks.items():
            request = Request(tuple(range(3, 80)), name, max_tokens=20)
            (answer,) = run(engine, [request])
            require_plain(network, request, answer)
    assert answer.end.num_reused == 64
