"""Adapters under a new one: they are merged into the base in the order given."""

import pytest
import torch

from llama_factory.core.errors import ModelError
from llama_factory.model.adapted import adapt
from llama_factory.model.chat.encoding import EncodeOptions
from tests.model.adapting import logits, make, settings
from tests.tiny import make_tiny_model, random_adapter


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def random(llama, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters") / "random"
    network = random_adapter(llama, 1)
    network.save_pretrained(folder)
    return folder, logits(network)


def stacked(base, form, parent=None, merged=()):
    chosen = settings(base, form)
    return adapt(chosen, parent, options=EncodeOptions(128), seed=0, merged=merged)


@pytest.mark.variants
@pytest.mark.parametrize("form", ["lora", "pissa", "full"])
def test_a_new_adapter_starts_where_the_merged_one_ended(llama, random, form):
    folder, answers = random
    model = stacked(llama, form, merged=[folder])
    torch.testing.assert_close(logits(model.network), answers, rtol=1e-3, atol=1e-3)
    assert all(weight.requires_grad for weight in model.trainable().values())
    assert model.trainable().keys() == make(llama, form).trainable().keys()


def test_training_goes_on_with_the_last_of_several_adapters(llama, random):
    folder, answers = random
    form = {"type": "lora", "rank": 8}
    twice = stacked(llama, form, parent=folder, merged=[folder])
    assert not torch.allclose(logits(twice.network), answers)
    with twice.network.disable_adapter():
        torch.testing.assert_close(logits(twice.network), answers, rtol=1e-3, atol=1e-3)


def test_what_adds_no_weights_cannot_be_merged(llama, tmp_path):
    make(llama, "prompt").save(tmp_path)
    with pytest.raises(ModelError, match="PROMPT_TUNING adds no weights .* cannot be merged"):
        stacked(llama, "lora", merged=[tmp_path])
