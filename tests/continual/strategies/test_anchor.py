import json
import logging

import pytest

from llama_factory.continual.strategies.anchor import Anchor
from llama_factory.core.errors import ConfigError
from llama_factory.core.types import Memory


def written(path, *answers):
    rows = [{"instruction": "你好?", "output": answer} for answer in answers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_built_in_anchor_is_there_in_every_round():
    (source,) = Anchor(fraction=0.1, weight=0.2).sources(Memory())
    assert (source.name, source.share, source.weight, len(source.rows)) == ("anchor", 0.1, 0.2, 120)


def test_whole_answers_count_unless_it_is_told_how_much_of_them():
    (whole,) = Anchor().sources(Memory())
    (cut,) = Anchor(answer_tokens=32).sources(Memory())
    assert (whole.max_trained, cut.max_trained) == (None, 32)


def test_a_file_that_is_missing_or_empty_is_told(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        Anchor(dataset=tmp_path / "x.jsonl").sources(Memory())
    with pytest.raises(ConfigError, match="holds no usable row"):
        Anchor(dataset=written(tmp_path / "y.jsonl", "")).sources(Memory())


def test_general_rows_that_changed_since_the_parent_version_are_told(tmp_path, caplog):
    same = Anchor(dataset=written(tmp_path / "a.jsonl", "一", "二"))
    memory = same.after_round(None, (), Memory(), None, seed=0)
    assert memory.rows == {}
    turned = Anchor(dataset=written(tmp_path / "b.jsonl", "二", "一"))
    other = Anchor(dataset=written(tmp_path / "c.jsonl", "一", "三"))
    with caplog.at_level(logging.WARNING):
        turned.sources(memory)
        assert caplog.text == ""
        other.sources(memory)
    assert "the general rows are not those of the parent version" in caplog.text
