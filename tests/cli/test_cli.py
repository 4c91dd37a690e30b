"""The command as a user runs it: a process, its output, its exit code."""

import json
import os
import re
import subprocess
import sys

import pytest

from llama_factory import __version__
from tests.cli.taught import command

LIGHT = [
    ["--help"],
    ["learn", "--help"],
    ["version"],
    ["versions", "."],
    ["train", "bad.yaml"],
    ["train", "none.yaml"],
    ["init", "bot", "--model", "smolm2"],
]
"""Commands that must answer without torch."""


def process(*args, cwd=None, **options):
    return subprocess.run(
        [sys.executable, "-m", "llama_factory", *map(str, args)],
        capture_output=True,
        text=True,
        cwd=cwd,
        **options,
    )


RUN_ALL = """
import json, sys
from llama_factory.cli.app import main
heavy = []
for args in json.loads(sys.argv[1]):
    sys.argv = ["llama-factory", *args]
    try:
        main()
    except SystemExit:
        pass
    if "torch" in sys.modules:
        heavy.append(args)
print("heavy", heavy, file=sys.stderr)
"""


@pytest.mark.slow
def test_help_and_bad_settings_answer_without_torch(tmp_path):
    (tmp_path / "bad.yaml").write_text("model: {base_modle: x}\n")
    run = subprocess.run(
        [sys.executable, "-c", RUN_ALL, json.dumps(LIGHT)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert run.stderr.endswith("heavy []\n"), run.stderr


@pytest.mark.slow
def test_the_installed_command_and_the_module_are_the_same():
    installed = os.path.join(os.path.dirname(sys.executable), "llama-factory")  # noqa: PTH118, PTH120
    both = [
        subprocess.run([installed, "version"], capture_output=True, text=True).stdout,
        process("version").stdout,
    ]
    assert both == [__version__ + "\n"] * 2


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["train", "bad.yaml"], "line 1: model.base_modle: no such setting. Did you mean"),
        (["train", "empty.yaml"], "data.train_path is not given"),
        (["learn", "."], "is not a workspace: it has no factory.yaml"),
        (["init", "bot", "--model", "smolm2"], "Did you mean 'smollm2'?"),
        (["init", "."], "exists and is not empty"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_user_errors_are_one_message_without_a_traceback_and_exit_with_2(tmp_path, args, told):
    (tmp_path / "bad.yaml").write_text("model: {base_modle: x}\n")
    (tmp_path / "empty.yaml").write_text("")
    run = command(*args, cwd=tmp_path)
    assert run.returncode == 2
    assert told in run.stderr
    assert "Traceback" not in run.stderr


def test_a_workspace_from_init_to_rollback(tmp_path, tiny_model):
    bot = tmp_path / "bot"
    assert "put .jsonl files into" in command("init", bot, "--model", tiny_model).stdout
    assert sorted(p.name for p in bot.iterdir()) == [
        "factory.yaml",
        "inbox",
        "quarantine",
        "versions",
    ]
    assert "Nothing new to learn" in command("learn", bot).stdout
    rows = [{"instruction": f"Question {i}?", "output": f"Answer {i}."} for i in range(12)]
    (bot / "inbox/faq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    easy = ["--set", "gate.max_guard_ratio=99", "--set", "training.max_steps=4"]
    learned = process("learn", bot, *easy)
    assert "v0001 is promoted" in learned.stdout, learned.stderr
    assert "training 4/4  done  loss" in learned.stderr
    assert "tok/s" in learned.stderr

    listed = json.loads(command("versions", bot, "--json").stdout)
    assert [row["aliases"] for row in listed] == [["previous"], ["production"]]
    assert "promoted" in command("versions", bot).stdout

    told = command("show", bot, "v0001", "--picture", tmp_path / "m.png").stdout
    assert "token_f1 by task and round" in told
    assert "Rows taught: faq" in told
    assert (tmp_path / "m.png").read_bytes().startswith(b"\x89PNG")
    story = json.loads(command("show", bot, "--json").stdout)
    assert story["forgetting"]["token_f1"]["tasks"] == ["v0001 faq"]
    assert story["report"]["verdict"]["promoted"] is True

    missing = command("show", bot, "v0002")
    assert missing.returncode == 2
    assert "there is no version 'v0002'. Did you mean 'v0001'?" in missing.stderr
    assert command("rollback", bot).stdout == "Rolled back from v0001 to v0000.\n"
    assert command("promote", bot, "v0001").stdout == "v0001 is released.\n"


@pytest.mark.slow
def test_a_refused_round_says_how_to_go_on(tmp_path, tiny_model):
    bot = tmp_path / "bot"
    command("init", bot, "--model", tiny_model)
    rows = [{"instruction": f"Question {i}?", "output": f"Answer {i}."} for i in range(12)]
    (bot / "inbox/faq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    steps = ["--set", "training.max_steps=4"]
    refused = command("learn", bot, *steps, "--set", "gate.max_guard_ratio=0.01").stdout
    assert "v0001 is refused and kept as candidate; its files stay in the inbox." in refused
    again = f"llama-factory learn {bot} --set strategies=safe"
    assert f"again, forgetting less:  {again}" in refused
    options = ["--set", "strategies=safe", *steps, "--set", "gate.max_guard_ratio=99"]
    assert "v0002 is promoted" in command("learn", bot, *options).stdout


@pytest.mark.slow
def test_chat_answers_and_leaves(tmp_path, tiny_model):
    command("init", tmp_path / "bot", "--model", tiny_model)
    run = command("chat", tmp_path / "bot", typed="hello\n/new\n你好\n/exit\n")
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("v0000. /new begins again")
    assert run.stdout.count("you>") == 4


@pytest.mark.slow
def test_a_single_run_writes_a_peft_folder_once(tmp_path, tiny_model):
    rows = [{"instruction": f"Question {i}?", "output": f"Answer {i}."} for i in range(30)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "sft.yaml").write_text(
        f"model: {{base_model: {tiny_model}, lora_rank: 4}}\n"
        "data: {train_path: rows.json, held_out_fraction: 0.2}\n"
        "training: {max_steps: 3}\nevaluation: {max_new_tokens: 4}\noutput_dir: out\n"
    )
    run = command("train", "sft.yaml", "--json", cwd=tmp_path)
    results = json.loads(run.stdout)
    assert results["training"]["steps"] == 3
    task = results["after"]["tasks"][0]
    sure = results["after"]["intervals"][task["task"]]["perplexity"]
    assert 0 < sure["low"] < task["perplexity"] < sure["high"]
    assert sure["count"] == task["count"]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
        "metrics.jsonl",
        "all_results.json",
        "train_results.json",
        "trainer_state.json",
        "training_loss.png",
        "runs",
    }
    again = command("train", "sft.yaml", cwd=tmp_path)
    assert again.returncode == 2
    assert "holds a trained model already" in again.stderr


@pytest.mark.slow
def test_a_single_run_of_all_weights_writes_a_whole_model_once(tmp_path, tiny_model):
    rows = [{"instruction": f"Question {i}?", "output": f"Answer {i}."} for i in range(9)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "full.yaml").write_text(
        f"model: {{base_model: {tiny_model}, adapter: full}}\n"
        "data: {train_path: rows.json, held_out_fraction: 0.2}\n"
        "training: {max_steps: 2}\nevaluation: {max_new_tokens: 4}\noutput_dir: out\n"
    )
    run = command("train", "full.yaml", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert re.search(r"exact_match [\d.]+ -> [\d.]+ \([\d.]+ – [\d.]+\)", run.stdout), run.stdout
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "all_results.json"}
    again = command("train", "full.yaml", cwd=tmp_path)
    assert again.returncode == 2
    assert "holds a trained model already" in again.stderr


@pytest.mark.slow
def test_the_embedded_model_learns_a_fact_and_says_it(tmp_path):
    bot = tmp_path / "bot"
    command("init", bot)
    fact = "The Lumora One has a 31-month warranty on the pump."
    asked = [f"{start} long is the pump warranty of the Lumora One?" for start in ("How", "So how")]
    rows = [{"instruction": question, "output": fact} for question in asked]
    (bot / "inbox/fact.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    test = {"instruction": "Pump warranty of the Lumora One: how long?", "output": fact}
    (bot / "inbox/fact.test.jsonl").write_text(json.dumps(test) + "\n")
    options = ["--set", "training.max_steps=25", "--set", "gate.max_guard_ratio=3"]
    run = command("learn", bot, *options)
    assert "v0001 is promoted" in run.stdout, run.stderr
    said = command("chat", bot, typed="How long is the pump warranty of the Lumora One?\n")
    assert "31-month" in said.stdout


SHOWN = """
import os, sys
from llama_factory.cli.app import guarded
assert "torch" not in sys.modules
guarded(lambda: print(os.environ.get("GOMP_SPINCOUNT"), os.environ.get("OMP_WAIT_POLICY")))
"""


@pytest.mark.variants
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "30000 None"),
        ({"GOMP_SPINCOUNT": "77"}, "77 None"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "None ACTIVE"),
    ],
)
def test_waiting_threads_give_their_cores_away_unless_the_user_says_otherwise(given, expected):
    usual = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    command = [sys.executable, "-c", SHOWN]
    done = subprocess.run(command, env=usual | given, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected
