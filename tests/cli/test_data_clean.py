"""`data check` and `data clean` as a user runs them."""

import json

import pytest
from typer.testing import CliRunner

from llama_factory.cli.app import app
from llama_factory.core.errors import ConfigError

GOOD = {"instruction": "How long is the warranty of the pump?", "output": "31 months."}
ROWS = [
    GOOD,
    GOOD,
    {"instruction": "Whom do I call?", "output": "Call 13812345678."},
    {"instruction": "Is that all?", "output": "N/A"},
    {"instuction": "x", "output": "y"},
]


@pytest.fixture
def faq(tmp_path):
    path = tmp_path / "faq.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLAMA_FACTORY_CACHE", str(tmp_path / "cache"))


def command(*args):
    return CliRunner().invoke(app, ["data", *map(str, args)])


def test_check_shows_a_table_and_an_example_of_everything(faq):
    run = command("check", faq)
    assert run.exit_code == 0, run.stderr
    told = " ".join(run.stdout.split())
    assert "│ faq │ faq.jsonl │ 5 │ 2 │ 2 │ 1 │" in told
    assert "changed 1 rows by private_data" in told
    assert "+ Whom do I call?⏎Call [PHONE]." in told
    assert "dropped 1 rows: twice in this round" in told
    assert "faq.jsonl:5: fields instuction, output are no known layout" in told
    assert "Did you mean 'instruction'?" in told


def test_check_prints_json_for_programs_and_writes_nothing(faq):
    run = command("check", faq, "--json")
    report = json.loads(run.stdout)
    assert report["kept"] == {"faq": 2}
    assert report["num_refused"] == 1
    assert {path.name for path in faq.parent.iterdir()} == {"faq.jsonl", "cache"}


def test_strict_fails_where_a_row_is_refused(faq):
    assert command("check", faq, "--strict").exit_code == 1


def test_settings_and_changes_choose_the_steps(faq):
    settings = faq.parent / "factory.yaml"
    settings.write_text("data: {cleaning: [empty]}\n")
    report = json.loads(command("check", faq, "--settings", settings, "--json").stdout)
    assert report["changed"] == {}
    change = "data.cleaning=[{type: private_data, kinds: {phone: drop}}]"
    report = json.loads(command("check", faq, "--set", change, "--json").stdout)
    assert report["dropped"]["private data (phone)"] == 1


def test_a_dataset_info_beside_the_files_says_how_they_are_laid_out(tmp_path):
    (tmp_path / "odd.json").write_text(json.dumps([{"q": "Why?", "a": "Because it rains."}]))
    info = {"odd": {"file_name": "odd.json", "columns": {"prompt": "q", "response": "a"}}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    report = json.loads(command("check", tmp_path, "--json").stdout)
    assert report["kept"] == {"odd": 1}


def test_clean_writes_the_rows_and_never_over_something(faq):
    run = command("clean", faq, "clean")
    assert "2 rows to teach and 0 to test: clean" in run.stdout
    folder = faq.parent / "clean"
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    assert [row["messages"][1]["content"] for row in rows] == ["31 months.", "Call [PHONE]."]
    assert len((folder / "refused.jsonl").read_text().splitlines()) == 1
    again = command("clean", faq, "clean")
    assert "exists and is not empty" in str(again.exception)


@pytest.mark.parametrize("args", [["check", "none.jsonl"], ["clean", "nothing/", "out"]])
def test_a_path_that_is_not_there_is_an_error_of_the_user(args):
    error = command(*args).exception
    assert isinstance(error, ConfigError)
    assert "does not exist" in str(error)


def test_fields_that_nothing_reads_are_told_by_name_and_count(tmp_path):
    (tmp_path / "reviews.csv").write_text(
        "text,label,id\nThe gate is open.,pos,1\nIt is shut.,neg,2\n"
    )
    told = " ".join(command("check", "reviews.csv").stdout.split())
    assert (
        "unread reviews.csv: nothing reads 'label' (2 rows). To teach one, call a question" in told
    )
    report = json.loads(command("check", "reviews.csv", "--json").stdout)
    assert report["sets"][0]["unread"] == {"label": 2}
