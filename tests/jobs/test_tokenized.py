"""`tokenized_path`: rows are written as tokens by one run and trained on by others."""

import pytest

from llama_factory import run
from llama_factory.core.errors import ConfigError
from llama_factory.jobs.tokenized import TokenizedRows
from tests.model.adapters.test_runs import write_rows
from tests.training.short_runs import Told


@pytest.fixture
def flat(tiny_model, tmp_path):
    write_rows(tmp_path / "rows.jsonl", "退货政策")
    return {
        "model_name_or_path": str(tiny_model),
        "cutoff_len": 64,
        "max_steps": 1,
        "report_to": "none",
        "tokenized_path": str(tmp_path / "tokens"),
        "output_dir": str(tmp_path / "out"),
    }


def test_the_first_run_writes_tokens_and_the_next_trains_on_them(flat, tmp_path, monkeypatch):
    said = []
    rows = {"data_path": str(tmp_path / "rows.jsonl")}
    done = run.train(flat | rows, [], Told(said)).results
    assert done["rows"] > 0
    assert said[-1].endswith("nothing was trained. Run the same again to train on them.")
    assert not (tmp_path / "out/adapter_model.safetensors").exists()
    monkeypatch.setattr("llama_factory.jobs.train.prepare_rows", prepare_rows_again)
    (tmp_path / "rows.jsonl").unlink()
    done = run.train(flat, [], Told(said)).results  # rows are named nowhere
    assert done["training"]["steps"] == 1
    assert (tmp_path / "out/adapter_model.safetensors").exists()
    assert TokenizedRows(tmp_path / "tokens").is_written


def prepare_rows_again(*args):
    raise AssertionError("the rows are there")


def test_a_folder_with_something_else_is_left_alone(flat, tmp_path):
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens/dataset_dict.json").write_text("{}")
    with pytest.raises(ConfigError, match="tokenized_path: .* holds something else"):
        run.train(flat | {"data_path": str(tmp_path / "rows.jsonl")})


def test_no_half_of_it_stays_where_there_is_no_row(flat, tmp_path):
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(Exception, match="holds no usable row"):
        run.train(flat | {"data_path": str(tmp_path / "rows.jsonl")})
    assert not (tmp_path / "tokens").exists()
