import subprocess
import sys

import pytest

from llama_factory.config.loading import load_config
from llama_factory.continual.presets import PRESETS, default_strategies
from llama_factory.core.errors import ConfigError
from llama_factory.rounds.settings import LearningConfig
from llama_factory.training.strategy import STRATEGIES


def names(strategies):
    return [STRATEGIES.name_of(strategy) for strategy in strategies]


def written(tmp_path, text):
    path = tmp_path / "factory.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("preset", "wanted"),
    [
        ("default", ["replay", "anchor", "distill", "freeze", "merge"]),
        ("naive", []),
        ("safe", ["replay", "anchor", "distill", "freeze", "merge"]),
        ("article", ["replay", "ewc"]),
        ("[replay, {type: freeze, layers: 2}]", ["replay", "freeze"]),
    ],
)
def test_a_preset_stands_for_its_strategies(tmp_path, preset, wanted):
    path = written(tmp_path, f"model: {{base_model: tiny}}\nstrategies: {preset}\n")
    assert names(load_config(path).strategies) == wanted


def test_the_preset_without_old_rows_keeps_none():
    listed = [strategy["type"] for strategy in PRESETS["no-data"].strategies]
    assert listed == ["ewc", "merge", "anchor", "distill"]


def test_the_article_means_its_numbers_literally():
    replay, ewc = load_config(None, ["strategies=article"]).strategies
    assert (replay.buffer_size, ewc.model_dump()["lambda"]) == (1000, 0.1)


def test_without_a_word_the_default_preset_holds():
    assert LearningConfig().strategies == default_strategies()


@pytest.mark.parametrize(
    "model", ["{adapter: full}", "{adapter: {type: lora, modules_to_save: [lm_head]}}"]
)
def test_where_the_base_model_itself_trains_nothing_is_compared_with_it(model):
    assert names(load_config(None, [f"model={model}"]).strategies) == ["replay", "anchor"]
    with pytest.raises(ConfigError) as told:  # nothing is told of a default that follows from it
        load_config(None, ["model={adapter: {modules_to_save: [lm_head]}}"])
    assert "strategies" not in str(told.value)


def test_safe_protects_more_than_default():
    default, safe = (
        {STRATEGIES.name_of(s): s for s in load_config(None, [f"strategies={name}"]).strategies}
        for name in ("default", "safe")
    )
    assert safe["replay"].fraction > default["replay"].fraction
    assert safe["anchor"].fraction > default["anchor"].fraction
    assert safe["distill"].beta > default["distill"].beta
    assert {*safe["distill"].rows} > {*default["distill"].rows}
    assert safe["freeze"].count(30) > default["freeze"].count(30) == 9
    assert safe["merge"].alphas < default["merge"].alphas


def test_every_preset_is_told_where_strategies_are_explained():
    told = LearningConfig.model_fields["strategies"].description
    assert all(f"`{name}`" in told for name in PRESETS)
    assert all(len(preset.about) > 10 for preset in PRESETS.values())


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("defualt", "line 1: strategies: 'defualt' is no preset. Did you mean 'default'?"),
        ("replay", "'replay' is one strategy and no preset. Write a list: strategies: [replay]."),
        ("[repaly]", "'repaly' is not a strategy. Did you mean 'replay'?"),
    ],
)
def test_unknown_presets_name_the_nearest(tmp_path, value, told):
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, f"strategies: {value}\nmodel: {{}}\n"))
    assert told in str(caught.value)


def test_a_preset_written_down_in_full_is_the_same_again(tmp_path):
    import yaml

    config = load_config(None, ["strategies=safe"])
    again = written(tmp_path, yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config(again).strategies == config.strategies


@pytest.mark.slow
def test_reading_presets_needs_no_torch():
    code = (
        "import sys; from llama_factory.config.loading import load_config; "
        "load_config(None, ['strategies=safe']); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
