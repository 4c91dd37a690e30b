"""How many processes a command starts, and where those of several machines meet."""

import pytest
import torch

from llama_factory.cli.launching import num_processes, require_meeting_place, world_size
from llama_factory.core.errors import ConfigError
from llama_factory.core.files import read_jsonl
from llama_factory.core.signals import TRY_AGAIN
from tests.cli.stopping import asked_to_stop, kept_steps
from tests.model.adapters.test_runs import write_rows
from tests.tiny import make_tiny_model


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


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "NNODES is 2 and MASTER_ADDR is not set. Set MASTER_ADDR to the address of the first"),
        ({"MASTER_ADDR": "10.0.0.1"}, "NNODES is 2 and NODE_RANK is not set"),
        ({"MASTER_ADDR": "10.0.0.1", "NODE_RANK": "2"}, "numbered from 0 to 1"),
        ({"MASTER_ADDR": "127.0.0.1", "NODE_RANK": "1"}, "which on this machine .* is itself"),
        ({"MASTER_ADDR": "localhost", "NODE_RANK": "1"}, "which on this machine .* is itself"),
    ],
)
def test_machines_that_could_not_meet_are_told_at_once(environment, message):
    with pytest.raises(ConfigError, match=message):
        require_meeting_place({"NNODES": "2", **environment})


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
    require_meeting_place(environment)


@pytest.mark.slow
def test_processes_of_a_command_that_is_asked_to_stop_save_first(tmp_path):
    write_rows(tmp_path / "rows.jsonl", "one")
    words = [
        f"model.base_model={make_tiny_model(tmp_path / 'tiny')}",
        f"data.train_path={tmp_path / 'rows.jsonl'}",
        f"output_dir={tmp_path / 'run'}",
        "training.max_steps=2000",
        "training.checkpoint_steps=5000",
        "training.batch_size=4",
        "training.report_to=none",
        "model.dtype=float32",
    ]
    code = asked_to_stop(words, tmp_path / "run", num_updates=3, NPROC_PER_NODE="2")
    num_done = len([*read_jsonl(tmp_path / "run/metrics.jsonl")])
    assert code == TRY_AGAIN, (tmp_path / "run.txt").read_text()
    assert kept_steps(tmp_path / "run") == [num_done]
    assert 3 <= num_done < 2000
