import pytest

from llama_factory.config.changes import from_environment
from llama_factory.config.loading import load_config
from llama_factory.core.errors import ConfigError


def test_the_environment_wins_over_the_file_and_flags_over_it(tmp_path, monkeypatch):
    path = tmp_path / "run.yaml"
    path.write_text("serving: {port: 8000}\n", encoding="utf-8")
    monkeypatch.setenv("API_PORT", "9000")
    monkeypatch.setenv("API_HOST", "")
    assert load_config(path).serving.port == 9000
    assert load_config(path).serving.host == "127.0.0.1"
    assert load_config(path, ["serving.port=9001"]).serving.port == 9001


def test_a_wrong_variable_is_named(monkeypatch):
    monkeypatch.setenv("API_PORT", "http")
    with pytest.raises(ConfigError, match="environment API_PORT=http: must be a valid integer"):
        load_config(None)


def test_only_known_variables_are_settings():
    assert from_environment({"API_KEY": "secret", "PATH": "x"}) == []


def test_the_articles_rank_may_be_set_beside_its_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("model: {base_model: x, lora_rank: 16}\n", encoding="utf-8")
    assert load_config(path, ["model.lora_rank=8"]).model.adapter.rank == 8
    with pytest.raises(ConfigError, match="--set model.lora_rank=0: must be greater than or equal"):
        load_config(path, ["model.lora_rank=0"])


def test_what_holds_no_keys_cannot_be_set():
    with pytest.raises(ConfigError, match="--set output_dir.x=1: 'output_dir' holds no keys"):
        load_config(None, ["output_dir=a", "output_dir.x=1"])


@pytest.mark.parametrize(
    "before", [[], ["strategies=default"], ["strategies=[replay, anchor, distill]"]]
)
def test_a_part_in_a_list_is_named_by_its_type(before):
    replay, *others = load_config(None, [*before, "strategies.replay.fraction=0.5"]).strategies
    assert replay.fraction == 0.5
    assert others == load_config(None, before).strategies[1:]
    config = load_config(None, [*before, "data.cleaning.conflicts.rule=newest"])
    (rule,) = [step.rule for step in config.data.cleaning if hasattr(step, "rule")]
    assert rule == "newest"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["strategies.replay.fraction=2"], "--set strategies.replay.fraction=2: must be less"),
        (["strategies.replay.fractoin=2"], "no such setting. Did you mean 'fraction'"),
        (["strategies.replai.fraction=.2"], "strategies has no 'replai'. Did you mean 'replay'"),
        (["strategies.ewc.lambda=2"], "It has: replay, anchor, distill, freeze, merge. To add"),
        (["strategies.replay=2"], "what of 'replay' to set is missing. Name it: replay.KEY"),
        (["strategies=saef", "strategies.replay.fraction=.2"], "'saef' is no preset. Did you mean"),
    ],
)
def test_what_a_list_lacks_or_refuses_is_told(changes, message):
    with pytest.raises(ConfigError, match=message):
        load_config(None, changes)
