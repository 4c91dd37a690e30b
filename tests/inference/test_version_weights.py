"""Rows of the base model and of many adapters in one pass are answered as PEFT answers each."""

import copy
import random
from collections import Counter

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from llama_factory.core.errors import ModelError
from llama_factory.inference import version_weights
from llama_factory.inference.packed import Span
from llama_factory.inference.request import Request, Sampling
from llama_factory.inference.version_weights import VersionedNetwork
from llama_factory.model.lora_weights import LoraMatrices, read_plain_lora
from tests.inference.plain import (
    VOCAB,
    engine_of,
    fresh_network,
    network_of,
    plain_logits,
    require_plain,
)
from tests.inference.test_batch_engine import random_traffic

ENDS = frozenset(range(0, VOCAB, 13))
LORAS = {
    "llama": {
        "narrow": {"r": 2, "target_modules": ["q_proj", "v_proj"]},
        "wide": {"r": 8, "lora_alpha": 24, "target_modules": "all-linear", "use_rslora": True},
        "mixed": {
            "r": 4,
            "target_modules": ["o_proj", "gate_proj", "down_proj"],
            "rank_pattern": {"o_proj": 7, "layers.1.mlp.down_proj": 3},
            "alpha_pattern": {"o_proj": 3, "layers.0.mlp.gate_proj": 20},
        },
        "last layer": {"r": 3, "target_modules": ["k_proj"], "layers_to_transform": [1]},
    },
    "gpt2, Conv1D": {
        "narrow": {"r": 2, "target_modules": ["c_attn"], "fan_in_fan_out": True},
        "wide": {"r": 6, "target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True},
    },
    "qwen2_moe, window by mask": {
        "narrow": {"r": 2, "target_modules": ["q_proj", "v_proj"]},
        "wide": {"r": 6, "target_modules": ["o_proj", "gate_proj", "up_proj", "down_proj"]},
    },
}


def add_lora(network, options, seed):
    """PEFT's network with a random adapter."""
    lora = get_peft_model(network, LoraConfig(task_type="CAUSAL_LM", **options))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in lora.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.25, generator=generator)
    return lora.eval()


@pytest.fixture(scope="module", params=LORAS)
def versions(request, tmp_path_factory):
    """The reader of a base model with its adapters, and PEFT's network of each version."""
    reader = VersionedNetwork(fresh_network(request.param), "auto")
    return reader, versions_of(request.param, reader, tmp_path_factory.mktemp("adapters"))


def versions_of(name, reader, folder):
    """Adds versions to a reader, and gives PEFT's network of each."""
    plain = {"": network_of(name)}
    folders = {}
    for seed, (version, options) in enumerate(LORAS[name].items()):
        plain[version] = add_lora(fresh_network(name), options, seed)
        folders[version] = folder / version
        plain[version].save_pretrained(folders[version])
        chain = [read_plain_lora(folders[version])]
        reader.add(version, chain, reader.merge(chain))
    # One that was trained after another was merged into the base model.
    merged = PeftModel.from_pretrained(fresh_network(name), folders["wide"]).merge_and_unload()
    plain["chain"] = PeftModel.from_pretrained(merged, folders["narrow"]).eval()
    chain = [read_plain_lora(folders[each]) for each in ("wide", "narrow")]
    reader.add("chain", chain, reader.merge(chain))
    return plain


@pytest.mark.parametrize("name", LORAS)
def test_merged_versions_answer_as_each_alone(name, tmp_path):
    reader = VersionedNetwork(fresh_network(name), "auto", most_merged=9)
    plain = versions_of(name, reader, tmp_path)
    assert reader.merged == (*LORAS[name], "chain")
    for version, network in plain.items():
        expected = plain_logits(network, [5, 9, 14])[-1:]
        torch.testing.assert_close(last_logits(reader, [version]), expected, atol=1e-4, rtol=1e-4)
    require_all_plain(reader, plain, 60)


def test_the_version_that_was_read_longest_ago_gives_up_its_merged_weights(tmp_path):
    reader = VersionedNetwork(fresh_network("llama"), "auto", most_merged=2)
    chain = [
        {n: LoraMatrices(torch.ones(1, i), torch.ones(o, 1)) for n, (o, i) in reader.shapes.items()}
    ]
    for version in ("one", "two"):
        reader.add(version, chain, reader.merge(chain))
    before = last_logits(reader, ["one"])
    reader.add("three", chain, reader.merge(chain))
    assert reader.merged == ("one", "three")
    torch.testing.assert_close(last_logits(reader, ["two"]), before, atol=1e-4, rtol=1e-4)
    reader.add("one", chain)
    reader.remove("three")
    assert reader.merged == ()
    torch.testing.assert_close(last_logits(reader, ["one"]), before, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("weights", "free"), [("auto", 1000), ("int8", 10**12)])
def test_nothing_is_merged_where_memory_is_short_or_the_format_is_coarse(
    weights, free, monkeypatch
):
    monkeypatch.setattr(version_weights, "free_bytes", lambda _: free)
    reader = VersionedNetwork(fresh_network("llama"), weights, most_merged=2)
    name, (outputs, inputs) = next(iter(reader.shapes.items()))
    assert not reader.merge([{name: LoraMatrices(torch.ones(1, inputs), torch.ones(outputs, 1))}])


