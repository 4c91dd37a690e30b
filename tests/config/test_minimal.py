"""Settings as short as they can be written."""

import pytest
import yaml

from llama_factory.config.changes import read_changes
from llama_factory.config.loading import load_config
from llama_factory.config.minimal import as_changes, minimal, to_yaml
from llama_factory.config.schema import RunConfig
from llama_factory.continual.presets import PRESETS
from llama_factory.model.adapters import ADAPTERS

WRITTEN = [
    {},
    {"training": {"epochs": 5, "learning_rate": 1e-5}, "model": {"template": "chatml"}},
    {"model": {"adapter": {"type": "lora", "rank": 4, "targets": ["q_proj"]}}},
    {"data": {"cleaning": [], "mix": {"shares": {"数据": 0.5}}}, "strategies": ["replay"]},
    {"strategies": [{"type": "ewc", "lambda": 0.3}, "replay"]},
    {"evaluation": {"metrics": ["rouge-l", {"type": "regex", "pattern": "a+"}]}},
    {"training": {"objective": {"type": "distill", "teacher": "smollm2"}, "report_to": []}},
]


@pytest.mark.parametrize("values", WRITTEN)
def test_what_is_written_comes_to_the_same_settings(values):
    config = RunConfig.model_validate(values)
    short = minimal(config)
    assert RunConfig.model_validate(short) == config
    assert RunConfig.model_validate(yaml.safe_load(to_yaml(short)) or {}) == config
    changes = list(as_changes(short))
    assert load_config(None, read_changes(changes)) == config


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_written_by_its_name(preset):
    config = RunConfig.model_validate({"strategies": preset})
    assert minimal(config) == ({} if preset == "default" else {"strategies": preset})


@pytest.mark.parametrize("adapter", ADAPTERS.parts)
def test_what_follows_from_the_model_is_not_written(adapter):
    config = RunConfig.model_validate({"model": {"adapter": adapter}})
    usual = {} if adapter == "lora" else {"model": {"adapter": adapter}}
    assert minimal(config) == usual


def test_a_default_that_is_given_is_not_written():
    config = RunConfig.model_validate({"training": {"epochs": 3, "seed": 0, "schedule": "cosine"}})
    assert minimal(config) == {}
    assert to_yaml({}) == ""
