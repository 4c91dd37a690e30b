"""Settings and changes given in Python instead of a file and flags."""

from pathlib import Path

import pytest

from llama_factory.config.loading import load_config
from llama_factory.core.errors import ConfigError


def test_a_mapping_is_what_a_file_would_hold():
    values = {"model": {"base_model": Path("tiny")}, "training": {"epochs": 2}}
    assert load_config(values).training.epochs == 2
    assert load_config(values).model.base_model == "tiny"
    flat = load_config({"model_name_or_path": "tiny", "num_train_epochs": 2})
    assert flat.training.epochs == 2
    assert flat.strategies == []


def test_changes_are_dotted_names_or_sections():
    before = {"training": {"epochs": 2, "seed": 7}}
    for changes in (["training.epochs=1"], {"training.epochs": 1}, {"training": {"epochs": 1}}):
        training = load_config(before, changes).training
        assert (training.epochs, training.seed) == (1, 7)
    assert before == {"training": {"epochs": 2, "seed": 7}}


def test_a_part_is_set_as_a_whole():
    values = {"model": {"adapter": {"type": "lora", "rank": 4}}}
    config = load_config(values, {"model": {"adapter": {"type": "lora", "dropout": 0.1}}})
    assert config.model.adapter.rank == 16
    assert load_config(values, {"model.adapter.rank": 2}).model.adapter.rank == 2


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        ({"training": {"epochs": "many"}}, {}, "settings: 1 problem\n  training.epochs: must be"),
        ({"trainig": {}}, {}, "trainig: no such setting. Did you mean 'training'"),
        ({}, {"training.epochs": "many"}, "training.epochs='many': must be"),
        ({}, {"training": {"epoch": 1}}, "training.epoch=1: no such setting"),
    ],
)
def test_problems_name_the_setting_or_what_set_it(settings, changes, message):
    with pytest.raises(ConfigError, match=message):
        load_config(settings, changes)
