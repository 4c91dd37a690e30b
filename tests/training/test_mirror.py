"""Checkpoints copied elsewhere: a machine whose disk is empty goes on from there, exactly."""

import random
import shutil
import signal
import time

import pytest
import torch
from fsspec.implementations.local import LocalFileSystem

from llama_factory.core.errors import ConfigError
from llama_factory.core.preemption import leaving_on_notice
from llama_factory.core.signals import TRY_AGAIN, Stopped, raise_on_signals
from llama_factory.training.loop import _Fit
from llama_factory.training.settings import TrainingSettings
from tests.training.short_runs import fit, weights

STEPS = {"max_steps": 6, "checkpoint_steps": 2}


def names(far):
    (run,) = far.iterdir()
    return sorted(path.name for path in run.iterdir())


def lose_the_disk(folder):
    shutil.rmtree(folder)


@pytest.mark.slow
def test_a_machine_with_an_empty_disk_goes_on_from_the_copy(tiny, tmp_path):
    far, said = tmp_path / "far", []
    whole = fit(tiny, tmp_path / "a", **STEPS)
    fit(tiny, tmp_path / "b", **STEPS, checkpoint_mirror=str(far))
    assert names(far) == ["step-00000004", "step-00000006"]
    lose_the_disk(tmp_path / "b")
    (run,) = far.iterdir()
    shutil.rmtree(run / "step-00000006")  # the last copy did not arrive
    again = fit(tiny, tmp_path / "b", **STEPS, checkpoint_mirror=str(far), say=said)
    assert any(line.startswith("Fetched step-00000004 from") for line in said)
    assert any("after step 4 of 6" in line for line in said)
    assert torch.equal(weights(whole), weights(again))


@pytest.mark.variants
@pytest.mark.parametrize("harm", ["no state", "cut", "another run"])
def test_copies_that_cannot_be_used_are_passed_over(tiny, tmp_path, harm):
    far, said = tmp_path / "far", []
    whole = fit(tiny, tmp_path / "a", **STEPS)
    rate = {"learning_rate": 1e-5} if harm == "another run" else {}
    fit(tiny, tmp_path / "b", **STEPS, **rate, checkpoint_mirror=str(far))
    lose_the_disk(tmp_path / "b")
    for path in far.glob("*/step-00000006/*"):
        if harm == "no state" and path.name == "state.json":
            path.unlink()
        if harm == "cut" and path.name == "weights.safetensors":
            path.write_bytes(path.read_bytes()[:100])
    again = fit(tiny, tmp_path / "b", **STEPS, checkpoint_mirror=str(far), say=said)
    assert torch.equal(weights(whole), weights(again))
    if harm == "no state":
        assert any("after step 4 of 6" in line for line in said)
    if harm == "another run":
        assert not any("Fetched" in line for line in said)


@pytest.mark.slow
def test_a_store_that_fails_is_told_and_training_goes_on(tiny, tmp_path, monkeypatch):
    def full(*_args, **_named):
        raise OSError("the bucket is gone")

    monkeypatch.setattr(LocalFileSystem, "put_file", full)
    said = []
    whole = fit(tiny, tmp_path / "a", **STEPS)
    other = fit(tiny, tmp_path / "b", **STEPS, checkpoint_mirror=str(tmp_path / "far"), say=said)
    assert torch.equal(weights(whole), weights(other))
    assert any("could not be copied to" in line and "the bucket is gone" in line for line in said)


def test_a_store_that_cannot_be_read_is_told_before_anything_trains(tiny, tmp_path, monkeypatch):
    def gone(*_args, **_named):
        raise OSError("no rights")

    monkeypatch.setattr(LocalFileSystem, "exists", gone)
    with pytest.raises(ConfigError, match=r"checkpoint_mirror: .* cannot be read \(no rights\)"):
        fit(tiny, tmp_path / "b", **STEPS, checkpoint_mirror=str(tmp_path / "far"))
    assert not list(tmp_path.glob("b/checkpoints/step-*"))


@pytest.mark.parametrize("address", ["nosuchkind://bucket/x", "s3://bucket/folder"])
def test_an_address_without_its_package_is_refused_by_name(address):
    settings = TrainingSettings(checkpoint_mirror=address)
    try:
        import s3fs  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match="checkpoint_mirror: .* cannot be used"):
            settings.check()


@pytest.mark.slow
def test_a_checkpoint_is_due_by_time_as_well(tiny, tmp_path, monkeypatch):
    saved, save = [], _Fit._save

    def counted(fit_now):
        saved.append(fit_now.position.step)
        save(fit_now)

    monkeypatch.setattr(_Fit, "_save", counted)
    fit(tiny, tmp_path / "a", max_steps=4, checkpoint_steps=1000)
    assert saved == [4]
    saved.clear()
    fit(tiny, tmp_path / "b", max_steps=4, checkpoint_steps=1000, checkpoint_minutes=1e-9)
    assert saved == [1, 2, 3, 4]


@pytest.fixture
def stopped_by_signals():
    before = signal.getsignal(signal.SIGTERM)
    raise_on_signals()
    yield
    signal.signal(signal.SIGTERM, before)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.slow
def test_a_notice_saves_and_leaves_and_the_next_start_goes_on(
    tiny, tmp_path, monkeypatch, stopped_by_signals
):
    steps = {"max_steps": 60, "checkpoint_steps": 1000}
    whole = fit(tiny, tmp_path / "a", **steps)
    notice, said, step = tmp_path / "leave", [], _Fit._step

    def noticed(fit_now):
        step(fit_now)
        if fit_now.position.step == 3:
            notice.touch()

    with monkeypatch.context() as patch:
        patch.setattr(_Fit, "_step", noticed)
        with (
            pytest.raises(Stopped) as stopped,
            leaving_on_notice(str(notice), said.append, every=0.001),
        ):
            fit(tiny, tmp_path / "b", **steps)
    assert stopped.value.exit_code == TRY_AGAIN
    assert "taken away" in said[0]
    assert len(list(tmp_path.glob("b/checkpoints/step-*"))) == 1
    again = fit(tiny, tmp_path / "b", **steps)
    assert torch.equal(weights(whole), weights(again))


@pytest.mark.slow
def test_ten_notices_at_random_moments_lose_no_update(
    tiny, tmp_path, monkeypatch, stopped_by_signals
):
    steps = {"max_steps": 60, "checkpoint_steps": 1000}
    whole = fit(tiny, tmp_path / "a", **steps)
    moments, notice, said, made, ahead = random.Random(7), tmp_path / "leave", [], [], [0]
    update = _Fit._update

    def give_notice():
        notice.touch()
        while not said:
            time.sleep(0.001)

    def disturbed(fit_now, step, rate):
        ahead[0] -= 1
        comes_before = ahead[0] == 0 and moments.random() < 0.5
        if comes_before:
            give_notice()
        made.append(step)
        result = update(fit_now, step, rate)
        if ahead[0] == 0 and not comes_before:
            give_notice()
        return result

    monkeypatch.setattr(_Fit, "_update", disturbed)
    for _ in range(10):
        ahead[0] = moments.randint(1, 5)
        said.clear()
        notice.unlink(missing_ok=True)
        with (
            pytest.raises(Stopped) as stopped,
            leaving_on_notice(str(notice), said.append, every=0.001),
        ):
            fit(tiny, tmp_path / "b", **steps)
        assert stopped.value.exit_code == TRY_AGAIN
    again = fit(tiny, tmp_path / "b", **steps)
    assert made == list(range(60))
    assert torch.equal(weights(whole), weights(again))
