"""Files of rows with their variants: whole or absent, and never all in memory."""

import json

import pytest

from llama_factory.core.errors import DataError
from llama_factory.core.types import TEXT, Example, Message
from llama_factory.data.augment import AugmentPlan, parse_methods
from llama_factory.data.augment.augmented_files import MOST_REFUSED, write_augmented
from llama_factory.data.readers import Refused

TYPO = AugmentPlan(parse_methods(["typo"]))


def row(question, line=1, **fields):
    turns = (Message("user", question), Message("assistant", "Answer."))
    return Example(turns, "faq", "faq.jsonl", line, **fields)


def written(path):
    return [Example.from_json(json.loads(line)) for line in path.read_text("utf-8").splitlines()]


def test_each_row_comes_before_its_variants(tmp_path):
    plan = AugmentPlan(parse_methods(["typo", "punctuation"]), num_copies=2)
    rows = [row("Where is the form, please?", 1), row("表格在哪里？", 2)]
    report = write_augmented(rows, tmp_path / "out.jsonl", plan)
    made = written(tmp_path / "out.jsonl")
    assert [each for each in made if not each.augmented_by] == rows
    assert [each.line for each in made] == sorted(each.line for each in made)
    assert report.num_rows == 2
    assert report.added.total() == len(made) - 2
    assert {each.answer for each in made} == {"Answer."}


def test_rows_that_are_augmented_already_are_copied(tmp_path):
    old = row("Where is the form?", augmented_by="random_swap")
    report = write_augmented([old], tmp_path / "out.jsonl", TYPO)
    assert written(tmp_path / "out.jsonl") == [old]
    assert report.added == {"typo": 0}


def test_plain_text_is_copied(tmp_path):
    text = Example((Message(TEXT, "A long text to learn from."),), "docs", "docs.txt", 1)
    report = write_augmented([text], tmp_path / "out.jsonl", TYPO)
    assert written(tmp_path / "out.jsonl") == [text]
    assert report.added.total() == 0


def test_half_a_character_stays_what_it_is(tmp_path):
    odd = row("What is \ud800 this?")
    write_augmented([odd], tmp_path / "out.jsonl", TYPO)
    assert written(tmp_path / "out.jsonl")[0] == odd


def test_a_file_that_breaks_half_way_leaves_nothing(tmp_path):
    def rows():
        yield from (row(f"Question number {n}?", n) for n in range(1, 1000))
        raise DataError("the disk is gone")

    with pytest.raises(DataError, match="the disk is gone"):
        write_augmented(rows(), tmp_path / "out.jsonl", TYPO)
    assert list(tmp_path.iterdir()) == []


def test_rows_are_read_as_they_are_written(tmp_path):
    apart = []
    read = 0

    def rows():
        nonlocal read
        for n in range(1, 2001):
            read += 1
            yield row(f"Question number {n}?", n)

    def advance():
        apart.append(read)

    write_augmented(rows(), tmp_path / "out.jsonl", TYPO, advance=advance)
    assert len(apart) == 2000
    assert max(seen - place for place, seen in enumerate(apart, 1)) < 300


def test_all_refused_rows_are_counted_and_the_first_ones_kept(tmp_path):
    bad = [Refused("faq.jsonl", n, "'output' is empty.") for n in range(2, 302)]
    report = write_augmented([row("Where?"), *bad], tmp_path / "out.jsonl", TYPO)
    assert (report.num_refused, len(report.refused)) == (300, MOST_REFUSED)
    assert report.to_json()["refused"][0] == {
        "file": "faq.jsonl",
        "line": 2,
        "reason": "'output' is empty.",
    }


def test_samples_come_from_different_rows_and_methods(tmp_path):
    plan = AugmentPlan(parse_methods(["typo", "random_swap"]))
    rows = [row(f"Where is form number {word}?") for word in ("one", "two", "six", "ten")]
    report = write_augmented(rows, tmp_path / "out.jsonl", plan)
    assert [each.before for each in report.samples] == [r.messages[0].content for r in rows[:3]]
    assert {each.method for each in report.samples} == {"typo", "random_swap"}
