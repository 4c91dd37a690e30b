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
