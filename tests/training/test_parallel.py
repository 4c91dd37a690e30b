"""Several processes make the updates that one makes."""

import json
import os
import socket
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import load_file

from llama_factory.cli import launching
from llama_factory.cli.launching import num_processes, world_size
from llama_factory.core.errors import ConfigError
from llama_factory.core.files import read_jsonl
from llama_factory.training.parallel import Processes, current


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


MANY = 3
"""Processes, for updates of two rows."""

CODE = """
import json, sys
from dataclasses import replace
from pathlib import Path
import torch
from safetensors.torch import save_file
from llama_factory.continual.strategies.agem import Agem
from llama_factory.continual.strategies.distill import Distill
from llama_factory.continual.strategies.ewc import Ewc
from llama_factory.continual.strategies.replay import Replay
from llama_factory.core.types import Memory
from llama_factory.training.parallel import joined
from tests.continual.small import fit, flat, make, rows, shake

old = Memory(rows={"replay": tuple(rows("old", 12, start=50))})
disliked = [replace(row, is_desirable=False) for row in rows("old", 7, start=50)]
CASES = {
    "sft": (rows("new", 7), (), None, {}),
    "old rows": (rows("new", 7), (Replay(fraction=0.5), Distill(), Agem(rows=3)), old, {}),
    # answers that people did not like are those of the old rows: the gradients point apart
    "agem": (disliked, (Agem(rows=3),), old, {"objective": "kto"}),
}
folder = Path(sys.argv[1])
with joined(timeout=60) as processes:
    for name in sys.argv[3:]:
        taught, strategies, memory, options = CASES[name]
        model = shake(make(sys.argv[2]))
        model.network.double()
        more = {"batch_size": 2, "max_steps": 2, "report_to": [], "optimizer": "sgd",
                "learning_rate": 0.05} | options
        here = folder / name / str(processes.rank)
        trained = fit(model, here, taught, strategies, memory, **more)
        kept = {key: value.detach().contiguous() for key, value in model.trainable().items()}
        save_file(kept, here / "weights.safetensors")
        (here / "numbers.json").write_text(json.dumps(trained.memory.numbers))
"""
NAMES = ["sft", "old rows", "agem"]


def start(folder, tiny, count):
    """Processes that train each case together; no one waits for another longer than a minute."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-c", textwrap.dedent(CODE), str(folder), str(tiny), *NAMES]
    crew = []
    for rank in range(count):
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        settings = {**os.environ, **{name: str(value) for name, value in (own | places).items()}}
        crew.append(subprocess.Popen(words, env=settings, stderr=subprocess.PIPE))
    return crew


def weights(folder, name, rank=0):
    return load_file(folder / name / str(rank) / "weights.safetensors")


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """What one process makes, and what many make."""
    folders = [tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("many")]
    started = [start(folders[0], tiny, 1), start(folders[1], tiny, MANY)]
    for crew in started:
        told = [each.communicate(timeout=240)[1].decode() for each in crew]
        assert [each.returncode for each in crew] == [0] * len(crew), told
    return folders


@pytest.mark.parametrize("name", NAMES)
def test_more_processes_than_rows_make_the_updates_of_one_process(trained, name):
    one, many = trained
    alone, shared = weights(one, name), weights(many, name)
    assert alone.keys() == shared.keys()
    for each in alone:
        assert alone[each].dtype == torch.float64
        torch.testing.assert_close(shared[each], alone[each], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_all_processes_have_the_same_weights_bit_for_bit(trained, name):
    _, many = trained
    first = weights(many, name)
    for rank in range(1, MANY):
        other = weights(many, name, rank)
        assert all(torch.equal(first[each], other[each]) for each in first)


def test_a_gem_turned_gradients_by_the_rows_that_one_process_draws(trained):
    alone, shared = (json.loads((folder / "agem/0/numbers.json").read_text()) for folder in trained)
    assert alone == shared
    assert alone["agem.projections"] > 0


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({}, "NNODES is 2 and MASTER_ADDR is not set. Set MASTER_ADDR to the address of the first"),
        ({"MASTER_ADDR": "10.0.0.1"}, "NNODES is 2 and NODE_RANK is not set"),
        ({"MASTER_ADDR": "10.0.0.1", "NODE_RANK": "2"}, "numbered from 0 to 1"),
        ({"MASTER_ADDR": "127.0.0.1", "NODE_RANK": "1"}, "which on this machine .* is itself"),
        ({"MASTER_ADDR": "localhost", "NODE_RANK": "1"}, "which on this machine .* is itself"),
    ],
)
def test_machines_that_could_not_meet_are_told_at_once(environment, told):
    with pytest.raises(ConfigError, match=told):
        launching.require_meeting_place({"NNODES": "2", **environment})


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"NNODES": "1"},
        {"NNODES": "2", "MASTER_ADDR": "10.0.0.1", "NODE_RANK": "1"},
        {"NNODES": "2", "MASTER_ADDR": "localhost", "NODE_RANK": "0"},
    ],
)
def test_machines_that_can_meet_go_on(environment):
    launching.require_meeting_place(environment)
