"""How large a model is, from its config alone: held against the model itself."""

import pytest
from torch._subclasses.fake_tensor import FakeTensor

from llama_factory.core.errors import ModelError
from llama_factory.model.known_configs import config_of
from llama_factory.model.outline import SCALES, outline_of
from llama_factory.model.settings import ModelSettings
from llama_factory.model.shape import require_size, shape_of
from tests.model.adapting import FORMS


def settings(folder, **more):
    return ModelSettings.model_validate({"base_model": str(folder), "dtype": "float32"} | more)


@pytest.fixture
def deep(tiny_model):
    """The tiny model's config, with seven layers."""
    config = config_of(str(tiny_model))
    return type(config).from_dict(config.to_dict() | {"num_hidden_layers": 7, "layer_types": None})


@pytest.mark.variants
@pytest.mark.parametrize("form", [name for name in FORMS if name != "qlora"])
def test_one_layer_and_two_tell_what_seven_have(deep, form):
    known = settings("tiny", adapter=FORMS[form])
    drawn, whole = shape_of(deep, known), outline_of(deep, known)
    assert drawn.num_layers == 7
    assert (drawn.num_weights, drawn.num_trained) == (whole.num_weights, whole.num_trained)
    assert drawn.weight_bytes.of(7) == pytest.approx(whole.weight_bytes)
    assert drawn.trained_bytes.of(7) == pytest.approx(whole.trained_bytes)
    assert drawn.multiplied.of(7) == pytest.approx(whole.num_multiplied)
    kept = drawn.kept_bytes.of(7) * 32 + drawn.copied_bytes.of(7)
    assert kept == pytest.approx(whole.bytes_kept(32), rel=0.02)


@pytest.mark.slow
def test_layers_that_differ_are_all_built(deep):
    frozen = shape_of(deep, settings("tiny", freeze_layers=5))
    assert frozen.num_trained == outline_of(deep, settings("tiny", freeze_layers=5)).num_trained
    assert frozen.num_trained < shape_of(deep, settings("tiny")).num_trained


def test_packed_weights_count_by_their_bits_and_scales(deep):
    whole = outline_of(deep, settings("tiny"))
    packed = outline_of(deep, settings("tiny", adapter={"type": "qlora"}))
    assert all(isinstance(each, FakeTensor) for each in packed.layers())
    layers = sum(each.numel() for each in whole.layers() if not each.requires_grad)
    saved = layers * (4 - 0.5 - SCALES[True])
    assert whole.weight_bytes - packed.weight_bytes == pytest.approx(saved, rel=1e-4)
    assert packed.unpacked_bytes > 0 == whole.unpacked_bytes


def test_weights_that_train_in_float32_are_copied_for_products_of_16_bits(deep):
    mixed = settings("tiny", adapter="full", dtype="bfloat16")
    shape = shape_of(deep, mixed)
    copies = shape.copied_bytes.layer / (2 * shape.weights.layer)
    assert 0.85 < copies <= 1  # norms are computed as they are


@pytest.mark.variants
@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", 7.616),
        ("meta-llama/Llama-3.1-70B", 70.554),
        ("llama2-7b", 6.738),
        ("smollm2", 0.1345),
    ],
)
def test_well_known_models_have_the_size_that_their_makers_state(name, billions):
    shape = shape_of(config_of(name), ModelSettings(base_model=name, dtype="bfloat16"))
    assert (shape.num_weights - shape.num_trained) / 1e9 == pytest.approx(billions, rel=1e-3)


def test_a_name_that_is_nothing_is_refused_with_what_is_known():
    with pytest.raises(ModelError, match=r"Did you mean 'qwen2\.5-7b'.*Sizes are known of"):
        config_of("qwen2.5-7")


def test_a_config_without_layers_is_refused(deep):
    deep.num_hidden_layers = 0
    with pytest.raises(ModelError, match="does not say how many layers"):
        require_size(deep, "tiny")
