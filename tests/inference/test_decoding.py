import pytest
import torch
from transformers import AutoModelForCausalLM

from llama_factory.inference.decoding import decode
from llama_factory.inference.packed import can_pack
from tests.tiny import ARCHITECTURES, make_tiny_model

SHARED = list(range(10, 22))
PROMPTS = [[*SHARED, *range(30, 30 + 3 * n)] for n in (5, 1, 3, 2, 8, 1, 4)]
ENDS = frozenset(range(0, 400, 9))
"""Many tokens end an answer, so that rows of random models end at different times."""


def load(folder, architecture, **changes):
    make_tiny_model(folder, architecture)
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **changes)
    return network.eval()


def plain_answers(network, prompts, limit=12):
    """One row at a time, without a cache: the likeliest token after all that came before."""
    answers = []
    for prompt in prompts:
        ids = list(prompt)
        while len(ids) < len(prompt) + limit and (len(ids) == len(prompt) or ids[-1] not in ENDS):
            with torch.no_grad():
                logits = network(input_ids=torch.tensor([ids]), use_cache=False).logits
            ids.append(int(logits[0, -1].argmax()))
        answers.append(tuple(ids[len(prompt) :]))
    return answers


def decoded(network, prompts, **limits):
    found = list(decode(network, prompts, ENDS, 12, **limits))
    assert sorted(each.number for each in found) == list(range(len(prompts)))
    return [each.ids for each in sorted(found, key=lambda each: each.number)]


@pytest.mark.variants
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_that_come_and_go_get_the_answers_they_get_alone(architecture, tmp_path):
    network = load(tmp_path, architecture)
    expected = plain_answers(network, PROMPTS)
    assert len({len(answer) for answer in expected}) > 2
    assert can_pack(network) == (architecture != "bloom")
    assert decoded(network, PROMPTS) == expected
    assert decoded(network, PROMPTS, max_rows=3) == expected
    assert decoded(network, PROMPTS, batch_tokens=40) == expected
    assert decoded(network, [p[5:] for p in PROMPTS[:1]], max_rows=1) == plain_answers(
        network, [PROMPTS[0][5:]]
    )


def test_prompts_that_share_nothing_are_read_whole(tmp_path):
    network = load(tmp_path, "llama")
    prompts = [[n, *PROMPTS[n]] for n in range(5)]
    assert decoded(network, prompts, max_rows=2) == plain_answers(network, prompts)


def test_a_sliding_window_sees_what_it_sees_alone(tmp_path):
    network = load(tmp_path, "mistral", sliding_window=6)
    expected = plain_answers(network, PROMPTS)
    whole = load(tmp_path, "mistral", sliding_window=None)
    assert expected != plain_answers(whole, PROMPTS)
    assert decoded(network, PROMPTS, max_rows=3) == expected


def test_answers_say_whether_the_limit_cut_them(tmp_path):
    network = load(tmp_path, "llama")
    found = list(decode(network, PROMPTS, ENDS, 12))
    assert {each.is_cut for each in found} == {True, False}
    assert all(each.is_cut == (each.ids[-1] not in ENDS) for each in found)
    assert all(len(each.ids) == 12 for each in found if each.is_cut)


def test_answers_come_as_soon_as_they_have_ended(tmp_path):
    network = load(tmp_path, "llama")
    lengths = [len(each.ids) for each in decode(network, PROMPTS, ENDS, 12)]
    assert lengths[-1] == max(lengths)
    assert len(set(lengths)) > 2


@pytest.mark.slow
def test_answers_end_where_the_model_can_read_no_further(tmp_path):
    network = load(tmp_path, "gpt2")
    long = [list(range(20, 29)) * 56 + list(range(n)) for n in (3, 5, 6, 7)]
    prompts = [*long, *PROMPTS]
    found = sorted(decode(network, prompts, frozenset(), 12), key=lambda e: e.number)
    assert [len(each.ids) for each in found] == [5, 3, 2, 1, *[12] * len(PROMPTS)]
    assert all(each.is_cut for each in found)
    for each in found:
        alone = list(decode(network, [prompts[each.number]], frozenset(), 12))
        assert alone[0].ids == each.ids


def test_nothing_to_answer_gives_nothing(tmp_path):
    network = load(tmp_path, "llama")
    assert list(decode(network, [], ENDS, 12)) == []


def test_tokens_whose_values_round_to_the_same_are_told_apart_as_the_server_does(tmp_path):
    network = load(tmp_path, "llama").to(torch.bfloat16)
    head, seen = network.get_output_embeddings(), {}
    head.register_forward_hook(lambda _, given, out: seen.update(hidden=given[0][0, -1]))
    prompt = PROMPTS[0]
    with torch.no_grad():
        network(torch.tensor([prompt]))
        head.weight.mul_(0.01)
        head.weight[40] = head.weight[41] = seen["hidden"] * 2
        head.weight[41, 0] += 0.02 * seen["hidden"][0].sign()
        coarse = network(torch.tensor([prompt])).logits[0, -1]
    assert coarse[40] == coarse[41] == coarse.max(), "they must round to the same"
    (ours,) = decode(network, [prompt], ENDS, 1)
    assert ours.ids == (41,)
