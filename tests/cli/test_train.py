"""`llama-factory train`: its words, `--explain`, and running again into the same folder."""

import json

import pytest

from llama_factory import run
from llama_factory.cli.terminal import TerminalProgress
from llama_factory.core.errors import ConfigError
from llama_factory.core.progress import SILENT
from tests.cli.taught import invoke

FLAT = "model_name_or_path: tiny\ntemplate: qwen\ndataset: 身份\nlora_rank: 4\n"


def test_explain_counts_the_processes_that_will_be_started(tmp_path, monkeypatch):
    (tmp_path / "flat.yaml").write_text(FLAT, encoding="utf-8")
    for name, value in {"NNODES": "2", "NPROC_PER_NODE": "1", "API_PORT": ""}.items():
        monkeypatch.setenv(name, value)
    words = ("--per_device_train_batch_size", "3", "--explain")
    printed = invoke("train", tmp_path / "flat.yaml", *words)
    assert "batch_size: 6" in printed
    assert "x 2 processes" in printed


@pytest.mark.slow
def test_overwriting_runs_again_where_a_run_is_finished(tmp_path, tiny_model):
    rows = [{"instruction": f"问题 {number}？", "output": "好的。"} for number in range(4)]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    said = [
        f"model_name_or_path={tiny_model}",
        f"data_path={tmp_path / 'rows.json'}",
        f"output_dir={tmp_path / 'out'}",
        "preprocessing_num_workers=1",
    ]
    first = run.train(None, [*said, "max_steps=1"], SILENT).results
    with pytest.raises(ConfigError, match="holds a trained model already"):
        run.train(None, [*said, "max_steps=2"], SILENT)
    again = run.train(None, [*said, "max_steps=2", "overwrite_output_dir=true"], SILENT).results
    assert (first["training"]["steps"], again["training"]["steps"]) == (1, 2)
    assert (tmp_path / "out/adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_fields_that_nothing_reads_are_told(tmp_path, tiny_model, capsys):
    rows = [
        {"instruction": f"问题 {number}？", "output": "好的。", "context": "店"}
        for number in range(4)
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    said = [f"model_name_or_path={tiny_model}", f"data_path={tmp_path / 'rows.json'}"]
    said += [f"output_dir={tmp_path / 'out'}", "preprocessing_num_workers=1", "max_steps=1"]
    run.train(None, said, TerminalProgress())
    told = " ".join(capsys.readouterr().err.split())
    assert "Unread: rows.json: nothing reads 'context' (4 rows). To teach one, call" in told
