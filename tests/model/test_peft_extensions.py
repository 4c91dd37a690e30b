"""Bottleneck layers stand where the paper puts them, and compute what it says."""

import pytest
import torch

from llama_factory.core.errors import ModelError
from llama_factory.core.types import Message
from llama_factory.inference.question import Options, Question
from llama_factory.inference.version_engine import VersionEngine
from llama_factory.model.peft_extensions import BottleneckLayer
from llama_factory.model.saved import find_adapters
from llama_factory.model.settings import ModelSettings
from llama_factory.versions import store
from tests.model.adapting import logits, make
from tests.model.test_provenance import OPTIONS, begin, reopened, shake, trained
from tests.tiny import make_tiny_model, make_workspace, publish_adapter, render

QUESTION = (Message("user", "你们的退货政策是什么？"),)
SMALL = {"type": "bottleneck", "size": 4}
PLACES = {
    "llama": {"self_attn.o_proj", "mlp.down_proj"},
    "bloom": {"self_attention.dense", "mlp.dense_4h_to_h"},
    "gpt_neox": {"attention.dense", "mlp.dense_4h_to_h"},
    "phi": {"self_attn.dense", "mlp.fc2"},
    "gpt2": {"attn.c_proj", "mlp.c_proj"},
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("llama"))


def layers(model):
    named = model.network.get_base_model().named_modules()
    return {name: layer for name, layer in named if isinstance(layer, BottleneckLayer)}


@pytest.mark.parametrize("architecture", PLACES)
def test_they_follow_the_last_layer_of_attention_and_feed_forward(architecture, tmp_path):
    found = layers(make(make_tiny_model(tmp_path, architecture), SMALL))
    assert len(found) == 4
    assert {".".join(name.split(".")[-2:]) for name in found} == PLACES[architecture]


def test_one_adds_up_of_down_of_what_its_layer_gives(llama):
    model = make(llama, SMALL | {"activation": "relu"})
    shake(model, 1)
    layer = next(iter(layers(model).values()))
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    y = x @ layer.base_layer.weight.T
    down, up = layer.bottleneck_down["default"], layer.bottleneck_up["default"]
    hidden = (y @ down.weight.T + down.bias).clamp(min=0)
    torch.testing.assert_close(layer(x), y + hidden @ up.weight.T + up.bias)


def test_the_lowest_layers_and_what_is_excluded_carry_none(llama):
    found = layers(make(llama, SMALL | {"exclude": ["down_proj"]}, freeze_layers=1))
    assert list(found) == ["model.layers.1.self_attn.o_proj"]


def test_other_layers_can_be_named(llama):
    found = layers(make(llama, SMALL | {"targets": ["v_proj"]}))
    assert {name.rsplit(".", 1)[-1] for name in found} == {"v_proj"}


def test_one_cannot_be_merged_and_says_what_to_do(llama, tmp_path):
    trained(tmp_path / "a", llama, SMALL)
    message = "an adapter of type BOTTLENECK adds no weights .* Serve the base model with this"
    with pytest.raises(ModelError, match=message):
        begin(llama, "lora", tmp_path / "a", new=True)


def test_one_stands_on_merged_adapters(llama, tmp_path):
    trained(tmp_path / "a", llama)
    answers = trained(tmp_path / "b", llama, SMALL, tmp_path / "a", new=True, seed=2)
    torch.testing.assert_close(reopened(str(tmp_path / "b"))[1], answers, rtol=1e-3, atol=1e-3)


def test_a_parent_of_another_size_is_refused(llama, tmp_path):
    trained(tmp_path, llama, SMALL)
    with pytest.raises(ModelError, match="adapter.size is 9 and the parent's adapter in .* size 4"):
        make(llama, SMALL | {"size": 9}, parent=tmp_path)


def test_one_opens_in_bfloat16(llama, tmp_path):
    answers = trained(tmp_path, llama, SMALL)
    network = find_adapters(str(tmp_path), None, ModelSettings(dtype="bfloat16")).open(OPTIONS)
    found = logits(network.network).float()
    assert (found - answers).abs().max() < 0.1 * answers.abs().max()


def greedy(model):
    """The likeliest answer to a question, by Transformers alone."""
    ids = torch.tensor([render(model.tokenizer, QUESTION, ask=True)])
    given = model.network.eval().generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False
    )
    text = model.tokenizer.decode(given[0, ids.shape[1] :], skip_special_tokens=True)
    return text.rstrip("�")  # half of a character at the end


@pytest.mark.slow
def test_versions_are_served_each_with_its_own(llama, tmp_path):
    workspace = make_workspace(tmp_path / "bot", llama)
    models = [make(llama, SMALL) for _ in range(2)]
    for seed, model in enumerate(models):
        shake(model, seed)
        publish_adapter(workspace, llama, model.network)
    engine = VersionEngine(ModelSettings(base_model=str(llama), adapter=SMALL, dtype="float32"))
    told = []
    for name in store.ids(workspace):
        engine.load(store.get(workspace, name))
        asked = Options(max_tokens=8, temperature=0)
        question = Question(QUESTION)
        told.append(engine.answer(name, question, asked, lambda _: None, lambda: False).text)
    assert [text.rstrip("�") for text in told[1:]] == [greedy(model) for model in models]
    assert len(set(told)) == 3
