import os
import subprocess
import sys
from pathlib import Path

import pytest

from llama_factory.cli.options import read_words
from llama_factory.core.errors import ConfigError


@pytest.mark.parametrize(
    ("line", "path", "changes"),
    [
        ("sft.yaml", "sft.yaml", []),
        ("sft.yaml lora_rank=8 data.seed=6", "sft.yaml", ["lora_rank=8", "data.seed=6"]),
        ("--lora-rank 8 sft.yaml", "sft.yaml", ["lora_rank=8"]),
        ("--lora_rank=8 --do_train --fp16", None, ["lora_rank=8", "do_train=true", "fp16=true"]),
        ("--max_steps -1 --bf16 false", None, ["max_steps=-1", "bf16=false"]),
        ("--config a.yaml --training.seed 3", "a.yaml", ["training.seed=3"]),
        ("--data_path 数据/train.jsonl", None, ["data_path=数据/train.jsonl"]),
    ],
)  # fmt: skip
def test_words_are_a_file_and_changes_in_any_order(line, path, changes):
    said = read_words(line.split())
    assert said.path == (Path(path) if path else None)
    assert said.changes == changes


def test_a_file_may_have_an_equals_sign_in_its_name(tmp_path):
    path = tmp_path / "a=b.yaml"
    path.touch()
    assert read_words([str(path)]).path == path


def test_a_second_file_is_refused():
    with pytest.raises(ConfigError, match=r"'b.yaml' is neither a setting .* which is a.yaml"):
        read_words(["a.yaml", "b.yaml"])


SHOWN = """
import os, sys
from llama_factory.cli.app import guarded
assert "torch" not in sys.modules
guarded(lambda: print(os.environ.get("GOMP_SPINCOUNT"), os.environ.get("OMP_WAIT_POLICY")))
"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "1000 None"),
        ({"GOMP_SPINCOUNT": "77"}, "77 None"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "None ACTIVE"),
    ],
)
def test_waiting_threads_give_their_cores_away_unless_the_user_says_otherwise(given, expected):
    usual = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    command = [sys.executable, "-c", SHOWN]
    done = subprocess.run(command, env=usual | given, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected
