"""Answers of many rows together: the same as alone, whatever is switched on, breaks or comes."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_factory.inference.batch_engine import BatchEngine
from llama_factory.inference.packed import PackedNetwork
from llama_factory.inference.request import Request, Sampling
from tests.inference.plain import (
    VOCAB,
    engine_of,
    heard,
    network_of,
    plain_logits,
    require_plain,
    run,
)

ENDS = frozenset(range(0, VOCAB, 11))
HOT = Sampling(temperature=1.3, top_p=0.95, top_k=50, seed=3)
SAMPLINGS = (
    Sampling(temperature=0.0),
    HOT,
    Sampling(temperature=0.0, repetition_penalty=1.3, frequency_penalty=0.4),
    Sampling(temperature=0.8, min_p=0.02, presence_penalty=0.7, seed=9, logit_bias={5: 3.0}),
)


def requests_of(num, lengths=(3, 60)):
    """Prompts that share beginnings with each other, and repeat themselves; all ways to sample."""
    shortest, longest = lengths
    return [
        Request(
            tuple(
                (3 * k + (n % 3) * (k // 20)) % 25 if n % 2 else (7 * n + k * k) % VOCAB
                for k in range(shortest + (13 * n) % (longest - shortest))
            ),
            max_tokens=4 + (5 * n) % 14,
            sampling=SAMPLINGS[n % 4],
            end_tokens=ENDS if n % 3 else frozenset(),
            min_tokens=n % 5,
            num_logprobs=(None, 0, 3)[n % 3],
        )
        for n in range(num)
    ]


@pytest.fixture(scope="module")
def llama():
    return network_of("llama")


@pytest.fixture(scope="module")
def alone(llama):
    """Requests with their answers one after the other, which are those of plain passes."""
    requests = requests_of(24)
    engine = engine_of(PackedNetwork(llama), prefix_bytes=0, max_drafts=0)
    answers = [run(engine, [request])[0] for request in requests]
    for request, answer in zip(requests, answers, strict=True):
        require_plain(llama, request, answer)
    assert {answer.end.reason for answer in answers} == {"stop", "length"}
    return list(zip(requests, answers, strict=True))


def require_same(answer, expected):
    assert answer.ids == expected.ids
    assert answer.end.reason == expected.end.reason
    for ours, theirs in zip(answer.tokens, expected.tokens, strict=True):
        assert (ours.logprob is None) == (theirs.logprob is None)
        if ours.logprob is not None:
            assert abs(ours.logprob - theirs.logprob) < 1e-4
            assert dict(ours.alternatives).keys() == dict(theirs.alternatives).keys()


@pytest.mark.slow
@settings(max_examples=6)
@given(
    limits=st.fixed_dictionaries(
        {
            "max_rows": st.sampled_from([1, 2, 5, 64]),
            "chunk_tokens": st.sampled_from([5, 256]),
            "read_tokens": st.sampled_from([9, 2048]),
            "cache_tokens": st.sampled_from([1, 300, 700, 65536]),
            "prefix_bytes": st.sampled_from([0, 40_000, 1 << 24]),
            "keep_answers": st.booleans(),
            "max_drafts": st.sampled_from([0, 1, 6]),
            "draft_rows": st.sampled_from([1, 3, 100]),
        }
    ),
    order=st.permutations(range(24)).map(lambda order: order[:7]),
)
def test_no_limit_and_no_neighbour_changes_an_answer(llama, alone, limits, order):
    engine = engine_of(PackedNetwork(llama), **limits)
    for number, answer in zip(order, run(engine, [alone[n][0] for n in order]), strict=True):
        require_same(answer, alone[number][1])


@pytest.mark.slow
def test_rows_that_are_put_back_go_on_where_they_were(llama, alone, monkeypatch):
    num_put_back = Counter()
    put_back = BatchEngine._put_back

    def counted(engine, row):
        num_put_back[row.num_answer > 0] += 1
        put_back(engine, row)

    monkeypatch.setattr(BatchEngine, "_put_back", counted)
    engine = engine_of(PackedNetwork(llama), cache_tokens=1024)
    base = [
        replace(
            r, prompt=(r.prompt[:1] * 120 + r.prompt)[-120:], max_tokens=20, end_tokens=frozenset()
        )
        for r, _ in alone[:8]
    ]
    expected = [run(engine_of(PackedNetwork(llama)), [request])[0] for request in base]
    for request, answer, plain in zip(base, run(engine, base), expected, strict=True):
        require_same(answer, plain)
        assert answer.end.num_reused < len(request.prompt)
    assert num_put_back[True] > 1


class Guessing(PackedNetwork):
    """Counts the guesses that it checks."""

    num_guessed = 0

    def read(self, spans):
        self.num_guessed += sum(span.num_last - 1 for span in spans if span.num_last)
        return super().read(spans)


@pytest.mark.slow
def test_guesses_are_made_and_change_nothing(llama):
    prompt = tuple([5, 9, 14, 3, 77, 21] * 6)
    few = {5: 20.0, 9: 20.0, 14: 20.0}
    for sampling in SAMPLINGS:
        sampling = replace(sampling, logit_bias=few)
        request = Request(prompt, max_tokens=24, sampling=sampling, num_logprobs=1)
        reader = Guessing(llama)
        (answer,) = run(engine_of(reader), [request])
        require_plain(llama, request, answer)
        assert reader.num_guessed > 3


def random_traffic(engine, requests, random):
    """Submit at random times, cancel some; returns answers by number of the request."""
    numbers, events, waiting = {}, [], list(enumerate(requests))
    random.shuffle(waiting)
    while waiting or not engine.is_idle:
        for _ in range(random.choice((0, 0, 1, 4))):
            if waiting:
                number, request = waiting.pop()
                numbers[engine.submit(request)] = number
        if numbers and random.random() < 0.15:
            engine.cancel(random.choice(list(numbers)))
        events += engine.step()
    return {numbers[ticket]: answer for ticket, answer in heard(events).items()}


@pytest.mark.slow
def test_random_arrivals_and_cancellations_change_no_answer(llama, alone):
    import random

    engine = engine_of(PackedNetwork(llama), max_rows=6, cache_tokens=900, chunk_tokens=20)
    answers = random_traffic(engine, [r for r, _ in alone] * 2, random.Random(1))
    reasons = Counter(answer.end.reason for answer in answers.values())
    assert reasons.keys() == {"stop", "length", "cancelled"}
    for number, answer in answers.items():
        expected = alone[number % len(alone)][1]
        if answer.end.reason == "cancelled":
            assert answer.ids == expected.ids[: len(answer.ids)]
        else:
            require_same(answer, expected)


# -- draws ---------------------------------------------------------------------------------


def p_value(counts, probabilities):
    """Pearson's test of counts by token; tokens that are expected rarely count as one."""
    num = sum(counts.values())
    expected = probabilities.double() * num
    ours = torch.tensor([counts[token] for token in range(VOCAB)], dtype=torch.float64)
    rare = expected < 8
    ours, expected = (torch.cat([t[~rare], t[rare].sum()[None]]) for t in (ours, expected))
    statistic = ((ours - expected).square() / expected.clamp(min=1e-9)).sum()
    return float(torch.special.gammaincc(torch.tensor((len(ours) - 1) / 2.0), statistic / 2))


