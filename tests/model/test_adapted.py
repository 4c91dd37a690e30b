import pytest
import torch
from transformers import AutoModelForCausalLM

from llama_factory.core.errors import ModelError
from llama_factory.model.adapted import adapt
from llama_factory.model.chat.encoding import EncodeOptions
from llama_factory.model.layers import linear_names, repeated_blocks
from llama_factory.model.settings import ModelSettings
from tests.tiny import ARCHITECTURES, make_tiny_model


def settings(folder, **options):
    return ModelSettings(base_model=str(folder), dtype="float32", **options)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("llama"))


@pytest.mark.variants
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_adapts_without_being_named(tmp_path, architecture):
    folder = make_tiny_model(tmp_path / "m", architecture)
    model = adapt(
        settings(folder, adapter={"type": "lora", "rank": 4}),
        None,
        options=EncodeOptions(64),
        seed=0,
    )
    trained = model.trainable()
    assert trained
    assert all("lora_" in name for name in trained)
    head = model.network.get_base_model().get_output_embeddings()
    assert not any(weight is p for p in trained.values() for weight in head.parameters())


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "bloom", "gpt_neox"])
def test_frozen_layers_carry_no_adapter(tmp_path, architecture):
    folder = make_tiny_model(tmp_path / "m", architecture)
    model = adapt(settings(folder, freeze_layers=1), None, options=EncodeOptions(64), seed=0)
    name, blocks = repeated_blocks(model.network.get_base_model())
    assert len(blocks) == 2
    stack = name.rsplit(".", 1)[-1]
    assert model.trainable()
    assert all(f".{stack}.1." in weight for weight in model.trainable())


def test_a_fresh_adapter_changes_nothing_and_depends_on_the_seed_alone(llama):
    first, second = (
        adapt(settings(llama), None, options=EncodeOptions(64), seed=s) for s in (1, 1)
    )
    other = adapt(settings(llama), None, options=EncodeOptions(64), seed=2)
    a, b, c = (
        torch.cat([w.flatten() for w in m.trainable().values()]) for m in (first, second, other)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    ids = torch.tensor([[5, 6, 7]])
    plain = AutoModelForCausalLM.from_pretrained(llama)
    assert torch.equal(first.network(input_ids=ids).logits, plain(input_ids=ids).logits)


def test_saving_and_loading_an_adapter_is_the_identity(llama, tmp_path):
    model = adapt(settings(llama), None, options=EncodeOptions(64), seed=0)
    with torch.no_grad():
        for weight in model.trainable().values():
            weight.normal_()
    model.network.save_pretrained(tmp_path / "adapter")
    again = adapt(settings(llama), tmp_path / "adapter", options=EncodeOptions(64), seed=5)
    assert again.trainable().keys() == model.trainable().keys()
    for name, weight in again.trainable().items():
        assert torch.equal(weight, model.trainable()[name])


def test_another_rank_than_the_parents_is_refused(llama, tmp_path):
    adapt(settings(llama), None, options=EncodeOptions(64), seed=0).network.save_pretrained(
        tmp_path
    )
    with pytest.raises(ModelError, match=r"adapter.rank is 4 and the parent's .* has rank 16"):
        adapt(
            settings(llama, adapter={"type": "lora", "rank": 4}),
            tmp_path,
            options=EncodeOptions(64),
            seed=0,
        )


def test_unknown_targets_list_what_exists(llama):
    wrong = settings(llama, adapter={"type": "lora", "targets": ["q_prj"]})
    with pytest.raises(ModelError, match=r"'q_prj' is no linear layer .* Did you mean 'q_proj'\?"):
        adapt(wrong, None, options=EncodeOptions(64), seed=0)
    assert "lm_head" not in linear_names(AutoModelForCausalLM.from_pretrained(llama))


def test_freezing_every_layer_is_refused(llama):
    with pytest.raises(ModelError, match="nothing would train. Give at most 1."):
        adapt(settings(llama, freeze_layers=2), None, options=EncodeOptions(64), seed=0)


def test_a_tokenizer_without_a_template_is_refused(tmp_path):
    folder = make_tiny_model(tmp_path / "m")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="has no chat template"):
        adapt(settings(folder), None, options=EncodeOptions(64), seed=0)


def test_damaged_weights_are_a_clear_error(tmp_path):
    folder = make_tiny_model(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="this model cannot be loaded"):
        adapt(settings(folder), None, options=EncodeOptions(64), seed=0)
