"""Each message about an adapter says what is wrong, what exists and how to mend it."""

import json
import shutil
from importlib import metadata

import pytest
import torch
from pydantic import ValidationError

from llama_factory.core.errors import ModelError
from llama_factory.core.files import read_json
from llama_factory.model.adapters.qlora import Qlora
from llama_factory.model.base import load_network
from tests.model.adapting import FORMS, OWN_WEIGHTS, make, settings
from tests.tiny import make_tiny_model


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def parents(llama, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parents")
    for form in ("lora", "dora", "ia3", "oft", "prompt"):
        make(llama, form).save(folder / form)
    return folder


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"type": "lora", "rank": 0}, "rank: Input should be greater than or equal to 1"),
        ({"type": "lora", "init": "pisa"}, "'pisa' is no start for LoRA. Did you mean 'pissa'"),
        ({"type": "lora", "init": "pissa_niter_0"}, "Known: default, pissa, pissa_niter_N"),
        (
            {"type": "lora", "init": "loftq"},
            "loftq is not supported: it starts at the rounding error",
        ),
        (
            {"type": "lora", "init": "pissa", "use_dora": True},
            "init: pissa and use_dora exclude each other",
        ),
        (
            {"type": "lora", "init": "olora", "modules_to_save": ["lm_head"]},
            "init: olora cannot be saved together with modules_to_save",
        ),
        ({"type": "lora", "use_rsLora": True}, "no such setting. Did you mean 'use_rslora'"),
        ({"type": "qlora", "init": "pissa"}, "packed weights cannot be. Use init: default"),
        ({"type": "qlora", "bits": 3}, "bits: Input should be 4 or 8"),
        (
            {"type": "qlora", "library": "torchao"},
            "torchao packs weights into 8 bits here, and bits is 4. Set bits: 8",
        ),
        (
            {"type": "qlora", "bits": 8, "eight_bits": "fp8"},
            "eight_bits: fp8 is torchao's. Set library: torchao, or eight_bits: int8.",
        ),
        ({"type": "freeze", "highest": 0}, "so nothing would train. Give one of them"),
        ({"type": "freeze", "modules": []}, "modules is empty, so nothing would train"),
        ({"type": "prompt", "num_tokens": 0}, "num_tokens: Input should be greater than or equal"),
        ({"type": "lorra"}, "'lorra' is not an adapter. Did you mean 'lora'"),
    ],
)
def test_wrong_settings_are_told_before_any_model_is_read(tmp_path, form, message):
    with pytest.raises(ValidationError) as error:
        settings(tmp_path / "nowhere", form)
    assert message in str(error.value)


@pytest.mark.parametrize("kind", ["lora", "ia3", "oft", "bottleneck"])
def test_targets_that_match_nothing_list_what_exists(llama, kind):
    with pytest.raises(ModelError) as error:
        make(llama, {"type": kind, "targets": ["q_prj"]})
    assert "adapter.targets: 'q_prj' is no linear layer of this model. Did you mean 'q_proj'?" in (
        str(error.value)
    )
    assert "It has: down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj." in (
        str(error.value)
    )


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"type": "lora", "targets": []}, "adapter.targets is empty, so nothing would train"),
        (
            {"type": "lora", "exclude": ["k_prj"]},
            "adapter.exclude: 'k_prj' is no linear layer of this model. Did you mean 'k_proj'?",
        ),
        (
            {"type": "ia3", "targets": ["q_proj"], "exclude": ["q_proj"]},
            "leave no layer to adapt. Leave out less.",
        ),
        (
            {"type": "lora", "modules_to_save": ["embed_token"]},
            "adapter.modules_to_save: 'embed_token' is no module with weights of this model. "
            "Did you mean 'embed_tokens'?",
        ),
        (
            {"type": "oft", "block_size": 30},
            "has 32 inputs, which is no multiple of it. The nearest size that divides it is 32.",
        ),
        (
            {"type": "freeze", "highest": 3},
            "adapter.highest is 3 and the model has 2 layers. Give at most 2, or train all weights "
            "with adapter type full.",
        ),
        ({"type": "freeze", "lowest": 9}, "adapter.lowest is 9 and the model has 2 layers."),
        (
            {"type": "freeze", "modules": ["self_atn"]},
            "adapter.modules: 'self_atn' is no part of a layer of this model. Did you mean "
            "'self_attn'?",
        ),
        (
            {"type": "freeze", "extra_modules": ["q_proj"]},
            "adapter.extra_modules: 'q_proj' is no module outside the layers of this model. It "
            "has: embed_tokens, lm_head, norm.",
        ),
    ],
)
def test_what_the_model_does_not_have_is_told(llama, form, message):
    with pytest.raises(ModelError) as error:
        make(llama, form)
    assert message in str(error.value)


