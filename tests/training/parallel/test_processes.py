"""Several processes make the updates that one makes."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from llama_factory.cli.launching import num_processes, world_size
from llama_factory.core.errors import ConfigError
from llama_factory.core.files import read_jsonl
from llama_factory.training.parallel.processes import Processes, current


def run(tiny, folder, environment, *changes):
    rows = folder / "rows.jsonl"
    rows.write_text(
        "".join(
            json.dumps({"instruction": f"Question {i}?", "output": f"It is {i}. " * (1 + i % 5)})
            + "\n"
            for i in range(24)
        ),
        encoding="utf-8",
    )
    words = [
        f"model_name_or_path={tiny}", f"data_path={rows}", f"output_dir={folder / 'out'}",
        "max_steps=5", "per_device_train_batch_size=6", "lora_rank=4", "learning_rate=0.01",
        "val_size=0.2", "eval_strategy=steps", "eval_steps=5", "max_new_tokens=4",
        "model.dtype=float32", *changes,
    ]  # fmt: skip
    settings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-m", "llama_factory", "train", *words]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def measured(folder):
    return list(read_jsonl(folder / "out" / "metrics.jsonl"))


@pytest.fixture(scope="module")
def two(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    environment = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"}
    # three rows of each of two processes are the six of one
    return folder, run(tiny, folder, environment, "per_device_train_batch_size=3")


@pytest.fixture(scope="module")
def one(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    return folder, run(tiny, folder, {})


def test_two_processes_have_the_losses_of_one(one, two):
    alone, shared = measured(one[0]), measured(two[0])
    assert [row["step"] for row in shared] == [1, 2, 3, 4, 5]
    for name in ("loss", "loss_new", "gradient_norm"):
        assert [row[name] for row in shared] == pytest.approx(
            [row[name] for row in alone], rel=1e-4
        )
    assert shared[-1]["eval_loss"] == pytest.approx(alone[-1]["eval_loss"], rel=1e-4)


def test_two_processes_make_the_weights_of_one(one, two):
    name = "adapter_model.safetensors"
    alone, shared = (load_file(folder / "out" / name) for folder, _ in (one, two))
    assert alone.keys() == shared.keys()
    for each in alone:
        torch.testing.assert_close(shared[each], alone[each], rtol=1e-3, atol=1e-5)


def test_only_the_first_process_speaks(two):
    assert two[1].stdout.count("steps, last loss") == 1


def test_one_process_shares_with_nobody():
    assert current() == Processes(0, 1)
    assert Processes().gathered({"a": 1}) == [{"a": 1}]


@pytest.mark.parametrize(
    ("environment", "number"),
    [
        ({}, 0),
        ({"FORCE_TORCHRUN": "1"}, 1),
        ({"NPROC_PER_NODE": "4"}, 4),
        ({"NNODES": "2", "NPROC_PER_NODE": "1"}, 1),
        ({"NPROC_PER_NODE": "4", "LOCAL_RANK": "0"}, 0),
    ],
)
def test_the_environment_says_how_many(environment, number):
    if torch.cuda.device_count() < 2:
        assert num_processes(environment) == number


@pytest.mark.parametrize(
    ("environment", "number"),
    [
        ({"FORCE_TORCHRUN": "1"}, 1),
        ({"NPROC_PER_NODE": "4"}, 4),
        ({"NNODES": "2", "NPROC_PER_NODE": "4"}, 8),
        ({"NNODES": "3", "NPROC_PER_NODE": "1"}, 3),
        ({"NNODES": "2", "NPROC_PER_NODE": "4", "LOCAL_RANK": "0", "WORLD_SIZE": "8"}, 8),
    ],
)
def test_the_environment_says_how_many_train_together(environment, number):
    assert world_size(environment) == number


def test_a_number_that_is_none_is_told():
    with pytest.raises(ConfigError, match="NPROC_PER_NODE must be a whole number; it is 'two'"):
        num_processes({"NPROC_PER_NODE": "two"})
