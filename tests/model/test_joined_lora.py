import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from llama_factory.core import files
from llama_factory.core.errors import ModelError
from llama_factory.model.joined_lora import join
from llama_factory.model.lora_config import joined_rank, unjoinable
from llama_factory.model.provenance import ADAPTER_FILE, WEIGHTS_FILE

IDS = torch.tensor([[3, 7, 11, 19, 23, 29]])


@pytest.fixture(scope="module")
def base(tiny_model):
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


def make(base, folder, seed, **options):
    network = get_peft_model(copy.deepcopy(base), LoraConfig(task_type="CAUSAL_LM", **options))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.2, generator=generator)
    network.save_pretrained(str(folder))
    return folder


@torch.no_grad()
def logits(network):
    return network(input_ids=IDS).logits


def test_the_joined_adapter_computes_the_sum_of_peft(base, tmp_path):
    folders = [
        make(base, tmp_path / "a", 1, r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]),
        make(base, tmp_path / "b", 2, r=2, lora_alpha=3, target_modules=["q_proj", "up_proj"]),
        make(
            base,
            tmp_path / "c",
            3,
            r=4,
            lora_alpha=6,
            use_rslora=True,
            target_modules=["q_proj", "down_proj"],
            rank_pattern={"down_proj": 7},
            alpha_pattern={r"layers\.1\.mlp\.down_proj": 20},
        ),
    ]
    summed = PeftModel.from_pretrained(copy.deepcopy(base), folders[0], adapter_name="a")
    summed.load_adapter(folders[1], "b")
    summed.load_adapter(folders[2], "c")
    summed.base_model.set_adapter(["a", "b", "c"])
    join(folders, tmp_path / "one", base_model="tiny")
    one = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "one")
    torch.testing.assert_close(logits(one), logits(summed), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits(one), logits(base), atol=1e-2)
    assert files.read_json(tmp_path / "one" / ADAPTER_FILE)["r"] == 10
    assert joined_rank(folders) == 13


def test_a_single_adapter_stays_what_it_is(base, tmp_path):
    folder = make(base, tmp_path / "a", 1, r=4, lora_alpha=8, target_modules="all-linear")
    join([folder], tmp_path / "one", base_model="tiny")
    alone = PeftModel.from_pretrained(copy.deepcopy(base), folder)
    one = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "one")
    torch.testing.assert_close(logits(one), logits(alone), rtol=1e-5, atol=1e-6)
    assert unjoinable(folder) == ""


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "trained as a whole"),
        ({"lora_bias": True}, "a bias in its products"),
        ({"bias": "all"}, "trained biases"),
        ({"init_lora_weights": "pissa"}, "changed weights"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"trainable_token_indices": {"embed_tokens": [1]}}, "new tokens"),
        ({"layer_replication": [[0, 1]]}, "repeated layers"),
    ],
)
def test_what_is_more_than_a_product_is_named(tmp_path, options, reason):
    files.write_json(tmp_path / ADAPTER_FILE, {"peft_type": "LORA", "r": 4} | options)
    assert reason in unjoinable(tmp_path)


def test_a_weight_that_is_no_product_is_refused(base, tmp_path):
    folder = make(base, tmp_path / "a", 1, r=4, target_modules=["q_proj"])
    weights = load_file(folder / WEIGHTS_FILE)
    save_file(weights | {"strange": torch.zeros(1)}, folder / WEIGHTS_FILE)
    with pytest.raises(ModelError, match="strange"):
        join([folder], tmp_path / "one", base_model="tiny")


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / ADAPTER_FILE).write_text("{")
    with pytest.raises(ModelError, match=ADAPTER_FILE):
        unjoinable(tmp_path)
