"""`data stats` as a user sees it."""

import json

import pytest
import typer
from typer.testing import CliRunner

from llama_factory.cli.data_views import stats
from llama_factory.core.errors import ConfigError

app = typer.Typer()
app.command()(stats)


@pytest.fixture
def folder(tmp_path):
    rows = [
        {"instruction": f"第{i}个问题是什么？", "output": "这是一个很好的回答，谢谢你的提问。"}
        for i in range(3)
    ]
    pets = [{"instruction": "Why?", "output": "Because the little cat likes it."}] * 2 + [{}]
    (tmp_path / "客服.json").write_text(json.dumps(rows, ensure_ascii=False))
    (tmp_path / "pets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pets))
    return tmp_path


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def test_a_folder_is_told_in_tables(folder):
    told = run(folder)
    assert told.exit_code == 0, told.output
    assert "5 rows, 1 (20.0%) exact duplicates, 1 (16.7%) refused" in told.output
    for word in ("客服", "pets", "zh", "en", "median", "chat", "turns", "refused"):
        assert word in told.output


def test_many_groups_are_told_as_the_largest_and_the_others(tmp_path):
    row = {"instruction": "Why?", "output": "So."}
    lines = [json.dumps(row | {"group": f"group {i}"}) for i in range(25)]
    (tmp_path / "many.jsonl").write_text("\n".join([*lines, lines[7]]))
    told = run(tmp_path).output
    assert "group 7 " in told
    assert "group 24" not in told
    assert "5 others" in told


def test_json_is_for_programs(folder):
    values = json.loads(run(folder, "--json").output)
    assert values["groups"] == {"客服": 3, "pets": 2}
    assert values["refused"]["rows"] == 1


@pytest.mark.slow
def test_a_picture_is_drawn(folder):
    told = run(folder / "pets.jsonl", "--picture", folder / "stats.png")
    assert told.output.endswith(f"Picture: {folder / 'stats.png'}\n")
    assert (folder / "stats.png").read_bytes().startswith(b"\x89PNG")


def test_a_broken_file_does_not_hide_the_others(folder):
    (folder / "bad.json").write_text('[{"instruction": "a"')
    told = run(folder, "--json")
    assert json.loads(told.output)["rows"] == 5
    assert json.loads(told.output)["refused"]["rows"] == 2


def test_a_path_that_is_not_there_names_the_nearest(folder):
    error = run(folder / "pet.jsonl").exception
    assert isinstance(error, ConfigError)
    assert "pet.jsonl' does not exist. Did you mean 'pets.jsonl'?" in str(error)


def test_a_folder_without_rows_says_so(tmp_path):
    error = run(tmp_path).exception
    assert isinstance(error, ConfigError)
    assert "holds no data file" in str(error)