@pytest.mark.slow
@pytest.mark.parametrize("num_rows", [1, 16])
def test_draws_follow_the_distribution_of_the_model(llama, num_rows):
    """Of first tokens, and of second ones where a guess was checked."""

    def distribution(ids):
        return (plain_logits(llama, ids)[-1] / 1.5).softmax(-1)

    # The likeliest token stands in the prompt already: what followed it is guessed.
    prompts = [(5, 9, token, 14, 3, 77, 5, 9) for token in range(VOCAB)]
    prompt = max(prompts, key=lambda prompt: distribution(prompt)[prompt[2]])
    # Seeds make it the same in every run.
    requests = [
        Request(prompt, max_tokens=3, sampling=Sampling(temperature=1.5, seed=n))
        for n in range(20_000)
    ]
    reader = Guessing(llama)
    engine = engine_of(reader, max_rows=num_rows, draft_rows=16)
    firsts, seconds = Counter(), Counter()
    for answer in heard(engine.run(requests)).values():
        firsts[answer.ids[0]] += 1
        if answer.ids[0] == prompt[2]:
            seconds[answer.ids[1]] += 1
    assert reader.num_guessed == firsts[prompt[2]] > 1000
    assert p_value(firsts, distribution(prompt)) > 1e-4
    assert p_value(seconds, distribution((*prompt, prompt[2]))) > 1e-4
