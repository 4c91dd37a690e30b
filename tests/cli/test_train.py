"""`llama-factory train`: its words, `--explain`, and running again into the same folder."""

import json
import os
import subprocess
import sys

import pytest

from llama_factory import run
from llama_factory.cli.terminal import TerminalProgress
from llama_factory.core.errors import ConfigError
from llama_factory.core.progress import SILENT

FLAT = "model_name_or_path: tiny\ntemplate: qwen\ndataset: 身份\nlora_rank: 4\n"
LOADED = """
import sys
from llama_factory.cli.app import main
try:
    main()
finally:
    print("heavy", "torch" in sys.modules, file=sys.stderr)
"""


@pytest.fixture
def train(tmp_path):
    (tmp_path / "flat.yaml").write_text(FLAT, encoding="utf-8")

    def run(*words):
        command = [sys.executable, "-c", LOADED, "train", *words]
        environment = os.environ | {"API_PORT": "", "NPROC_PER_NODE": "1"}
        return subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environment
        )

    return run


def test_explain_prints_what_the_file_and_the_words_come_to_without_torch(train):
    done = train("flat.yaml", "lora_rank=16", "--learning_rate", "2e-5", "--explain")
    assert done.returncode == 0, done.stderr
    assert "dataset: [身份]" in done.stdout
    assert "rank: 16" in done.stdout
    assert "# --lora_rank 16" in done.stdout
    assert "# --learning_rate 2e-5" in done.stdout
    assert "heavy False" in done.stderr


def test_explain_counts_the_processes_that_will_be_started(train, monkeypatch):
    monkeypatch.setenv("NNODES", "2")
    done = train("flat.yaml", "--per_device_train_batch_size", "3", "--explain")
    assert "batch_size: 6" in done.stdout
    assert "x 2 processes" in done.stdout


def test_wrong_words_are_one_message_without_torch(train):
    done = train("flat.yaml", "--lora_rnk", "16", "--set", "cutoff_len=8")
    assert done.returncode == 2
    assert "no such key. Did you mean 'lora_rank'?" in done.stderr
    assert "--cutoff_len 8: must be greater than or equal to 16; it is 8." in done.stderr
    assert "Traceback" not in done.stderr
    assert "heavy False" in done.stderr


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
