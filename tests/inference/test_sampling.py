"""How the next token is chosen, against NumPy, Transformers and the model's own distribution."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from llama_factory.inference import drawing
from llama_factory.inference.question import RequestError
from llama_factory.inference.request import Request, Sampling
from llama_factory.inference.sampling import NO_TOKEN, Chooser, choose, choose_ahead

NUM_DRAWS = 20_000
VOCAB = 2501
COMBINATIONS = {
    "temperature": Sampling(temperature=0.7),
    "hot": Sampling(temperature=1.6),
    "top-k": Sampling(top_k=7),
    "top-p": Sampling(top_p=0.8),
    "min-p": Sampling(min_p=0.05),
    "all": Sampling(temperature=1.2, top_k=40, top_p=0.9, min_p=0.02),
    "wide top-p": Sampling(temperature=3.0, top_p=0.97),
    "wide top-k": Sampling(temperature=3.0, top_k=1500, top_p=0.95),
}


def some_logits(rows=1, vocab=VOCAB, seed=0, spread=2.5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, vocab, generator=generator) * spread


def chooser(sampling, vocab=VOCAB, **fields):
    return Chooser(Request(prompt=(1, 2, 3), sampling=sampling, **fields), vocab)


def expected(logits, sampling):
    """The probabilities that a token is drawn with, in float64 and by sorting everything."""
    scores = logits.double().numpy() / sampling.temperature
    order = np.argsort(-scores, kind="stable")
    kept = np.exp(scores[order] - scores.max())
    if sampling.top_k:
        kept[sampling.top_k :] = 0
    kept /= kept.sum()
    kept[np.cumsum(kept) - kept >= sampling.top_p] = 0
    kept[kept < sampling.min_p * kept.max()] = 0
    result = np.empty_like(kept)
    result[order] = kept / kept.sum()
    return result


def assert_drawn_from(ids, probabilities):
    """Chi-square over the tokens expected five times or more, the others taken together."""
    counts = np.bincount(ids, minlength=len(probabilities))
    assert counts[probabilities == 0].sum() == 0
    wanted = probabilities * len(ids)
    is_common = wanted >= 5
    seen = np.append(counts[is_common], counts[~is_common].sum())
    wanted = np.append(wanted[is_common], wanted[~is_common].sum())
    seen, wanted = seen[wanted > 0], wanted[wanted > 0]
    freedom = len(wanted) - 1
    statistic = ((seen - wanted) ** 2 / wanted).sum()
    # Wilson and Hilferty: the cube root of chi-square over its freedom is nearly normal.
    z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    assert z < 3.5, f"chi-square {statistic:.1f} at {freedom} degrees of freedom"


def drawn(sampling, logits, num_draws, rows):
    several = [
        chooser(Sampling(**vars(sampling) | {"seed": seed}), logits.shape[-1])
        for seed in range(rows)
    ]
    batch = logits.expand(rows, -1)
    return [each.id for _ in range(num_draws // rows) for each in choose(batch, several)]


@pytest.mark.variants
@pytest.mark.parametrize("name", COMBINATIONS)
def test_draws_follow_the_distribution(name):
    sampling, logits = COMBINATIONS[name], some_logits()
    assert_drawn_from(drawn(sampling, logits, 4000, 400), expected(logits[0], sampling))


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 250])
@pytest.mark.parametrize("name", COMBINATIONS)
def test_many_draws_alone_and_in_a_batch_follow_the_distribution(name, rows):
    sampling, logits = COMBINATIONS[name], some_logits(seed=1)
    ids = drawn(sampling, logits, NUM_DRAWS, rows)
    assert_drawn_from(ids, expected(logits[0], sampling))


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    top_p=st.sampled_from([1.0, 0.9, 0.3]),
    top_k=st.sampled_from([0, 1, 5, 200]),
    min_p=st.sampled_from([0.0, 0.1]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    frequency_penalty=st.sampled_from([0.0, 0.5]),
    logit_bias=st.sampled_from([{}, {7: 5.0}]),
    seed=st.integers(-3, 3),
)


@pytest.mark.slow
@given(st.lists(samplings, min_size=1, max_size=6), st.integers(0, 9), st.booleans())
@settings(max_examples=30)
def test_a_row_is_the_same_alone_and_beside_others(several, seed, is_coarse):
    steps = [some_logits(len(several), VOCAB, seed + step) for step in range(3)]
    if is_coarse:  # many tokens have the same score
        steps = [logits.bfloat16() for logits in steps]
    together = [chooser(sampling, VOCAB, num_logprobs=1) for sampling in several]
    answers = [[each.id for each in choose(logits, together)] for logits in steps]
    for row, sampling in enumerate(several):
        alone = chooser(sampling, VOCAB)
        ids = [choose(logits[row : row + 1], [alone])[0].id for logits in steps]
        assert ids == [each[row] for each in answers]


def test_greedy_takes_the_likeliest_and_the_lower_id_of_two():
    logits = torch.zeros(2, 50)
    logits[0, [30, 20]] = 4.0
    logits[1, 49] = 1.0
    chosen = choose(logits, [chooser(Sampling(temperature=0), 50) for _ in range(2)])
    assert [each.id for each in chosen] == [20, 49]
    assert chosen[0].logprob is None


def test_the_same_seed_gives_the_same_answer_and_another_sign_another_one():
    logits = some_logits()

    def answer(seed):
        one = chooser(Sampling(temperature=2, seed=seed))
        return [choose(logits, [one])[0].id for _ in range(8)]

    assert answer(4) == answer(4)
    assert len({tuple(answer(seed)) for seed in (4, -4, 5, None, None)}) == 5


def test_the_repetition_penalty_is_that_of_transformers():
    logits = some_logits(vocab=40)
    one = Chooser(Request((3, 3, 9), sampling=Sampling(0, repetition_penalty=1.4)), 40)
    for token in (5, 9, 5):
        one.record(token)
    scores = logits[0].clone()
    one.change(scores)
    processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.4)])
    written = torch.tensor([[3, 3, 9, 5, 9, 5]])
    torch.testing.assert_close(scores, processors(written, logits.clone())[0])


def test_presence_and_frequency_penalties_count_the_answer_alone():
    logits = torch.zeros(40)
    sampling = Sampling(0, presence_penalty=0.5, frequency_penalty=0.25)
    one = Chooser(Request((3, 3, 9), sampling=sampling), 40)
    for token in (5, 9, 5):
        one.record(token)
    one.change(logits)
    assert logits.nonzero()[:, 0].tolist() == [5, 9]
    assert logits[[5, 9]].tolist() == [-1.0, -0.75]


def test_a_bias_lifts_a_token_and_a_wrong_one_is_refused():
    one = chooser(Sampling(0, logit_bias={17: 100.0}))
    assert choose(some_logits(), [one])[0].id == 17
    with pytest.raises(RequestError, match="token ids go from 0 to 2500") as error:
        chooser(Sampling(logit_bias={VOCAB: 1.0}))
    assert error.value.place == "logit_bias"


def test_logprobs_are_those_of_the_model_before_all_changes():
    logits = some_logits(2)
    sampling = Sampling(temperature=0.5, top_k=3, logit_bias={11: 50.0}, seed=1)
    chosen = choose(logits, [chooser(sampling, num_logprobs=4), chooser(sampling)])
    want = logits[0].double().log_softmax(-1)
    assert chosen[0].logprob == pytest.approx(want[chosen[0].id].item(), abs=1e-5)
    best = want.topk(4)
    assert [token for token, _ in chosen[0].alternatives] == best.indices.tolist()
    values = [value for _, value in chosen[0].alternatives]
    assert values == pytest.approx(best.values.tolist(), abs=1e-5)
    assert chosen[1].logprob is None
    assert choose(logits[:1], [chooser(sampling, num_logprobs=0)])[0].alternatives == ()


def test_no_end_token_comes_before_min_tokens():
    logits = torch.zeros(1, 20)
    logits[0, 4], logits[0, 6] = 9, 5
    one = Chooser(Request((1,), end_tokens=frozenset({4, 99}), min_tokens=2), 20)
    chosen = [choose(logits, [one])[0] for _ in range(3)]
    assert [(each.id, each.is_end) for each in chosen] == [(6, False), (6, False), (4, True)]


def test_min_tokens_without_end_tokens_change_nothing():
    one = Chooser(Request((1,), min_tokens=2), VOCAB)
    logits = some_logits()
    assert choose(logits, [one])[0].id == logits.argmax().item()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_that_is_not_finite_fails_alone(bad):
    logits = some_logits(3)
    good = [choose(logits[row : row + 1], [chooser(Sampling(seed=9))])[0] for row in (0, 2)]
    logits[1, 5] = bad
    several = [chooser(Sampling(seed=9)) for _ in range(3)]
    chosen = choose(logits, several)
    assert [chosen[0], chosen[2]] == good
    assert chosen[1].id == NO_TOKEN
    assert "not finite" in str(chosen[1].error)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1e308, seed=0),
        Sampling(temperature=1.01e-3, seed=0),
        Sampling(top_p=1e-9, seed=0),
        Sampling(min_p=1.0, seed=0),
        Sampling(top_k=10**9, seed=0),
        Sampling(repetition_penalty=2e-308, seed=0),
        Sampling(repetition_penalty=1e308, seed=0),
        Sampling(frequency_penalty=1e308, presence_penalty=-1e308, seed=0),
        Sampling(logit_bias={0: 1e308, 1: -1e308}, seed=0),
    ],
    ids=str,
)
def test_extreme_numbers_still_choose_a_token(sampling):
    one = chooser(sampling)
    for _ in range(5):
        assert choose(some_logits(), [one])[0].error is None


@pytest.mark.slow
@given(st.lists(samplings, min_size=1, max_size=3), st.integers(0, 9), st.data())
@settings(max_examples=30)
def test_guesses_change_no_answer(several, seed, data):
    """The scores depend on the last token alone, as those of a model that forgets."""
    model = some_logits(12, 12, seed)

    def answers(guess):
        all_of = [chooser(sampling, 12) for sampling in several]
        written = [[0] for _ in all_of]
        while min(len(each) for each in written) < 9:
            proposals = [guess() for _ in all_of]
            read = [
                token
                for ids, guessed in zip(written, proposals, strict=True)
                for token in (ids[-1], *guessed)
            ]
            for ids, chosen in zip(
                written, choose_ahead(model[read], all_of, proposals), strict=True
            ):
                ids += [each.id for each in chosen]
        return [ids[:9] for ids in written]

    def some():
        return data.draw(st.lists(st.integers(0, 11), max_size=3))

    assert answers(some) == answers(list)


@pytest.mark.slow
@given(st.lists(samplings, min_size=1, max_size=4), st.integers(0, 9), st.booleans())
@settings(max_examples=30)
def test_what_is_sorted_first_changes_no_draw(several, seed, is_coarse):
    logits = some_logits(len(several), 2501, seed, spread=1.0)
    logits = logits.bfloat16() if is_coarse else logits

    def ids(*widths):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(drawing, "WIDTHS", widths)
            all_of = [chooser(sampling) for sampling in several]
            return [each.id for _ in range(3) for each in choose(logits, all_of)]

    assert ids(4, 90) == ids()
