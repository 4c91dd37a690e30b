"""Odd gradients, losses that are not finite, and how often the device is waited for."""

import traceback
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llama_factory.core.errors import FactoryError
from llama_factory.training import loop
from llama_factory.training.strategy import STRATEGIES, Protection, Strategy
from tests.training.short_runs import fit


class Kick(Strategy):
    """Multiplies the gradients of some steps, counted from 1."""

    at: dict[int, float]

    def adjust_gradients(self, model, state):
        STEP[0] += 1
        for weight in model.trainable().values():
            weight.grad.mul_(self.at.get(STEP[0], 1.0))


STEP = [0]


@pytest.fixture
def kick(monkeypatch):
    monkeypatch.setitem(STRATEGIES.parts, "kick", Kick)
    STEP[0] = 0
    return lambda at: Protection((Kick(at=at),))


@pytest.mark.slow
def test_a_gradient_spike_is_reported_and_counted(tiny, tmp_path, kick):
    said = []
    done = fit(tiny, tmp_path, max_steps=14, protection=kick({12: 1000.0}), say=said)
    (line,) = [text for text in said if "gradient norm" in text]
    assert line.startswith("Step 12: the gradient norm")
    assert "times the usual. Rows: f.jsonl:" in line
    assert done.to_json()["gradient_spikes"] == 1


def test_an_update_that_is_not_finite_is_skipped_and_its_rows_are_named(tiny, tmp_path, kick):
    said = []
    nan = float("nan")
    done = fit(tiny, tmp_path, batch_size=2, max_steps=5, protection=kick({3: nan}), say=said)
    (line,) = [text for text in said if "skipped" in text]
    assert line.startswith("Step 3 is skipped: loss ")
    assert line.count("f.jsonl:") == 2
    assert done.to_json()["skipped_updates"] == 1
    assert all(torch.isfinite(weight).all() for weight in done.model.trainable().values())


class Counts(Strategy):
    """How often it is told that an update was made."""

    def after_step(self, model, state):
        MADE.append(1)


MADE = []


def test_strategies_hear_of_no_update_that_was_skipped(tiny, tmp_path, kick, monkeypatch):
    monkeypatch.setitem(STRATEGIES.parts, "counts", Counts)
    MADE.clear()
    kicked = kick({3: float("nan")})
    protection = Protection((*kicked.strategies, Counts()))
    done = fit(tiny, tmp_path, batch_size=2, max_steps=5, protection=protection)
    assert done.to_json()["skipped_updates"] == 1
    assert len(MADE) == 4


@pytest.mark.slow
def test_a_run_that_stays_infinite_stops_and_names_the_last_rows(tiny, tmp_path, kick):
    nan = float("nan")
    with pytest.raises(FactoryError, match=r"in 3 updates in a row \(last: .*its rows: f.jsonl:\d"):
        fit(tiny, tmp_path, protection=kick({2: nan, 3: nan, 4: nan}))


class Waits(TorchDispatchMode):
    """Counts how often a value is asked for, which on a GPU waits for all work before it.

    What the library of models asks in a forward pass is not counted.
    """

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            files = {Path(frame.filename) for frame in traceback.extract_stack()}
            self.count += not any("transformers" in file.parts for file in files)
        return function(*args, **(kwargs or {}))


class Calls(TorchDispatchMode):
    """Counts the operations that torch is asked for, views aside."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not function.is_view
        return function(*args, **(kwargs or {}))


MOST_CALLS = 700
"""Operations of an update of four short rows by a model of two layers: a bit above today's number,
so that an update that suddenly makes more calls is noticed."""


def test_an_update_makes_no_more_calls_than_it_did(tiny, tmp_path, monkeypatch):
    counts, update = [], loop.update

    def counted(*arguments):
        with Calls() as calls:
            result = update(*arguments)
        counts.append(calls.count)
        return result

    monkeypatch.setattr(loop, "update", counted)
    fit(tiny, tmp_path, max_steps=2, batch_size=4, report_to=[])
    assert counts[1] < MOST_CALLS, counts


def waits_of(tiny, path, monkeypatch, **options):
    counts, update = [], loop.update

    def counted(*arguments):
        with Waits() as waits:
            result = update(*arguments)
        counts.append(waits.count)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(loop, "update", counted)
        fit(tiny, path, max_steps=2, report_to=[], share_prefixes=False, **options)
    return counts


@pytest.mark.slow
def test_the_device_is_waited_for_as_often_however_many_micro_batches(tiny, tmp_path, monkeypatch):
    one = waits_of(tiny, tmp_path / "one", monkeypatch, micro_batch_tokens=10_000)
    many = waits_of(tiny, tmp_path / "many", monkeypatch, micro_batch_size=1)
    assert many == one
