"""Whole runs that start at saved adapters or add tokens, by this program's own commands."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llama_factory import run, use
from llama_factory.core.errors import ConfigError
from llama_factory.core.files import read_json
from llama_factory.core.progress import SILENT
from llama_factory.jobs.model_reference import ModelReference
from llama_factory.model.saved import find_adapters
from llama_factory.model.settings import ModelSettings
from tests.model.adapters.test_runs import SHORT, write_rows
from tests.model.adapting import logits
from tests.model.test_provenance import OPTIONS, reopened
from tests.tiny import make_tiny_model

FLAT = """
stage: sft
do_train: true
finetuning_type: lora
learning_rate: 1.0e-2
max_steps: 2
report_to: none
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def train(tiny, tmp_path_factory):
    """Runs with changed settings; what they write, by name."""
    place = tmp_path_factory.mktemp("place")
    write_rows(place / "rows.jsonl", "退货政策")
    data = SHORT["data"] | {"train_path": str(place / "rows.jsonl")}

    def start(name, **model):
        model = {
            "base_model": str(tiny),
            "dtype": "float32",
            "adapter": {"type": "lora", "rank": 4},
        } | model
        settings = SHORT | {"model": model, "data": data, "strategies": []}
        file = place / f"{name}.yaml"
        file.write_text(json.dumps(settings | {"output_dir": str(place / name)}))
        run.train(file, [], SILENT)
        return place / name

    return start


@pytest.fixture(scope="module")
def first(train):
    return train("first")


@pytest.mark.slow
def test_a_run_goes_on_with_an_adapter_and_changes_it(train, first):
    second = train("second", adapter_paths=[str(first)])
    assert read_json(second / "trained_on.json")["merged"] == 0
    assert not torch.allclose(reopened(str(first))[1], reopened(str(second))[1])


@pytest.mark.slow
def test_a_new_adapter_on_a_merged_one_is_exported_with_it(train, first, tmp_path):
    stacked = train("stacked", adapter_paths=[str(first)], create_new_adapter=True)
    assert (stacked / "merged_adapters/1/adapter_model.safetensors").is_file()
    use.export(
        ModelReference(str(stacked)),
        tmp_path / "out",
        prompts=None,
        dtype="float32",
        shard_size="5GB",
        progress=SILENT,
    )
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    answers = reopened(str(stacked))[1]
    torch.testing.assert_close(logits(merged), answers, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(reopened(str(first))[1], answers)


@pytest.mark.slow
def test_a_run_trains_the_rows_of_new_tokens(train, tiny):
    out = train("tokens", new_tokens=["退货政策"], new_special_tokens=["<|tool|>"])
    tokenizer = AutoTokenizer.from_pretrained(out)
    (token,) = tokenizer("退货政策", add_special_tokens=False)["input_ids"]
    model = find_adapters(str(out), None, ModelSettings(dtype="float32")).open(OPTIONS)
    row = model.network.get_input_embeddings().weight[token]
    pieces = AutoTokenizer.from_pretrained(tiny)("退货政策", add_special_tokens=False)["input_ids"]
    start = AutoModelForCausalLM.from_pretrained(tiny).get_input_embeddings().weight[pieces].mean(0)
    assert not torch.allclose(row, start)
    torch.testing.assert_close(row, start, rtol=0, atol=0.1)


@pytest.mark.slow
def test_their_file_with_two_adapters_merges_one_and_goes_on_with_the_other(
    train, first, tiny, tmp_path
):
    stacked = train("under", adapter_paths=[str(first)], create_new_adapter=True)
    write_rows(tmp_path / "rows.jsonl", "more")
    file = tmp_path / "flat.yaml"
    file.write_text(
        f"{FLAT}model_name_or_path: {tiny}\nadapter_name_or_path: {first},{stacked}\n"
        f"data_path: {tmp_path / 'rows.jsonl'}\noutput_dir: {tmp_path / 'out'}\n"
    )
    run.train(file, [], SILENT)
    assert read_json(tmp_path / "out/trained_on.json")["merged"] == 1
    assert read_json(tmp_path / "out/adapter_config.json")["r"] == 4


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("adapter_paths", ["a"]),
        ("create_new_adapter", True),
        ("new_tokens", ["退货"]),
        ("resize_vocab", True),
    ],
)
def test_rounds_refuse_what_is_for_runs_without_a_workspace(tiny, tmp_path, setting, value):
    workspace = run.init(tmp_path / "bot", str(tiny))
    workspace.settings.write_text(json.dumps({"model": {"base_model": str(tiny), setting: value}}))
    with pytest.raises(ConfigError) as error:
        run.learn(workspace.folder, [], SILENT)
    assert f"model.{setting}: rounds of a workspace go on with the released version's" in (
        str(error.value)
    )
    assert "llama-factory train. Leave it out, or export the result" in str(error.value)
