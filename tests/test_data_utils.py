"""`llama_factory.data_utils`: the lines that notebooks and articles use."""

import json
import subprocess
import sys

import datasets
import pytest

ROWS = [
    {
        "instruction": "How do I quickly repair a large error?",
        "input": "",
        "output": "A large error.",
    },
    {"instruction": "请说明一个非常重要的问题。", "input": "", "output": "非常重要的问题。"},
]


def test_the_lines_of_the_article_work(tmp_path, monkeypatch):
    from datasets import load_dataset

    from llama_factory.data_utils import DataAugmenter

    monkeypatch.chdir(tmp_path)
    (tmp_path / "synonyms.txt").write_text("large big huge\n重要 关键\n")
    (tmp_path / "train.json").write_text(json.dumps(ROWS, ensure_ascii=False))
    loaded = load_dataset("json", data_files="train.json", cache_dir=str(tmp_path / "cache"))
    augmenter = DataAugmenter(methods=["synonym_replacement"], synonym_dict="synonyms.txt")
    result = augmenter.process(loaded)
    assert isinstance(result, datasets.DatasetDict)
    assert result["train"]["output"][:] == [row["output"] for row in ROWS] * 2
    english, chinese = result["train"]["instruction"][2:]
    assert english in [f"How do I quickly repair a {word} error?" for word in ("big", "huge")]
    assert chinese == "请说明一个非常关键的问题。"


@pytest.mark.slow
def test_importing_is_light():
    code = """
import sys
import llama_factory.data_utils
heavy = {"torch", "transformers", "datasets", "pyarrow", "jieba", "pypinyin", "httpx"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_what_is_written_is_read_as_augmented(tmp_path):
    from llama_factory.data.reading import read_examples
    from llama_factory.data_utils import DataAugmenter

    path = tmp_path / "train.jsonl"
    rows = DataAugmenter(methods=["typo"]).process(ROWS)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    assert [row.augmented_by for row in read_examples(path)] == ["", "", "typo", "typo"]