@pytest.mark.parametrize("form", [f for f in FORMS if f not in ("prompt", "freeze")])
def test_freezing_every_layer_is_refused_for_every_type(llama, form):
    with pytest.raises(ModelError, match="model has 2 layers, so nothing would train. Give at mo"):
        make(llama, form, freeze_layers=2)


def test_freeze_layers_and_prompt_tuning_exclude_each_other(llama):
    with pytest.raises(ModelError, match="freeze_layers is 1 and adapter.type prompt trains no la"):
        make(llama, "prompt", freeze_layers=1)


def test_freeze_layers_and_freeze_must_not_contradict_each_other(llama):
    with pytest.raises(ModelError, match="adapter type freeze is to train layer 0 of 0 to 1"):
        make(llama, {"type": "freeze", "lowest": 1}, freeze_layers=1)


@pytest.fixture
def installed(monkeypatch):
    """Lets a library be there in a version, or in none."""

    def choose(library, version):
        real = metadata.version

        def answer(name):
            if name != library:
                return real(name)
            if version is None:
                raise metadata.PackageNotFoundError(name)
            return version

        monkeypatch.setattr(metadata, "version", answer)

    return choose


@pytest.mark.parametrize(
    "form", [{"type": "qlora"}, {"type": "qlora", "bits": 8}, {"type": "qoft"}]
)
def test_packing_without_its_library_says_so_before_the_model_is_looked_for(
    tmp_path, installed, form
):
    installed("bitsandbytes", None)
    with pytest.raises(ModelError) as error:
        make(tmp_path / "nowhere", form)
    kind, bits = form["type"], form.get("bits", 4)
    assert f"adapter.type {kind} with {bits} bits needs the library bitsandbytes (pip install " in (
        str(error.value)
    )
    assert "Use adapter type lora with a smaller base model" in str(error.value)


def test_packing_by_torchao_asks_for_torchao(tmp_path, installed):
    installed("torchao", None)
    with pytest.raises(
        ModelError, match="qlora with 8 bits needs the library torchao .pip install"
    ):
        make(tmp_path / "nowhere", {"type": "qlora", "bits": 8, "library": "torchao"})


def test_a_packed_base_without_the_library_is_refused_where_it_only_answers(llama, installed):
    installed("bitsandbytes", None)
    with pytest.raises(ModelError, match="qlora with 4 bits needs the library bitsandbytes"):
        load_network(llama, settings(llama, {"type": "qlora"}))


@pytest.mark.parametrize(
    ("method", "lacking", "message"),
    [
        (
            "gptq",
            "optimum",
            "are packed by gptq, and gptqmodel and optimum to read them are not in",
        ),
        (
            "awq",
            "gptqmodel",
            "packed by awq, and gptqmodel to read them is not installed: pip inst",
        ),
    ],
)
def test_a_base_that_others_packed_is_refused_with_what_reads_it(
    llama, tmp_path, installed, method, lacking, message
):
    base = shutil.copytree(llama, tmp_path / "base")
    config = read_json(base / "config.json")
    config["quantization_config"] = {"quant_method": method, "bits": 4, "group_size": 128}
    (base / "config.json").write_text(json.dumps(config), encoding="utf-8")
    installed(lacking, None)
    with pytest.raises(ModelError) as error:
        make(base, "lora")
    assert message in str(error.value)
    assert "adapter type qlora packs its weights as they are read" in str(error.value)


