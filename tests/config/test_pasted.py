"""A pasted settings file: what each key came to, and what a hostile one comes to."""

import time

import pytest

from llama_factory.config.pasted import LONGEST, read_pasted
from llama_factory.config.schema import RunConfig
from llama_factory.core.errors import ConfigError

THEIRS = """\
### model
model_name_or_path: smollm2
trust_remote_code: true
finetuning_type: lora
lora_rank: 8
lora_rnak: 4
dataset: identity
cutoff_len: 2048
plot_loss: true
deepspeed: ds_z3_config.json
output_dir: saves/x
learning_rate: 1.0e-4
num_train_epochs: 2.0
adapter_name_or_path:
plugins: [./evil.py]
"""


@pytest.fixture(scope="module")
def keys():
    return {each.name: each for each in read_pasted(THEIRS).keys}


def test_each_key_says_what_it_became(keys):
    rank = keys["lora_rank"]
    assert (rank.line, rank.outcome) == (5, "used")
    assert rank.settings == ("model.adapter.rank: 8",)
    assert keys["cutoff_len"].remark.startswith("Longer conversations lose their oldest")
    assert list(keys) == [line.partition(":")[0] for line in THEIRS.splitlines()[1:]]


def test_what_is_ignored_says_why(keys):
    assert (keys["plot_loss"].outcome, keys["plot_loss"].remark) == (
        "ignored",
        "training_loss.png is always drawn.",
    )
    assert keys["output_dir"].outcome == "ignored"
    assert keys["adapter_name_or_path"].remark == "it is empty"


def test_unknown_and_unsupported_keys_are_refused_with_advice(keys):
    assert keys["lora_rnak"].remark == "no such key. Did you mean 'lora_rank'?"
    assert keys["deepspeed"].settings == ("training.parallel.type: fsdp",)
    assert keys["plugins"].outcome == "refused"
    assert "would be run" in keys["plugins"].remark


def test_its_settings_and_the_defaults_of_the_other_program_are_taken():
    pasted = read_pasted(THEIRS)
    config = RunConfig.model_validate(pasted.values)
    assert pasted.is_flat
    assert (config.training.epochs, config.training.learning_rate) == (2.0, 1e-4)
    assert (config.output_dir, config.plugins) == (None, [])
    assert "training.warmup_fraction: 0.0" in pasted.defaults


def test_sections_are_read_too():
    pasted = read_pasted("model:\n  lora_rank: 4\nserving:\n  port: 1\nmodle: {}\n")
    found = {each.name: (each.outcome, each.remark) for each in pasted.keys}
    assert pasted.values == {"model": {"adapter": {"type": "lora", "rank": 4}}}
    assert found["serving"] == ("ignored", "a single run does not follow it")
    assert found["modle"][0] == "refused"


def test_a_plugin_is_never_run(tmp_path):
    mark = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(mark)!r}, 'w')")
    read_pasted(f"plugins: ['{tmp_path}/evil.py']\nmodel: {{base_model: x}}\n")
    assert not mark.exists()


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, r"line 2: \*a stands for something"),
        ("a: &a [*a]", r"\*a stands for"),
        ("x: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("x: " + "[" * 5000, "nested too deeply"),
        ("x: y\n" * LONGEST, "are no settings file"),
        ("- a\n- b\n", "this one is list"),
        ("a: 1\na: 2\n", "'a' is given twice"),
        ("a: [", "not valid YAML"),
        ("a: 2024-99-99", "is no timestamp"),
    ],
)
def test_hostile_and_broken_texts_are_refused_at_once(text, words):
    begun = time.process_time()
    with pytest.raises(ConfigError, match=words):
        read_pasted(text)
    assert time.process_time() - begun < 5  # a bomb would take hours


@pytest.mark.parametrize("text", ["", "# nothing\n", "null", "{}"])
def test_nothing_is_no_problem(text):
    assert read_pasted(text).keys == ()


def test_what_no_page_gives_is_said_to_be_left_out():
    theirs = read_pasted("model_name_or_path: x\ntrust_remote_code: true\n")
    assert theirs.keys[1].outcome == "refused"
    assert "trust_remote_code" not in theirs.values["model"]
    off = read_pasted("model_name_or_path: x\ntrust_remote_code: false\n")
    assert off.keys[1].outcome == "ignored"
    own = read_pasted(
        "data: {keep_rows: false, max_tokens: 99}\ntraining: {checkpoint_mirror: x}\n"
    )
    assert own.values == {"data": {"max_tokens": 99}, "training": {}}
    assert [(each.name, each.outcome) for each in own.keys] == [
        ("data", "used"),
        ("data.keep_rows", "ignored"),
        ("training", "used"),
        ("training.checkpoint_mirror", "refused"),
    ]
