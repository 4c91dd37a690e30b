import json

import pytest
import typer
from typer.testing import CliRunner

from llama_factory.cli.data_views import preview
from llama_factory.core.errors import DataError, ModelError
from tests.tiny import END, START, make_tiny_model

app = typer.Typer()
app.command()(preview)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def file(tmp_path):
    rows = [
        {"instruction": "你好吗？", "output": "很好。"},
        {"instruction": "word " * 60, "output": "b"},
        {"messages": [{"role": "robot", "content": "a"}]},
        {"instruction": "Say it often.", "output": "often " * 60},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(*args):
    return CliRunner().invoke(app, list(map(str, args)), catch_exceptions=False)


def test_trained_text_is_marked_and_what_cannot_be_taught_says_why(file, tiny):
    shown = run(file, "--model", tiny, "--set", "data.max_tokens=64").stdout
    assert "rows.jsonl:1 " in shown
    assert f"{START}user\n你好吗？{END}\n{START}assistant\n⟦很好。{END}⟧" in shown
    assert "rows.jsonl:2 cannot be taught" in shown
    assert "its prompt fills all 64 tokens" in shown
    assert "rows.jsonl:3 cannot be taught" in shown
    assert "rows.jsonl:4  64 tokens" in shown
    assert "tokens are left out" in shown


def test_programs_get_lengths_and_pieces(file, tiny):
    (row,) = json.loads(run(file, "--model", tiny, "--rows", 1, "--json").stdout)
    assert (row["file"], row["line"], row["num_characters"]) == ("rows.jsonl", 1, 7)
    assert [piece["text"] for piece in row["pieces"] if piece["is_trained"]] == ["很好。", END]
    assert 0 < row["num_trained"] < row["num_tokens"]


def test_settings_change_what_is_trained(file, tiny):
    told = ["--json", "--rows", 1, "--set", "data.train_on_prompt=true"]
    (row,) = json.loads(run(file, "--model", tiny, *told).stdout)
    assert row["num_trained"] == row["num_tokens"] - 1


def test_wrong_names_are_told(file, tiny, tmp_path):
    with pytest.raises(ModelError, match="Did you mean 'smollm2'"):
        run(file, "--model", "smolm2")
    with pytest.raises(ModelError, match="Did you mean 'zephyr'"):
        run(file, "--model", tiny, "--template", "zefyr")
    with pytest.raises(DataError, match=r"none.jsonl"):
        run(tmp_path / "none.jsonl", "--model", tiny)