def test_a_library_that_needs_a_gpu_in_its_version_says_so(tmp_path, installed):
    if torch.cuda.is_available():
        pytest.skip("this machine has what is missing here")
    installed("bitsandbytes", "0.45.1")
    with pytest.raises(ModelError) as error:
        make(tmp_path / "nowhere", {"type": "qlora"})
    assert "needs a CUDA GPU, or bitsandbytes 0.50 or newer (0.45.1 is installed; pip" in (
        str(error.value)
    )


def test_qlora_packs_as_its_settings_say():
    packed = Qlora(quant_type="fp4", double_quant=False)
    assert packed.peft_type == "LORA"
    assert Qlora(bits=8).quantization(torch.float32).load_in_8bit
    config = packed.quantization(torch.bfloat16)
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == ("fp4", False)
    assert config.bnb_4bit_compute_dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("parent", "form", "message"),
    [
        ("lora", "ia3", "adapter.type is ia3 and the parent's adapter in {} is of type lora."),
        ("ia3", "lora", "adapter.type is lora and the parent's adapter in {} is of type ia3."),
        ("prompt", "oft", "adapter.type is oft and the parent's adapter in {} is of type prompt."),
        ("lora", {"type": "lora", "rank": 8}, "rank is 8 and the parent's adapter in {} has rank"),
        ("lora", "dora", "use_dora is True and the parent's adapter in {} has use_dora False."),
        ("dora", "lora", "use_dora is False and the parent's adapter in {} has use_dora True."),
        ("lora", {"type": "lora", "rank": 4, "alpha": 1}, "alpha is 1.0 and the parent's adapter"),
        (
            "lora",
            {"type": "lora", "rank": 4, "targets": ["q_proj"]},
            "targets is ['q_proj'] and the parent's adapter in {} has targets ['down_proj', ",
        ),
        ("oft", {"type": "oft", "block_size": 4}, "block_size is 4 and the parent's adapter in {}"),
        ("prompt", {"type": "prompt"}, "num_tokens is 20 and the parent's adapter in {} has num_"),
    ],
)
def test_going_on_with_another_type_or_shape_names_both_and_the_ways_out(
    llama, parents, parent, form, message
):
    with pytest.raises(ModelError) as error:
        make(llama, form, parent=parents / parent)
    assert message.format(parents / parent) in str(error.value)
    assert "back to" in str(error.value)
    assert "or start anew (a new workspace, or a run without adapter_name_or_path)" in (
        str(error.value)
    )


@pytest.mark.parametrize("form", OWN_WEIGHTS)
def test_own_weights_do_not_go_on_with_an_adapter(llama, parents, form):
    with pytest.raises(ModelError) as error:
        make(llama, form, parent=parents / "lora")
    assert f"adapter.type is {form}, which trains the base model's own weights" in str(error.value)
    assert "Merge it into its base first" in str(error.value)


def test_a_whole_model_is_no_parent_adapter(llama):
    with pytest.raises(ModelError, match="holds a whole model and no adapter.*as model.base_model"):
        make(llama, parent=llama)


def test_a_parent_folder_without_an_adapter_is_told(llama, tmp_path):
    with pytest.raises(ModelError, match="adapter_config.json: no adapter can be read here"):
        make(llama, parent=tmp_path)


@pytest.mark.variants
@pytest.mark.parametrize("form", ["lora", "ia3", "oft", "bottleneck", "prompt"])
def test_a_damaged_parent_is_told(llama, tmp_path, form):
    make(llama, form).save(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="this adapter cannot be loaded onto .*It is damaged"):
        make(llama, form, parent=tmp_path)


def test_a_parent_of_another_base_is_told(llama, tmp_path):
    other = make_tiny_model(tmp_path / "gpt_neox", "gpt_neox")
    make(other, {"type": "lora", "rank": 4, "targets": ["dense"]}).save(tmp_path / "adapter")
    with pytest.raises(ModelError, match="this adapter cannot be loaded onto .*dense"):
        make(llama, parent=tmp_path / "adapter")
