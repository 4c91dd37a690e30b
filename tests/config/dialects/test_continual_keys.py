"""The article's keys that protect old knowledge."""

import pytest

from llama_factory.config.loading import load_config, resolve
from llama_factory.core.errors import ConfigError
from llama_factory.training.strategy import STRATEGIES

FLAT = "model_name_or_path: tiny\n"
NATIVE = "model: {base_model: tiny}\n"


def resolved(tmp_path, text, *changes):
    path = tmp_path / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return resolve(path, changes)


def listed(tmp_path, text, *changes):
    strategies = resolved(tmp_path, text, *changes).config.strategies
    return [
        {"type": STRATEGIES.name_of(each), **each.model_dump(exclude_unset=True)}
        for each in strategies
    ]


def test_a_flat_file_gets_the_strategies_it_names(tmp_path):
    found = listed(tmp_path, FLAT + "replay_buffer_size: 500\newc_lambda: 0.2\n")
    assert found == [{"type": "replay", "buffer_size": 500}, {"type": "ewc", "lambda": 0.2}]
    assert listed(tmp_path, FLAT) == []


def test_flags_do_the_same():
    flags = ["model_name_or_path=tiny", "ewc_lambda=0.1", "replay_buffer_size=1000"]
    assert (
        load_config(None, flags).strategies == load_config(None, ["strategies=article"]).strategies
    )


def test_beside_sections_they_change_the_strategies_that_are_there(tmp_path):
    native = NATIVE + "strategies: [{type: replay, fraction: 0.1}, anchor]\n"
    found = listed(tmp_path, native, "replay_buffer_size=7", "ewc_lambda=0.3")
    assert found == [
        {"type": "replay", "fraction": 0.1, "buffer_size": 7},
        {"type": "anchor"},
        {"type": "ewc", "lambda": 0.3},
    ]


@pytest.mark.parametrize(
    ("strategies", "wanted"),
    [
        ("", ["replay", "anchor", "distill", "freeze", "merge", "ewc"]),
        ("strategies: safe\n", ["replay", "anchor", "distill", "freeze", "merge", "ewc"]),
        ("strategies: naive\n", ["ewc"]),
        ("strategies: [ewc, anchor]\n", ["ewc", "anchor"]),
    ],
)
def test_a_preset_is_added_to(tmp_path, strategies, wanted):
    found = listed(tmp_path, NATIVE + strategies, "ewc_lambda=0.4")
    assert [each["type"] for each in found] == wanted
    assert next(each["lambda"] for each in found if each["type"] == "ewc") == 0.4


def test_zero_takes_a_strategy_out(tmp_path):
    native = NATIVE + "strategies: [replay, ewc]\n"
    found = listed(tmp_path, native, "ewc_lambda=0")
    assert [each["type"] for each in found] == ["replay"]
    assert listed(tmp_path, FLAT + "replay_buffer_size: 0\newc_lambda: 0\n") == []


def test_it_is_told_that_a_workspace_keeps_what_they_need(tmp_path):
    notes = resolved(tmp_path, FLAT + "replay_buffer_size: 10\newc_lambda: 0.1\n").notes
    assert "no earlier rows to replay; a workspace keeps them from round to round" in notes[0]
    assert "no earlier weights to hold; a workspace keeps what they mean" in notes[1]
    assert resolved(tmp_path, FLAT + "ewc_lambda: 0\n").notes == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("replay_buffer_size=-4", "--replay_buffer_size -4: must be 0 (off) or more; it is -4."),
        ("ewc_lambda=-1", "--ewc_lambda -1: must be 0 (off) or more; it is -1."),
        ("ewc_lambda=strong", "--ewc_lambda strong: must be a number; it is 'strong'."),
        ("replay_buffer_size=1.5", "--replay_buffer_size 1.5: must be a whole number; it is 1.5."),
    ],
)
def test_wrong_values_are_told_with_their_flag(tmp_path, change, told):
    with pytest.raises(ConfigError) as caught:
        resolved(tmp_path, FLAT, change)
    assert told in str(caught.value)


def test_a_wrong_list_is_told_with_its_line(tmp_path):
    with pytest.raises(ConfigError, match="line 2: strategies: 'sfe' is no preset."):
        resolved(tmp_path, NATIVE + "strategies: sfe\n", "ewc_lambda=0.1")
