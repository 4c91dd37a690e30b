"""Checkpoints on their way to disk: beside the run, whole, and errors are told."""

import threading

import pytest
import torch

from llama_factory.training import checkpoints
from llama_factory.training.saving import CheckpointWriter, save, state_of
from tests.training.short_runs import fit, losses


def state(weight, step=1):
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    optimizer.state[weight] = {"momentum_buffer": torch.ones_like(weight), "updates": 3}
    return state_of(checkpoints.Position("plan", step=step), {"w": weight}, optimizer, {})


def test_the_run_goes_on_while_a_checkpoint_is_written():
    may_end, written = threading.Event(), []

    def write(number):
        may_end.wait()
        written.append(number)

    with CheckpointWriter() as writer:
        writer.begin(lambda: write(1))
        writer.check()
        assert written == []
        may_end.set()
        writer.begin(lambda: write(2))
        assert written[:1] == [1]  # one after the other
        writer.wait()
        assert written == [1, 2]


def test_what_ends_a_checkpoint_is_told_once_when_it_is_looked_for():
    ended = threading.Event()

    def write():
        try:
            raise OSError("the disk is gone")
        finally:
            ended.set()

    with CheckpointWriter() as writer:
        writer.begin(write)
        ended.wait()
        with pytest.raises(OSError, match="the disk is gone"):
            writer.wait()
        writer.check()
        writer.wait()


def test_a_copy_stays_as_it_was_while_weights_move(tmp_path):
    weight = torch.nn.Parameter(torch.ones(3))
    whole = state(weight)
    copied = whole.copied()
    weight.data.fill_(5.0)
    whole.moments["w#momentum_buffer"].fill_(7.0)
    assert torch.equal(copied.weights["w"], torch.ones(3))
    assert copied.num_bytes == 2 * 3 * 4
    again = state(weight).copied(copied)
    assert again.weights["w"] is copied.weights["w"]  # the same memory
    assert torch.equal(again.weights["w"], torch.full((3,), 5.0))
    weight.data.fill_(1.0)
    copied = state(weight).copied()
    folder = save(tmp_path, copied)
    fresh = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([fresh], lr=0.1, momentum=0.9)
    checkpoints.restore(folder, {"w": fresh}, optimizer)
    assert torch.equal(fresh.data, torch.ones(3))
    assert torch.equal(optimizer.state[fresh]["momentum_buffer"], torch.ones(3))
    assert optimizer.state[fresh]["updates"] == 3


def test_only_the_newest_ones_stay(tmp_path):
    weight = torch.nn.Parameter(torch.ones(3))
    for step in (1, 2, 3):
        save(tmp_path, state(weight, step), most=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


def test_a_run_whose_checkpoint_cannot_be_written_ends_before_the_next_one(tiny, tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / ".step-00000002").write_text("in the way")
    with pytest.raises(FileExistsError):
        fit(tiny, tmp_path, max_steps=8, checkpoint_steps=2)
    assert 2 <= len(losses(tmp_path)) <= 4


def test_the_end_of_a_run_waits_for_its_last_checkpoint(tiny, tmp_path):
    fit(tiny, tmp_path, max_steps=3, checkpoint_steps=50)
    (last,) = (tmp_path / "checkpoints").glob("step-*")
    assert last.name == "step-00000003"
    assert checkpoints.intact_record(last) is not None
