"""The article's commands as written; models and steps are smaller."""

import contextlib
import io
import json
import os
import runpy
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
ANSWER = {"model": "production", "messages": [{"role": "user", "content": "你好"}], "max_tokens": 4}


def run(folder, script, *words):
    """Run a script as `python SCRIPT` does, in this process, where torch is imported already."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.getsignal(number) for number in numbers]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", [str(ROOT / script), *words])
        patch.setattr(os, "environ", os.environ.copy())
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                runpy.run_path(str(ROOT / script), run_name="__main__")
            except SystemExit as end:
                code = end.code or 0
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def rows(path, *questions):
    path.parent.mkdir(parents=True, exist_ok=True)
    made = [{"instruction": each, "input": "", "output": f"{each} 好的。"} for each in questions]
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in made)
    path.write_text("".join(lines), encoding="utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model and rows where the commands run."""
    from tests.tiny import make_tiny_model

    folder = tmp_path_factory.mktemp("place")
    make_tiny_model(folder / "tiny")
    rows(folder / "data/train.jsonl", *(f"第 {number} 个问题？" for number in range(8)))
    return folder


@pytest.fixture(scope="module")
def trained(place):
    """What `src/train_bash.py` of the article leaves behind."""
    words = "--model_name_or_path tiny --data_path data/train.jsonl --do_train --max_steps 2"
    words += " --output_dir outputs/qwen_incremental --learning_rate 1e-5 --lora_rank 64"
    words += " --template qwen --replay_buffer_size 1000 --fp16 --gradient_checkpointing"
    words += " --lora_target_modules q_proj,k_proj --per_device_train_batch_size 2"
    words += " --resume_from_checkpoint outputs/qwen_incremental/checkpoints"
    done = run(place, "src/train_bash.py", *words.split())
    assert done.returncode == 0, done.stderr
    return done


def test_train_bash_trains_as_the_flags_say(place, trained):
    output = place / "outputs/qwen_incremental"
    config = json.loads((output / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["r"], sorted(config["target_modules"])) == (64, ["k_proj", "q_proj"])
    assert (output / "adapter_model.safetensors").is_file()
    assert list((output / "runs").iterdir())
    assert "2 steps, last loss" in trained.stdout
    told = " ".join(trained.stderr.split())
    assert "since float16 is trained on CUDA GPUs only and there is none" in told
    assert "replay_buffer_size: a single run has no earlier rows to replay" in told


@pytest.mark.slow
def test_train_reads_the_articles_file_and_flags(place):
    rows(place / "data/eval.jsonl", "还开门吗？")
    (place / "config").mkdir()
    (place / "config/finetune.yaml").write_text(
        'model:    {base_model: "tiny", lora_rank: 16, freeze_layers: 1}\n'
        "training: {batch_size: 32, micro_batch_size: 8, learning_rate: 3e-5, epochs: 1, "
        "warmup_steps: 100}\n"
        'data:     {train_path: "data/train.jsonl", eval_path: "data/eval.jsonl"}\n',
        encoding="utf-8",
    )
    words = "--config config/finetune.yaml --output_dir ./output --log_dir ./logs"
    words += " --device_map auto --gradient_accumulation_steps 1 --bf16 --num_workers 1"
    done = run(place, "train.py", *words.split(), "--report_to", "tensorboard")
    assert done.returncode == 0, done.stderr
    assert "eval eval (1 rows)" in done.stdout
    assert (place / "output/adapter_model.safetensors").is_file()


def test_what_is_not_there_yet_says_so_before_anything_is_read(tmp_path):
    words = ["--model_name_or_path", "tiny", "--mixture_of_depths", "convert"]
    done = run(tmp_path, "src/train_bash.py", *words)
    assert done.returncode == 2
    assert "--mixture_of_depths convert: 'convert' is not supported: Mixture" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_export_model_writes_a_model_that_needs_no_adapter(place, trained):
    words = "--model_name_or_path outputs/qwen_incremental --output_dir deploy/qwen_lora"
    done = run(place, "src/export_model.py", *words.split())
    assert done.returncode == 0, done.stderr
    assert (place / "deploy/qwen_lora/model.safetensors").is_file()
    assert (place / "deploy/qwen_lora/tokenizer.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("answering", ["outputs/qwen_incremental", "deploy/qwen_lora"])
def test_api_demo_answers_with_an_adapter_or_an_exported_model(place, trained, answering):
    if not (place / answering).exists():
        run(place, "src/export_model.py", "--model_name_or_path", "outputs/qwen_incremental",
            "--output_dir", answering)  # fmt: skip
    words = ["--model_name_or_path", "tiny", "--lora_path", answering, "--port", "0"]
    command = [sys.executable, str(ROOT / "src/api_demo.py"), *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=place, env=ENVIRONMENT
    ) as server:
        try:
            answer = asked(address(server))
        finally:
            server.send_signal(signal.SIGTERM)
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["usage"]["completion_tokens"] > 0


def address(server):
    until = time.monotonic() + 120
    while time.monotonic() < until:
        line = server.stdout.readline()
        if "answers on" in line:
            return line.split()[-1]
        assert line, "the server ended"
    raise AssertionError("the server did not answer")


def asked(url):
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(
        f"{url}/chat/completions", json.dumps(ANSWER).encode(), headers
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.loads(reply.read())


def test_api_demo_says_what_a_folder_lacks(tmp_path):
    (tmp_path / "empty").mkdir()
    words = ["--model_name_or_path", "tiny", "--lora_path", "empty"]
    done = run(tmp_path, "src/api_demo.py", *words)
    assert done.returncode == 2
    assert "empty holds neither an adapter nor a model." in done.stderr


def test_the_page_is_not_opened_to_the_network_without_users(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_SERVER_PORT", "7861")
    done = run(tmp_path, "src/web_demo.py", "--server_name", "0.0.0.0")
    assert done.returncode == 2
    assert "GRADIO_SERVER_PORT=7861 says where the page is." in done.stderr
    assert "nobody may log in yet" in done.stderr
