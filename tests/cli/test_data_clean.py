"""`data check` and `data clean` as a user runs them."""

import json
import os
import subprocess
import sys

import pytest

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


def command(*args, cwd):
    env = os.environ | {"LLAMA_FACTORY_CACHE": str(cwd / "cache")}
    words = [sys.executable, "-m", "llama_factory", "data", *map(str, args)]
    return subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=env)


def test_check_shows_a_table_and_an_example_of_everything(faq):
    run = command("check", faq, cwd=faq.parent)
    assert run.returncode == 0, run.stderr
    told = " ".join(run.stdout.split())
    assert "│ faq │ faq.jsonl │ 5 │ 2 │ 2 │ 1 │" in told
    assert "changed 1 rows by private_data" in told
    assert "+ Whom do I call?⏎Call [PHONE]." in told
    assert "dropped 1 rows: twice in this round" in told
    assert "faq.jsonl:5: fields instuction, output are no known layout" in told
    assert "Did you mean 'instruction'?" in told


def test_check_prints_json_for_programs_and_writes_nothing(faq):
    run = command("check", faq, "--json", cwd=faq.parent)
    report = json.loads(run.stdout)
    assert report["kept"] == {"faq": 2}
    assert report["num_refused"] == 1
    assert {path.name for path in faq.parent.iterdir()} == {"faq.jsonl", "cache"}


def test_strict_fails_where_a_row_is_refused(faq):
    assert command("check", faq, "--strict", cwd=faq.parent).returncode == 1


def test_settings_and_changes_choose_the_steps(faq):
    settings = faq.parent / "factory.yaml"
    settings.write_text("data: {cleaning: [empty]}\n")
    report = json.loads(
        command("check", faq, "--settings", settings, "--json", cwd=faq.parent).stdout
    )
    assert report["changed"] == {}
    change = "data.cleaning=[{type: private_data, kinds: {phone: drop}}]"
    report = json.loads(command("check", faq, "--set", change, "--json", cwd=faq.parent).stdout)
    assert report["dropped"]["private data (phone)"] == 1


def test_a_dataset_info_beside_the_files_says_how_they_are_laid_out(tmp_path):
    (tmp_path / "odd.json").write_text(json.dumps([{"q": "Why?", "a": "Because it rains."}]))
    info = {"odd": {"file_name": "odd.json", "columns": {"prompt": "q", "response": "a"}}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    report = json.loads(command("check", tmp_path, "--json", cwd=tmp_path).stdout)
    assert report["kept"] == {"odd": 1}


def test_clean_writes_the_rows_and_never_over_something(faq):
    run = command("clean", faq, "clean", cwd=faq.parent)
    assert "2 rows to teach and 0 to test: clean" in run.stdout
    folder = faq.parent / "clean"
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    assert [row["messages"][1]["content"] for row in rows] == ["31 months.", "Call [PHONE]."]
    assert len((folder / "refused.jsonl").read_text().splitlines()) == 1
    again = command("clean", faq, "clean", cwd=faq.parent)
    assert again.returncode == 2
    assert "exists and is not empty" in again.stderr


@pytest.mark.parametrize("args", [["check", "none.jsonl"], ["clean", "nothing/", "out"]])
def test_a_path_that_is_not_there_is_one_message(faq, args):
    run = command(*args, cwd=faq.parent)
    assert run.returncode == 2
    assert "does not exist" in run.stderr
    assert "Traceback" not in run.stderr


def test_checking_loads_no_torch(faq):
    seen = "import sys\nfrom llama_factory.cli.app import main\ntry:\n    main()\n"
    seen += "finally:\n    print('heavy', 'torch' in sys.modules, file=sys.stderr)\n"
    words = [sys.executable, "-c", seen, "data", "check", str(faq)]
    run = subprocess.run(words, capture_output=True, text=True, cwd=faq.parent)
    assert "heavy False" in run.stderr


def test_fields_that_nothing_reads_are_told_by_name_and_count(tmp_path):
    (tmp_path / "reviews.csv").write_text(
        "text,label,id\nThe gate is open.,pos,1\nIt is shut.,neg,2\n"
    )
    told = " ".join(command("check", "reviews.csv", cwd=tmp_path).stdout.split())
    assert (
        "unread reviews.csv: nothing reads 'label' (2 rows). To teach one, call a question" in told
    )
    report = json.loads(command("check", "reviews.csv", "--json", cwd=tmp_path).stdout)
    assert report["sets"][0]["unread"] == {"label": 2}
