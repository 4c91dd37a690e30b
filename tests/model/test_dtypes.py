import logging

import pytest
import torch
from torch import nn

from llama_factory.model import dtypes
from llama_factory.model.adapted import adapt
from llama_factory.model.chat.encoding import EncodeOptions
from llama_factory.model.dtypes import choose
from llama_factory.model.output_head import TokenLogProbs
from llama_factory.model.settings import ModelSettings
from tests.tiny import make_tiny_model


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("llama"))


def make(folder, dtype, adapter="lora"):
    settings = ModelSettings(base_model=str(folder), dtype=dtype, adapter=adapter)
    return adapt(settings, None, options=EncodeOptions(64), seed=0)


def test_auto_says_why():
    chosen = choose("auto")
    assert chosen.dtype in (torch.float32, torch.bfloat16, torch.float16)
    assert "fast" in str(chosen)


def test_a_set_format_is_taken():
    assert str(choose("float32")) == "float32, as set"
    assert choose("bfloat16").dtype == torch.bfloat16
    assert choose("bfloat16").is_mixed
    pure = choose("pure_bfloat16")
    assert pure.is_pure
    assert not pure.is_mixed
    assert str(pure) == "pure_bfloat16, as set"


@pytest.mark.skipif(torch.cuda.is_available(), reason="float16 is taken where there is a GPU")
def test_float16_without_a_gpu_says_what_is_used_instead(caplog):
    dtypes._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        chosen = choose("float16")
        choose("float16")
    assert chosen.dtype == choose("auto").dtype
    name = str(chosen.dtype).removeprefix("torch.")
    assert len(caplog.messages) == 1
    assert f"model.dtype: float16 becomes {name}, since float16 is trained on CUDA" in caplog.text


def test_a_frozen_base_is_short_and_its_adapter_is_not(llama):
    network = make(llama, "bfloat16").network
    kinds = {(weight.requires_grad, weight.dtype) for weight in network.parameters()}
    assert kinds == {(False, torch.bfloat16), (True, torch.float32)}


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_pure_bfloat16_leaves_nothing_long(llama, adapter):
    network = make(llama, "pure_bfloat16", adapter).network
    assert {weight.dtype for weight in network.parameters()} == {torch.bfloat16}
    ids = torch.arange(1, 9)[None]
    (-TokenLogProbs(network)(ids, ids.roll(-1, 1)).sum()).backward()
    assert all(w.grad.isfinite().all() for w in network.parameters() if w.requires_grad)


def test_whole_modules_beside_an_adapter_train_in_float32_too(llama):
    adapter = {"type": "lora", "modules_to_save": ["embed_tokens", "lm_head", "model.norm"]}
    model = make(llama, "bfloat16", adapter)
    weights = model.trainable()
    assert sum("modules_to_save" in name for name in weights) == 3
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    ids = torch.arange(1, 9)[None]
    exact = make(llama, "float32", adapter).network(input_ids=ids).logits
    logits = model.network(input_ids=ids).logits
    assert (logits - exact).abs().max() < 0.03 * exact.abs().max()


def test_settling_leaves_float32_modules_as_they_are():
    layer = nn.Linear(3, 2)
    dtypes.settle(layer, choose("bfloat16"))
    assert layer.weight.dtype == torch.float32
    assert not layer._forward_hooks
