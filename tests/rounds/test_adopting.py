"""A workspace that goes on from an adapter trained elsewhere."""

import json

import pytest
import yaml

from llama_factory import run
from llama_factory.core.errors import ModelError
from llama_factory.versions import store
from llama_factory.versions.workspace import Workspace
from tests.tiny import random_adapter

ROWS = [{"instruction": f"Question {n}?", "output": f"Answer {n}."} for n in range(6)]


@pytest.fixture
def adapter(tmp_path, tiny_model):
    """What LLaMA-Factory would have written: a plain PEFT folder, and its YAML and rows."""
    random_adapter(tiny_model, 1).save_pretrained(tmp_path / "saves")
    (tmp_path / "faq.json").write_text(json.dumps(ROWS))
    info = {"faq": {"file_name": "faq.json"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    (tmp_path / "sft.yaml").write_text(
        yaml.safe_dump(
            {
                "model_name_or_path": str(tiny_model),
                "dataset": "faq",
                "dataset_dir": str(tmp_path),
                "default_system": "Be kind.",
                "cutoff_len": 128,
                "output_dir": str(tmp_path / "saves"),
            }
        )
    )
    return tmp_path / "saves"


def test_an_adapter_with_its_rows_becomes_the_released_version(adapter):
    bot = adapter.parent / "bot"
    version = run.adopt(adapter, bot, settings=adapter.parent / "sft.yaml")
    assert (version.id, version.num_rows) == ("v0001", len(ROWS))
    workspace = Workspace.open(bot)
    assert store.get(workspace, "production").id == "v0001"
    assert len(version.memory.rows["replay"]) == len(ROWS)
    settings = yaml.safe_load(workspace.settings.read_text())
    assert settings["model"]["adapter"]["type"] == "lora"
    assert settings["data"]["default_system"] == "Be kind."
    assert settings["data"]["max_tokens"] == 128


@pytest.mark.slow
def test_what_an_adapter_was_taught_is_not_taught_again(adapter):
    bot = adapter.parent / "bot"
    run.adopt(adapter, bot, data=[adapter.parent / "faq.json"])
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (bot / "inbox" / "again.jsonl").write_text(lines)
    assert run.learn(bot) is None


def test_a_folder_without_an_adapter_is_refused_and_nothing_is_made(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError):
        run.adopt(tmp_path / "empty", tmp_path / "bot")
    assert not (tmp_path / "bot").exists()


@pytest.mark.slow
def test_new_rows_are_learned_on_top_of_an_adopted_adapter(adapter):
    bot = adapter.parent / "bot"
    run.adopt(adapter, bot, settings=adapter.parent / "sft.yaml")
    new = [{"instruction": f"New {n}?", "output": f"Fresh {n}."} for n in range(12)]
    (bot / "inbox" / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in new))
    done = run.learn(bot, {"training.max_steps": 2, "training.batch_size": 2})
    assert done is not None
    assert done.version.parent == "v0001"
    assert run.versions(bot)
