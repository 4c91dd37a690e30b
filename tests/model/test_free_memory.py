"""What was freed leaves the process."""

import sys

import psutil
import pytest
import torch

from llama_factory.model import free_memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks GNU's C library")
def test_what_was_freed_between_things_that_stay_is_given_back():
    # small enough for the allocator's own pages, and never side by side
    pieces = [torch.ones(16_000) for _ in range(4000)]
    kept = pieces[::64]
    del pieces
    before = psutil.Process().memory_info().rss
    free_memory.give_back_freed()
    assert psutil.Process().memory_info().rss < before - 100_000_000  # of 256 MB
    assert all(float(each[0]) == 1 for each in kept)


def test_another_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(free_memory, "_gnu_library", lambda: None)
    free_memory.give_back_freed()
