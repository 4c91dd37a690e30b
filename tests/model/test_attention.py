"""Every attention that runs here lets rows see neither padding nor the future."""

import pytest
import torch

from llama_factory.core.errors import ModelError
from llama_factory.model.attention import implementation
from llama_factory.model.base import load_network
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


@pytest.mark.parametrize("attention", HERE)
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "mistral"])
def test_a_padded_row_answers_as_it_does_alone(models, architecture, attention):
    padded = torch.nn.utils.rnn.pad_sequence(rows(), batch_first=True, padding_value=7)
    together = logits(models[architecture], attention, padded)
    for number, row in enumerate(rows()):
        alone = logits(models[architecture], "eager", row[None])[0]
        torch.testing.assert_close(together[number, : len(row)], alone, rtol=1e-3, atol=1e-4)


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
        implementation("flash_attention_2", torch.float32)
    assert "the library flash-attn, which is not installed (pip install flash-attn)" in str(
        told.value
    )
    assert "and model.dtype bfloat16 or float16 (it is float32 here)" in str(told.value)


def test_names_are_those_of_transformers():
    names = {name: implementation(name, torch.float32) for name in ("auto", "sdpa", "eager")}
    assert names == {"auto": None, "sdpa": "sdpa", "eager": "eager"}
