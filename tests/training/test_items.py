"""Rows of a run: what is cut, what is left out, how they are named."""

from llama_factory.core.types import Example, Message
from llama_factory.training.items import NEW, Encoding, RowRef, encode_all
from llama_factory.training.settings import TrainingSettings
from llama_factory.training.strategy import Protection
from tests.training.short_runs import SILENT, examples, fit, make


def test_what_is_cut_is_reported_before_the_training_and_in_its_report(tiny, tmp_path):
    turns = (Message("user", "Hi?"), Message("assistant", "word " * 200))
    rows = [*examples(3), Example(turns, "g", "f", 9)]
    heard, quiet = [], []
    done = fit(tiny, tmp_path / "a", rows=rows, max_steps=1, say=heard)
    (told,) = (line for line in heard if "Too long" in line)
    cut = done.to_json()["cut"]
    assert (cut["cut"], cut["shortened"]) == (1, 0)
    assert "of 4 rows, 1 without the end of an answer" in told
    assert f"{cut['tokens']} tokens in all" in told
    done = fit(tiny, tmp_path / "b", rows=examples(3), max_steps=1, say=quiet)
    assert done.to_json()["cut"] == {"shortened": 0, "cut": 0, "tokens": 0}
    assert not any("Too long" in line for line in quiet)


def test_rows_are_named_by_where_they_stand_even_where_others_are_left_out(tiny, tmp_path):
    long = Example((Message("user", "word " * 300), Message("assistant", "a")), "g", "f.jsonl", 99)
    some = [long, *examples(3), long]
    encoding = Encoding(make(tiny), TrainingSettings(), tmp_path)
    rows = encode_all(encoding, some, Protection(), SILENT)
    assert rows.places([RowRef(NEW, 2), RowRef(NEW, 0)]) == ["f.jsonl:0", "f.jsonl:2"]
