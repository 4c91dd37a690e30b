"""`data augment` as a user sees it."""

import json

import pytest
import typer
from typer.testing import CliRunner

from llama_factory.cli.data import augment
from llama_factory.core.errors import ConfigError, DataError
from llama_factory.core.types import Example
from llama_factory.data.reading import read_examples

app = typer.Typer()
app.command()(augment)
ROWS = [
    {"instruction": "How do I quickly repair a large error?", "output": "A large error."},
    {"instruction": "请说明一个非常重要的问题。", "output": "非常重要的问题。"},
    {"instruction": "42", "output": "a number"},
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "faq.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    path.write_text("\n".join([*lines[:2], '{"instruction": "broken', lines[2]]))
    return path


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def rows_in(path):
    return [Example.from_json(json.loads(line)) for line in path.read_text().splitlines()]


def test_rows_are_written_with_their_variants(file, tmp_path):
    told = run(file, tmp_path / "more.jsonl")
    assert told.exit_code == 0, told.output
    rows = rows_in(tmp_path / "more.jsonl")
    assert [row.augmented_by for row in rows].count("synonym_replacement") == 2
    originals = [row for row in rows if not row.augmented_by]
    assert originals == [row for row in read_examples(file) if isinstance(row, Example)]
    assert {row.answer for row in rows} == {row["output"] for row in ROWS}
    assert list(read_examples(tmp_path / "more.jsonl")) == rows


def test_counts_samples_and_refused_rows_are_told(file, tmp_path):
    told = run(file, tmp_path / "more.jsonl", "--method", "typo", "--copies", 2).output
    assert "3 rows became 7" in told
    assert "typo 4 of 6 possible" in told
    assert "- How do I quickly repair a large error?" in told
    assert "- 请说明一个非常重要的问题。" in told
    assert "refused 1 rows" in told
    assert "faq.jsonl:3" in told


def test_json_is_for_programs(file, tmp_path):
    told = run(file, tmp_path / "more.jsonl", "--method", "typo", "--json").output
    values = json.loads(told)
    assert values["num_rows"] == 3
    assert values["added"] == {"typo": 2}
    assert values["refused"][0]["line"] == 3
    assert values["samples"][0]["before"] == ROWS[0]["instruction"]


def test_the_same_seed_writes_the_same_bytes(file, tmp_path):
    def written(name, seed):
        run(file, tmp_path / name, "--method", "typo", "--seed", seed)
        return (tmp_path / name).read_bytes()

    assert written("a.jsonl", 1) == written("b.jsonl", 1)
    assert written("a2.jsonl", 1) != written("c.jsonl", 2)


def test_a_dictionary_can_be_given(file, tmp_path):
    (tmp_path / "s.txt").write_text("repair xyzzy\n")
    run(file, tmp_path / "more.jsonl", "--synonyms", tmp_path / "s.txt")
    made = [row for row in rows_in(tmp_path / "more.jsonl") if row.augmented_by]
    assert [row.messages[0].content for row in made] == ["How do I quickly xyzzy a large error?"]


def test_the_rate_holds_for_every_method(file, tmp_path):
    told = run(file, tmp_path / "more.jsonl", "--method", "typo", "--rate", 0, "--json")
    assert json.loads(told.output)["added"] == {"typo": 0}


def test_a_file_that_is_there_is_replaced_only_when_asked(file, tmp_path):
    output = tmp_path / "more.jsonl"
    output.write_text("mine")
    refused = run(file, output)
    assert isinstance(refused.exception, DataError)
    assert "more.jsonl exists already" in str(refused.exception)
    assert output.read_text() == "mine"
    assert run(file, output, "--overwrite").exit_code == 0
    assert len(rows_in(output)) == 5


def test_nothing_is_left_where_no_row_can_be_read(tmp_path):
    (tmp_path / "bad.jsonl").write_text("{}\n")
    told = run(tmp_path / "bad.jsonl", tmp_path / "more.jsonl")
    assert "none of 1 rows can be read; nothing was written" in str(told.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"]


def test_a_file_that_is_not_there_names_the_nearest(file, tmp_path):
    told = run(tmp_path / "fag.jsonl", tmp_path / "more.jsonl")
    assert isinstance(told.exception, DataError)
    assert "fag.jsonl is no file. Did you mean 'faq.jsonl'?" in str(told.exception)


def test_an_unknown_method_names_the_nearest(file, tmp_path):
    told = run(file, tmp_path / "more.jsonl", "--method", "tipo")
    assert isinstance(told.exception, ConfigError)
    assert "'tipo' is not a method of augmentation. Did you mean 'typo'?" in str(told.exception)


def test_rows_for_testing_are_never_augmented(file, tmp_path):
    held = file.rename(tmp_path / "faq.test.jsonl")
    told = run(held, tmp_path / "more.jsonl")
    assert "holds rows for testing; these are never augmented" in str(told.exception)
