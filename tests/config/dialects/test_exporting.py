"""LLaMA-Factory's files for an export mean the same here."""

import pytest
import yaml

from llama_factory.config.dialects.answering import answer_request
from llama_factory.config.dialects.exporting import (
    KeyPlaces,
    export_request,
    read_export_request,
)
from llama_factory.core.errors import ConfigError

EXAMPLE = """
### Note: DO NOT use quantized model or quantization_bit when merging lora adapters
### model
model_name_or_path: Qwen/Qwen3-4B-Instruct-2507
adapter_name_or_path: saves/qwen3-4b/lora/sft
template: qwen3_nothink
trust_remote_code: true

### export
export_dir: saves/qwen3_sft_merged
export_size: 5
export_device: cpu  # choices: [cpu, auto]
export_legacy_format: false
"""


def request(**changes):
    return export_request(yaml.safe_load(EXAMPLE) | changes, KeyPlaces(None))


def problem(**changes):
    with pytest.raises(ConfigError) as caught:
        request(**changes)
    return str(caught.value)


def test_their_example_means_the_same_here():
    asked = request()
    assert (asked.source, asked.base) == ("saves/qwen3-4b/lora/sft", "Qwen/Qwen3-4B-Instruct-2507")
    assert (asked.output, asked.dtype, asked.shard_size) == ("saves/qwen3_sft_merged", None, "5GB")
    assert asked.changes == ("model.template=qwen3_nothink", "model.trust_remote_code=True")


def test_several_adapters_a_format_and_a_size():
    asked = request(adapter_name_or_path="a, b", infer_dtype="float16", export_size=2)
    assert (asked.source, asked.dtype, asked.shard_size) == ("a,b", "float16", "2GB")


def test_a_whole_model_needs_no_adapter():
    asked = request(adapter_name_or_path=None)
    assert (asked.source, asked.base) == ("Qwen/Qwen3-4B-Instruct-2507", None)


def test_keys_of_a_training_change_nothing():
    assert request(stage="sft", finetuning_type="lora", lora_rank=8) == request()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"export_legacy_format": True},
            "settings: export_legacy_format: True is not supported: weights are always "
            "safetensors; the older format is pickled, and reading it runs code.",
        ),
        ({"export_device": "npu"}, "export_device: 'npu' is not supported: use cpu"),
        ({"quantization_bit": 4}, "quantization_bit: 4 is not supported: merging into rounded wei"),
        ({"export_quantization_bit": 4}, "GPTQ is not done here; export without it"),
        ({"export_sise": 4}, "export_sise: no such key. Did you mean 'export_size'?"),
        ({"infer_dtype": "int8"}, "infer_dtype: must be one of auto, float16, bfloat16, float32"),
    ],
)
def test_what_cannot_be_followed_says_why(changes, message):
    assert message in problem(**changes)


def test_what_is_missing_is_told_all_at_once():
    with pytest.raises(ConfigError) as error:
        export_request({"export_size": "big"}, KeyPlaces(None))
    told = str(error.value)
    assert told.count("settings: ") == 3
    assert "settings: export_dir: not given. An export needs it." in told


def test_a_problem_names_the_file_and_the_line_or_the_change(tmp_path):
    file = tmp_path / "merge.yaml"
    file.write_text("model_name_or_path: x\ntemplate: gwen\nexport_size: big\n")
    with pytest.raises(ConfigError) as error:
        read_export_request(file, ["export_size=huge"])
    template, size, folder = str(error.value).splitlines()
    assert template.startswith(f"{file}, line 2: template: 'gwen' is no template known here.")
    assert size.startswith("settings: export_size: ")
    assert folder == f"{file}: export_dir: not given. An export needs it."
    with pytest.raises(ConfigError, match=r"merge.yaml, line 2: template: 'gwen' is no template"):
        answer_request(file, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "merge.yaml: no YAML can be read here: "),
        ("a: [", "merge.yaml: no YAML can be read here: "),
        ("- a", "merge.yaml: holds no `key: value` lines, so it asks for no export."),
    ],
)
def test_a_file_that_asks_for_nothing_is_told(tmp_path, text, message):
    file = tmp_path / "merge.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_export_request(file)
    assert message in str(error.value)


def test_the_file_is_read(tmp_path):
    (tmp_path / "merge.yaml").write_text(EXAMPLE)
    assert read_export_request(tmp_path / "merge.yaml") == request()
