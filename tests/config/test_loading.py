from pathlib import Path

import pytest

from llama_factory.config.loading import load_config
from llama_factory.config.template import settings_file
from llama_factory.continual.presets import default_strategies
from llama_factory.core.errors import ConfigError

ARTICLE = """\
model:    {base_model: "llama-7b", lora_rank: 16, freeze_layers: 10}
training: {batch_size: 32, micro_batch_size: 8, learning_rate: 3e-5, epochs: 3, warmup_steps: 100}
data:     {train_path: "data/train_augmented.json", eval_path: "data/eval.json"}
"""
SHIPPED = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def written(tmp_path, text):
    path = tmp_path / "factory.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problem(tmp_path, text, *changes):
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, text), changes)
    return str(caught.value)


def test_the_articles_file_is_valid(tmp_path):
    config = load_config(written(tmp_path, ARTICLE))
    assert config.model.adapter.rank == 16
    assert config.model.freeze_layers == 10
    assert config.training.learning_rate == 3e-5
    assert config.training.micro_batch_size == 8


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
def test_shipped_files_are_valid(path):
    load_config(path)


def test_the_new_workspaces_file_is_valid_and_its_commented_lines_too(tmp_path):
    text = settings_file("smollm2")
    load_config(written(tmp_path, text))
    uncommented = [
        line.replace("# ", "", 1) if line.startswith("  # ") and ": " in line else line
        for line in text.splitlines()
    ]
    config = load_config(written(tmp_path, "\n".join(uncommented)))
    assert config.evaluation.guard == Path("my_general_rows.jsonl")


def test_all_problems_are_told_at_once_with_lines_and_nearest_names(tmp_path):
    text = (
        "model:\n  base_modle: x\n  adapter: {type: lora, rnk: 4}\ntraining:\n"
        "  learning_rate: fast\nstrategies:\n  - type: replay\n    fraction: 3\n  - repla\n"
    )
    told = problem(tmp_path, text)
    assert "5 problems" in told
    assert "line 2: model.base_modle: no such setting. Did you mean 'base_model'?" in told
    assert "line 3: model.adapter.rnk: no such setting. Did you mean 'rank'?" in told
    assert "line 5: training.learning_rate: must be a valid number" in told
    assert "it is 'fast'" in told
    assert "line 8: strategies.0.fraction: must be less than 1; it is 3." in told
    assert "line 9: strategies.1: 'repla' is not a strategy. Did you mean 'replay'?" in told


def test_what_goes_wrong_between_settings_names_the_line_of_one_of_them(tmp_path):
    flat = "model_name_or_path: x\nstage: sft\ndo_train: false\n"
    assert "line 3: do_train: do_train is off and so is do_predict" in problem(tmp_path, flat)
    native = "data: {max_tokens: 64}\ndo_train: false\n"
    assert "line 2: do_train is off and so is do_predict" in problem(tmp_path, native)
    told = problem(tmp_path, "training:\n  seed: 1\n  objective: dpo\n  packing: true\n")
    assert "line 4: training: packing puts several rows into one" in told
    told = problem(tmp_path, "model: {base_model: x}\ndata:\n  tool_format: gwen\n")
    assert "line 3: data.tool_format: 'gwen' is no way to write tools that is known here." in told


def test_a_change_is_applied_and_its_problems_name_it(tmp_path):
    path = written(tmp_path, "training: {epochs: 2}\n")
    assert load_config(path, ["training.learning_rate=1e-4"]).training.learning_rate == 1e-4
    assert load_config(path, ["strategies=[]"]).strategies == []
    told = problem(tmp_path, "training: {epochs: 2}\n", "training.epoch=3")
    assert "--set training.epoch=3: no such setting. Did you mean 'epochs'?" in told
    assert "write it as section.key=value" in problem(tmp_path, "", "epochs")


def test_duplicate_keys_are_refused(tmp_path):
    told = problem(tmp_path, "training:\n  epochs: 1\n  epochs: 2\n")
    assert "line 3: 'epochs' is given twice, first in line 2." in told


def test_broken_yaml_names_the_line(tmp_path):
    assert "line 2: not valid YAML" in problem(tmp_path, "a: [1\nb: 2\n")


def test_a_missing_file_suggests_the_nearest(tmp_path):
    written(tmp_path, "")
    with pytest.raises(ConfigError, match=r"no such settings file. Did you mean 'factory.yaml'\?"):
        load_config(tmp_path / "factroy.yaml")


def test_a_list_or_another_encoding_is_refused(tmp_path):
    assert "this one is list" in problem(tmp_path, "- a\n")
    path = tmp_path / "latin.yaml"
    path.write_bytes("model: {base_model: é}".encode("latin-1"))
    with pytest.raises(ConfigError, match="cannot be read as UTF-8"):
        load_config(path)


def test_the_new_workspaces_file_writes_out_the_default_preset(tmp_path):
    config = load_config(written(tmp_path, settings_file("smollm2")))
    assert list(config.strategies) == default_strategies()


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


@pytest.mark.variants
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {}\na: !foo 1\n", "line 2: could not determine a constructor for the tag '!foo'"),
        ("? [a]\n: 1\n", "line 1: found unhashable key"),
        ("x: 1\ny: &a [*a]\n", "line 2: not valid YAML: *alias in its own &anchor"),
        ("y: &a {b: *a}\n", "line 1: not valid YAML: *alias in its own &anchor"),
        ("a: 1\nb: 2024-13-45\n", "line 2: not valid YAML: '2024-13-45' is no timestamp; put"),
        ("a: !!bool foo\n", "line 1: not valid YAML: 'foo' is no bool"),
        ("a: " + "[" * 5000 + "]" * 5000 + "\n", "nested too deeply"),
        ("1: 2\n", "line 1: 1: Keys should be strings"),
    ],
)
def test_yaml_that_is_no_settings_is_one_message(tmp_path, text, message):
    path = str(tmp_path / "factory.yaml")
    found = problem(tmp_path, text)
    assert found.startswith(path)
    assert message in found


def test_a_change_that_is_no_yaml_is_refused(tmp_path):
    assert "not valid YAML" in problem(tmp_path, "", "training.epochs=2024-13-45")


def test_merged_sections_are_read_as_before(tmp_path):
    text = "training: &t {epochs: 2}\nevaluation: {}\n"
    assert load_config(written(tmp_path, text)).training.epochs == 2
    text = "model: {adapter: {<<: {type: lora, rank: 8}, rank: 4}}\n"
    assert load_config(written(tmp_path, text)).model.adapter.rank == 4
