"""Several processes make the updates that one makes, and one that is killed goes on exactly."""

import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from llama_factory import run
from llama_factory.continual.strategies.agem import Agem
from llama_factory.continual.strategies.distill import Distill
from llama_factory.continual.strategies.replay import Replay
from llama_factory.core.files import read_jsonl
from llama_factory.core.progress import SILENT
from llama_factory.core.types import Memory
from llama_factory.training.processes import Processes, current, process_group
from tests.continual import small
from tests.training.short_runs import examples, fit, losses


@pytest.fixture(scope="module")
def start():
    """Starts processes that begin with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])

    def start(target, *arguments):
        process = context.Process(target=target, args=arguments)
        process.start()
        return process

    return start


# a command under torchrun, of two processes


def settings_of(tiny, folder, *changes):
    """What a command trains, in `llama-factory train`'s words."""
    rows = folder / "rows.jsonl"
    some = [
        {"instruction": f"Question {i}?", "output": f"It is {i}. " * (1 + i % 5)} for i in range(24)
    ]
    rows.write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    return [
        f"model_name_or_path={tiny}", f"data_path={rows}", f"output_dir={folder / 'out'}",
        "max_steps=5", "per_device_train_batch_size=6", "lora_rank=4", "learning_rate=0.01",
        "val_size=0.2", "eval_strategy=steps", "eval_steps=5", "max_new_tokens=4",
        "model.dtype=float32", "report_to=none", *changes,
    ]  # fmt: skip


def measured(folder):
    return list(read_jsonl(folder / "out" / "metrics.jsonl"))


@pytest.fixture(scope="module")
def one_and_two(tiny, tmp_path_factory):
    """What one process makes, what two make, and what the two print."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    # three rows of each of two processes are the six of one
    words = settings_of(tiny, two, "per_device_train_batch_size=3")
    command = [sys.executable, "-m", "llama_factory", "train", *words]
    several = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **several}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as started:
        run.train(None, settings_of(tiny, one), SILENT)
        printed, _ = started.communicate()
    assert started.returncode == 0, printed
    return one, two, printed


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(one_and_two):
    alone, shared = map(measured, one_and_two[:2])
    assert [row["step"] for row in shared] == [1, 2, 3, 4, 5]
    for name in ("loss", "loss_new", "gradient_norm"):
        assert [row[name] for row in shared] == pytest.approx(
            [row[name] for row in alone], rel=1e-4
        )
    assert shared[-1]["eval_loss"] == pytest.approx(alone[-1]["eval_loss"], rel=1e-4)


@pytest.mark.slow
def test_two_processes_make_the_weights_of_one(one_and_two):
    name = "adapter_model.safetensors"
    alone, shared = (load_file(folder / "out" / name) for folder in one_and_two[:2])
    assert alone.keys() == shared.keys()
    for each in alone:
        torch.testing.assert_close(shared[each], alone[each], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_only_the_first_process_speaks(one_and_two):
    assert one_and_two[2].count("steps, last loss") == 1


def test_one_process_shares_with_nobody():
    assert current() == Processes(0, 1)
    assert Processes().gather({"a": 1}) == [{"a": 1}]


# more processes than an update has rows

MANY = 3
"""Processes, for updates of two rows."""
NAMES = ["sft", "old rows", "agem"]


def cases():
    """Rows, strategies, memory and settings, by name."""
    rows = small.rows
    old = Memory(rows={"replay": tuple(rows("old", 12, start=50))})
    disliked = [replace(row, is_desirable=False) for row in rows("old", 7, start=50)]
    strategies = (Replay(fraction=0.5), Distill(), Agem(rows=3))
    return {
        "sft": (rows("new", 7), (), None, {}),
        "old rows": (rows("new", 7), strategies, old, {}),
        # answers that people disliked are those of the old rows: the gradients point away
        "agem": (disliked, (Agem(rows=3),), old, {"objective": "kto"}),
    }


def train_all(folder, tiny, environment):
    """Train each case, together with the other processes of the environment."""
    os.environ.update(environment)
    with process_group(timeout=60) as processes:  # no one waits for another longer than a minute
        for name, (taught, strategies, memory, options) in cases().items():
            model = small.shake(small.make(tiny))
            model.network.double()
            usual = {"batch_size": 2, "max_steps": 2, "report_to": [], "optimizer": "sgd"}
            here = folder / name / str(processes.rank)
            more = usual | {"learning_rate": 0.05} | options
            trained = small.fit(model, here, taught, strategies, memory, **more)
            kept = {key: value.detach().contiguous() for key, value in model.trainable().items()}
            save_file(kept, here / "weights.safetensors")
            (here / "numbers.json").write_text(json.dumps(trained.memory.numbers))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def weights(folder, name, rank=0):
    return load_file(folder / name / str(rank) / "weights.safetensors")


@pytest.fixture(scope="module")
def one_and_many(tiny, tmp_path_factory, start):
    """What one process makes, and what many make."""
    one, many = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("many")
    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    places |= {"WORLD_SIZE": str(MANY), "LOCAL_WORLD_SIZE": str(MANY)}
    crew = [
        start(train_all, many, tiny, places | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(MANY)
    ]
    train_all(one, tiny, {})
    for process in crew:
        process.join(240)
    assert [process.exitcode for process in crew] == [0] * MANY
    return one, many


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_more_processes_than_rows_make_the_updates_of_one_process(one_and_many, name):
    one, many = one_and_many
    alone, shared = weights(one, name), weights(many, name)
    assert alone.keys() == shared.keys()
    for each in alone:
        assert alone[each].dtype == torch.float64
        torch.testing.assert_close(shared[each], alone[each], rtol=1e-6, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_all_processes_have_the_same_weights_bit_for_bit(one_and_many, name):
    _, many = one_and_many
    first = weights(many, name)
    for rank in range(1, MANY):
        other = weights(many, name, rank)
        assert all(torch.equal(first[each], other[each]) for each in first)


@pytest.mark.slow
def test_a_gem_projects_gradients_by_the_rows_that_one_process_draws(one_and_many):
    texts = [(folder / "agem/0/numbers.json").read_text() for folder in one_and_many]
    alone, shared = map(json.loads, texts)
    assert alone == shared
    assert alone["agem.projections"] > 0


# a process that is killed

NUM_STEPS = 80


def train_long(tiny, folder):
    fit(tiny, folder, rows=examples(40), max_steps=NUM_STEPS, checkpoint_steps=5, report_to=[])


@pytest.fixture(scope="module")
def uninterrupted(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    train_long(tiny, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "seed"),
    [
        (signal.SIGKILL, 1),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in [(9, 0), (9, 2), (15, 3)]),
    ],
)
def test_a_killed_run_ends_as_an_uninterrupted_one(
    tiny, tmp_path, uninterrupted, start, number, seed
):
    step = random.Random(seed).randrange(3, NUM_STEPS // 2)
    killed, metrics = start(train_long, tiny, tmp_path), tmp_path / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") < step:
        assert killed.is_alive()
        time.sleep(0.001)
    os.kill(killed.pid, number)
    killed.join(30)
    assert step <= metrics.read_text().count("\n") < NUM_STEPS
    train_long(tiny, tmp_path)
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, NUM_STEPS + 1))
    assert losses(tmp_path) == losses(uninterrupted)
