"""States on disk: whole, within their bound, and never a reason for a run to end."""

import os

import pytest
import torch

from llama_factory.training.state_store import StateStore

KB = 1000
"""Bytes of the states of these tests."""


def states(value):
    return torch.full((10, 25), float(value))


def names(folder):
    return sorted(path.stem for path in folder.rglob("*.safetensors"))


def filled(folder, *numbers, most=10 * KB):
    store = StateStore(folder, most)
    for at, number in enumerate(numbers):
        store.put(f"{number}.safetensors", states(number))
        os.utime(folder / f"{number}.safetensors", (at, at))
    return store


def test_what_is_kept_comes_back_in_its_own_format(tmp_path):
    for dtype in (torch.float32, torch.bfloat16):
        given = torch.randn(7, 3).to(dtype)
        StateStore(tmp_path, 10 * KB).put(f"a/{dtype}.safetensors", given)
        found = StateStore(tmp_path, 10 * KB).get(f"a/{dtype}.safetensors")
        assert found.dtype == dtype
        assert torch.equal(found, given)
    assert StateStore(tmp_path, 10 * KB).get("a/none.safetensors") is None


def test_those_used_longest_ago_leave_first(tmp_path):
    filled(tmp_path, 1, 2, 3)
    later = StateStore(tmp_path, 4 * KB)  # each file has a head beside its numbers
    assert later.get("1.safetensors") is not None
    later.put("4.safetensors", states(4))
    assert names(tmp_path) == ["1", "3", "4"]
    assert later.num_bytes <= 4 * KB


def test_nothing_that_a_run_uses_leaves_for_what_comes_later(tmp_path):
    store = filled(tmp_path, 1, 2, most=2 * KB)
    store.put("3.safetensors", states(3))
    assert names(tmp_path) == ["1", "2"]


def test_a_lower_bound_holds_from_the_start(tmp_path):
    filled(tmp_path, 1, 2, 3)
    StateStore(tmp_path, 2 * KB)
    assert names(tmp_path) == ["3"]


def test_a_disk_that_takes_nothing_ends_the_keeping_with_a_warning(tmp_path, caplog):
    store = StateStore(tmp_path, 10 * KB)
    (tmp_path / "full").write_text("a file where a folder should be")
    store.put("full/1.safetensors", states(1))
    store.put("2.safetensors", states(2))
    assert names(tmp_path) == []
    (record,) = caplog.records
    assert "states of rows cannot be kept" in record.message


@pytest.mark.parametrize("content", [b"", b"\0" * 1100, b"no tensors"])
def test_a_damaged_file_leaves(tmp_path, caplog, content):
    filled(tmp_path, 1)
    (tmp_path / "1.safetensors").write_bytes(content)
    store = StateStore(tmp_path, 10 * KB)
    assert store.get("1.safetensors") is None
    assert "is damaged" in caplog.text
    assert names(tmp_path) == []
    assert store.num_bytes == 0
    store.put("1.safetensors", states(1))
    assert torch.equal(store.get("1.safetensors"), states(1))
