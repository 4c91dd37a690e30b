"""What needs no model answers without torch, whose import takes seconds; all in one process."""

import json
import os
import subprocess
import sys

import pytest

FLAT = "model_name_or_path: tiny\ntemplate: qwen\ndataset: 身份\nlora_rank: 4\n"
RUN_ALL = """
import contextlib, io, json, sys
from llama_factory.cli.app import main
for words in json.load(sys.stdin):
    sys.argv[1:] = words
    out, code = io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            main()
        except SystemExit as error:
            code = error.code or 0
    print(json.dumps([code, out.getvalue(), "torch" in sys.modules]))
"""
COMMANDS = {
    "data check faq.jsonl": (0, "faq.jsonl"),
    "data stats faq.jsonl": (0, "1 rows"),
    "predict --help": (0, "--max-new-tokens"),
    "export a b --dtype float31": (2, "--dtype: 'float31' is no number format to export to. Did"),
    "train flat.yaml lora_rank=16 --learning_rate 2e-5 --explain": (0, "# --lora_rank 16"),
    "train flat.yaml --lora_rnk 16 --set cutoff_len=8": (2, "no such key. Did you mean 'lora_ra"),
    "evaluate bot --suite canary": (2, "there is no suite 'canary'"),
    "evaluate bot --suite wrong.yaml": (2, "wrong.yaml"),
    "evaluate sft.yml --folds 3": (2, "sft.yml: there is no such settings file"),
    "compare bot v9": (2, "v9"),
    "report bot v9": (2, "v9"),
}


@pytest.fixture(scope="module")
def answers(bot, tmp_path_factory):
    """By command: exit code, everything printed, and whether torch is loaded after it."""
    folder = tmp_path_factory.mktemp("light")
    (folder / "faq.jsonl").write_text('{"instruction": "How long?", "output": "31 months."}\n')
    (folder / "wrong.yaml").write_text("taks: []\n")
    (folder / "flat.yaml").write_text(FLAT, encoding="utf-8")
    (folder / "bot").symlink_to(bot)
    usual = {"NPROC_PER_NODE": "1", "LLAMA_FACTORY_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        input=json.dumps([command.split() for command in COMMANDS]),
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | usual,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(COMMANDS, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("command", COMMANDS)
def test_it_answers_without_torch_and_without_a_traceback(answers, command):
    code, printed, is_heavy = answers[command]
    expected, text = COMMANDS[command]
    assert (code, is_heavy) == (expected, False), printed
    assert text in printed
    assert "Traceback" not in printed


def test_explain_prints_what_the_file_and_the_words_come_to(answers):
    printed = answers["train flat.yaml lora_rank=16 --learning_rate 2e-5 --explain"][1]
    assert "dataset: [身份]" in printed
    assert "rank: 16" in printed
    assert "# --learning_rate 2e-5" in printed


def test_all_wrong_words_are_in_one_message(answers):
    printed = answers["train flat.yaml --lora_rnk 16 --set cutoff_len=8"][1]
    assert "--cutoff_len 8: must be greater than or equal to 16; it is 8." in printed
