"""README.md of what a run made, whatever it trained."""

import pytest
import yaml

from llama_factory.config.loading import load_config
from llama_factory.jobs import model_card
from llama_factory.model.adapters import ADAPTERS


def card_of(folder, *changes):
    flat = ["model_name_or_path=some/model", "dataset=identity,alpaca_en_demo", *changes]
    config = load_config(None, flat)
    folder.mkdir(exist_ok=True)
    model_card.write(folder, config, {"train_loss": 1.5, "training": {}, "is_cut": True})
    text = (folder / "README.md").read_text(encoding="utf-8")
    head, body = text.removeprefix("---\n").split("\n---\n", 1)
    return yaml.safe_load(head), body


@pytest.mark.parametrize("kind", sorted(ADAPTERS.parts))
def test_each_kind_of_adapter_has_a_card(tmp_path, kind):
    head, body = card_of(tmp_path, f"model.adapter={kind}")
    is_adapter = ADAPTERS.parts[kind].peft_type is not None
    assert head["library_name"] == ("peft" if is_adapter else "transformers")
    assert head["base_model"] == "some/model"
    assert kind in head["tags"]
    assert ("PeftModel" in body) == is_adapter
    assert "| train_loss | 1.5 |" in body
    assert "is_cut" not in body


def test_a_card_names_its_data_and_no_folder_of_the_machine(tmp_path):
    here = tmp_path / "out"
    _, body = card_of(here, "stage=dpo")
    assert body.startswith("\n# out\n")
    assert "on `identity`, `alpaca_en_demo`." in body
    assert "| objective | dpo |" in body
    assert str(tmp_path) not in body
