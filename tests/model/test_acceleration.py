"""Every attention that runs here lets rows see neither padding nor the future."""

import importlib.util
import shutil

import pytest
import torch

from llama_factory.core.errors import ConfigError, ModelError
from llama_factory.model.acceleration import (
    attention_implementation,
    compile_layers,
    recompute,
    require_compiler,
    require_liger,
)
from llama_factory.model.adapted import adapt
from llama_factory.model.base import load_network
from llama_factory.model.chat.encoding import EncodeOptions
from llama_factory.model.layers import causal_of
from llama_factory.model.output_head import TokenLogProbs
from llama_factory.model.settings import ModelSettings
from tests.tiny import ARCHITECTURES, make_tiny_model

HAS_GPU = torch.cuda.is_available()
HERE = ["auto", "sdpa", "eager", *(["flex"] if HAS_GPU else [])]
LENGTHS = (3, 11, 17)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {name: make_tiny_model(folder / name, name) for name in ARCHITECTURES}


def rows():
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(1, 300, (length,), generator=generator) for length in LENGTHS]


def logits(folder, attention, ids):
    settings = ModelSettings(dtype="float32", attention=attention)
    network = load_network(folder, settings)
    with torch.no_grad():
        return network(input_ids=ids.to(network.device)).logits.cpu()


@pytest.mark.variants
@pytest.mark.parametrize("attention", HERE)
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "mistral"])
def test_a_padded_row_answers_as_it_does_alone(models, architecture, attention):
    padded = torch.nn.utils.rnn.pad_sequence(rows(), batch_first=True, padding_value=7)
    together = logits(models[architecture], attention, padded)
    for number, row in enumerate(rows()):
        alone = logits(models[architecture], "eager", row[None])[0]
        torch.testing.assert_close(together[number, : len(row)], alone, rtol=1e-3, atol=1e-4)


@pytest.mark.variants
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_answers_alike_with_each_attention(models, architecture):
    ids = rows()[-1][None]
    by_name = [logits(models[architecture], name, ids) for name in ("auto", "eager")]
    torch.testing.assert_close(by_name[0], by_name[1], rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(HAS_GPU, reason="they can run where there is a GPU")
@pytest.mark.parametrize("name", ["flash_attention_2", "flex"])
def test_attention_for_gpus_is_refused_without_one(models, name):
    with pytest.raises(ModelError) as told:
        load_network(models["llama"], ModelSettings(dtype="float32", attention=name))
    text = str(told.value)
    assert text.startswith(f"model.attention: {name} needs a CUDA GPU, which this machine")
    assert text.endswith("Use auto: attention of the same results, which is there.")


def test_flash_attention_tells_all_it_lacks(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError) as told:
        attention_implementation("flash_attention_2", torch.float32)
    assert "the library flash-attn, which is not installed (pip install flash-attn)" in str(
        told.value
    )
    assert "and model.dtype bfloat16 or float16 (it is float32 here)" in str(told.value)


def test_names_are_those_of_transformers():
    names = {
        name: attention_implementation(name, torch.float32) for name in ("auto", "sdpa", "eager")
    }
    assert names == {"auto": None, "sdpa": "sdpa", "eager": "eager"}


HAS_COMPILER = shutil.which("g++") is not None


def curve(folder, *, compiled):
    """Losses of three updates on rows of different lengths."""
    model = adapt(
        ModelSettings(base_model=str(folder), dtype="float32"),
        None,
        options=EncodeOptions(64),
        seed=0,
    )
    kernel = TokenLogProbs(model.network)
    if compiled:
        compile_layers(model.network)
    model.network.train()
    optimizer = torch.optim.AdamW(model.trainable().values(), lr=1e-2)
    losses = []
    for length in (12, 20, 33):
        ids = torch.randint(1, 300, (2, length), generator=torch.Generator().manual_seed(length))
        loss = -kernel(ids, ids.roll(-1, 1)).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.slow
@pytest.mark.skipif(not HAS_COMPILER, reason="torch compiles with g++")
def test_compiled_layers_learn_alike_and_no_length_needs_a_program_of_its_own(tmp_path):
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    folder = make_tiny_model(tmp_path)
    found = curve(folder, compiled=True)
    programs = counters["stats"]["unique_graphs"]
    assert found == pytest.approx(curve(folder, compiled=False), rel=1e-4)
    assert programs == 2  # the lowest layer's input has no gradient


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU needs no such compiler")
def test_a_machine_without_a_compiler_is_told(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError) as told:
        require_compiler()
    assert "training.compile: true needs a C++ compiler" in str(told.value)
    assert "Install g++ (apt install g++), or leave it false." in str(told.value)


IS_THERE = torch.cuda.is_available() and importlib.util.find_spec("liger_kernel") is not None


@pytest.mark.skipif(IS_THERE, reason="it is there")
def test_liger_that_is_missing_is_told():
    with pytest.raises(ConfigError) as told:
        require_liger()
    assert str(told.value).startswith("training.liger_kernel: true needs ")
    assert str(told.value).endswith("Leave it false: logits are never held whole in any case.")


def test_all_that_is_missing_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError) as told:
        require_liger()
    assert "a CUDA GPU, which this machine does not have and the library liger-kernel, which" in (
        str(told.value)
    )
    assert "(pip install liger-kernel)" in str(told.value)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("llama"))


def run(folder, adapter, *, again):
    """Gradients, and how many values a forward pass keeps for its backward pass."""
    settings = ModelSettings(base_model=str(folder), dtype="float32", adapter=adapter)
    model = adapt(settings, None, options=EncodeOptions(64), seed=0)
    if again:
        recompute(model.network)
    assert causal_of(model.network).is_activation_checkpointing is again
    model.network.train()
    kernel, sizes = TokenLogProbs(model.network), []
    ids = torch.randint(1, 300, (2, 40), generator=torch.Generator().manual_seed(1))
    torch.manual_seed(5)

    def keep(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = -kernel(ids, ids.roll(-1, 1)).sum()
    kept = sum(sizes)
    loss.backward()
    return {name: weight.grad for name, weight in model.trainable().items()}, kept


@pytest.mark.variants
@pytest.mark.parametrize(
    "adapter",
    ["lora", "full", {"type": "lora", "dropout": 0.3}, {"type": "freeze", "highest": 1}],
    ids=["lora", "full", "lora with dropout", "freeze"],
)
def test_recomputed_activations_give_the_same_gradients(llama, adapter):
    expected, much = run(llama, adapter, again=False)
    found, little = run(llama, adapter, again=True)
    assert list(found) == list(expected)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-6)
    assert little < much


def test_a_model_that_cannot_says_what_to_do_instead():
    class Odd:
        def activation_checkpointing_enable(self, options):
            raise ValueError("Odd does not support activation checkpointing.")

    with pytest.raises(ModelError) as told:
        recompute(Odd())
    assert "training.gradient_checkpointing: Odd cannot compute its layers again" in str(told.value)
    assert "Set it to false and lower training.micro_batch_tokens instead." in str(told.value)