def test_merged_weights_in_bfloat16_are_as_near_to_float32_as_matrices_beside_them(tmp_path):
    exact = VersionedNetwork(fresh_network("llama"), "float32")
    versions_of("llama", exact, tmp_path)
    away = []
    for most_merged in (0, 1):
        reader = VersionedNetwork(
            fresh_network("llama").bfloat16(), "auto", most_merged=most_merged
        )
        versions_of("llama", reader, tmp_path)
        wanted = last_logits(exact, ["chain"])
        away.append(float((last_logits(reader, ["chain"]) - wanted).norm() / wanted.norm()))
    assert away[1] < max(1.5 * away[0], 0.02)


def requests_of(versions, num):
    names = [*versions, "never added"][: len(versions)]
    return [
        Request(
            tuple((3 * k + n * (k // 20)) % VOCAB for k in range(2 + (17 * n) % 50)),
            names[n % len(names)],
            max_tokens=3 + n % 9,
            end_tokens=ENDS,
            num_logprobs=n % 2,
            sampling=Sampling(temperature=0.0 if n % 5 else 1.2, seed=n),
        )
        for n in range(num)
    ]


def require_all_plain(reader, plain, num):
    engine = engine_of(reader, max_rows=12, chunk_tokens=40, cache_tokens=2500)
    requests = requests_of(plain, num)
    answers = random_traffic(engine, requests, random.Random(7))
    assert len(answers) == num
    for number, answer in answers.items():
        request = requests[number]
        require_plain(plain[request.version], request, answer)
    ended = Counter(answers[n].end.reason for n in answers)
    assert ended.keys() == {"cancelled", "stop", "length"}


@pytest.mark.variants
def test_mixed_rows_are_answered_as_each_alone(versions):
    reader, plain = versions
    require_all_plain(reader, plain, 60)


@pytest.mark.slow
def test_five_hundred_mixed_rows_are_answered_as_each_alone(versions):
    reader, plain = versions
    require_all_plain(reader, plain, 500)


def test_versions_answer_differently(versions):
    _, plain = versions
    logits = [plain_logits(network, [5, 9, 14])[-1] for network in plain.values()]
    for number, one in enumerate(logits):
        assert all((one - other).abs().max() > 0.1 for other in logits[:number])


def last_logits(reader, versions, ids=(5, 9, 14)):
    sequences = [reader.begin(version) for version in versions]
    return reader.read([Span(each, ids) for each in sequences])


def test_a_version_that_is_removed_or_replaced_changes_no_other(versions):
    reader, plain = versions
    before = last_logits(reader, plain)
    torch.manual_seed(0)
    matrices = {
        n: LoraMatrices(torch.randn(1, i), torch.randn(o, 1)) for n, (o, i) in reader.shapes.items()
    }
    reader.add("new", [matrices])
    torch.testing.assert_close(last_logits(reader, plain), before)
    with_new = last_logits(reader, [*plain, "new"])
    torch.testing.assert_close(with_new[:-1], before, atol=1e-5, rtol=1e-5)
    half = {n: LoraMatrices(m.down, m.up * 0.01) for n, m in matrices.items()}
    reader.remove("new")
    reader.add("new", [half])
    assert (last_logits(reader, ["new"]) - with_new[-1]).abs().max() > 0.1
    reader.remove("new")
    torch.testing.assert_close(last_logits(reader, plain), before)


def test_huge_weights_of_one_version_leave_the_rows_of_others(versions):
    reader, plain = versions
    before = last_logits(reader, plain)
    name, (outputs, inputs) = next(iter(reader.shapes.items()))
    huge = LoraMatrices(torch.full((1, inputs), 3e38), torch.zeros(outputs, 1))
    reader.add("huge", [{name: huge}])
    torch.testing.assert_close(
        last_logits(reader, [*plain, "huge"])[:-1], before, atol=1e-5, rtol=1e-5
    )
    reader.remove("huge")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name, down, up: {f"{name}x": LoraMatrices(down, up)}, "has no such linear layer"),
        (lambda name, down, up: {name: LoraMatrices(down[:, 1:], up)}, "its shape is"),
        (lambda name, down, up: {name: LoraMatrices(down * torch.nan, up)}, "no numbers"),
    ],
)
def test_matrices_that_do_not_fit_are_refused(versions, change, message):
    reader, plain = versions
    before = last_logits(reader, plain)
    name, (outputs, inputs) = next(iter(reader.shapes.items()))
    matrices = change(name, torch.ones(2, inputs), torch.ones(outputs, 2))
    with pytest.raises(ModelError, match=message):
        reader.add("wrong", [matrices])
    torch.testing.assert_close(last_logits(reader, plain), before)


@pytest.mark.variants
@pytest.mark.parametrize(
    "options",
    [
        {"use_dora": True},
        {"modules_to_save": ["embed_tokens"]},
        {"bias": "lora_only"},
        {"trainable_token_indices": [3, 4]},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"init_lora_weights": "pissa"},
    ],
)
def test_what_changes_more_than_products_is_no_plain_lora(options, tmp_path):
    changes = {"r": 2, "target_modules": ["q_proj"], **options}
    get_peft_model(
        fresh_network("llama"), LoraConfig(task_type="CAUSAL_LM", **changes)
    ).save_pretrained(tmp_path)
    assert read_plain_lora(tmp_path) is None


def test_a_tied_head_answers_as_before():
    network = network_of("llama, tied head")
    reader = VersionedNetwork(copy.deepcopy(network), "auto")
    ours = last_logits(reader, [""])
    torch.testing.assert_close(ours[0], plain_logits(network, [5, 9, 14])[-1], atol=1e-4, rtol=1e-4)
