"""What a run writes about itself."""

import importlib.util
import json
import math
import re

import pytest
import torch
from filelock import FileLock
from pydantic import ValidationError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from llama_factory.continual.strategies.replay import Replay
from llama_factory.core import files
from llama_factory.core.errors import ConfigError, VersionError
from llama_factory.core.files import read_jsonl
from llama_factory.core.types import Memory
from llama_factory.training.monitor import FEWEST, SpikeWatch, divergence
from llama_factory.training.settings import TrainingSettings
from llama_factory.training.strategy import STRATEGIES, Protection, Strategy
from tests.training.short_runs import examples, fit, losses


def trainer_log(path):
    return list(read_jsonl(path / "trainer_log.jsonl"))


@pytest.mark.slow
def test_the_trainer_log_has_llama_factorys_fields(tiny, tmp_path):
    memory = Memory(rows={"replay": tuple(examples(9, "old"))})
    protection = Protection((Replay(fraction=0.25),), memory)
    options = {"rows": examples(16), "held_out": examples(3, "held"), "eval_steps": 2}
    fit(tiny, tmp_path, protection=protection, max_steps=4, **options)
    rows = trainer_log(tmp_path)
    assert [row["current_steps"] for row in rows] == [1, 2, 3, 4]
    assert [row["percentage"] for row in rows] == [25.0, 50.0, 75.0, 100.0]
    assert [row["epoch"] for row in rows] == [0.5, 1.0, 1.5, 2.0]
    assert ["eval_loss" in row for row in rows] == [False, True, False, True]
    for row in rows:
        assert row["total_steps"] == 4
        assert row.keys() >= {"loss", "lr", "loss_new", "loss_replay", "throughput"}
        for name in ("elapsed_time", "remaining_time"):
            assert re.fullmatch(r"\d+:\d\d:\d\d", row[name])
    assert [row["loss"] for row in rows] == losses(tmp_path)
    tokens = [row["total_tokens"] for row in rows]
    assert tokens == sorted(set(tokens))


@pytest.mark.slow
def test_the_logs_of_a_resumed_run_have_every_step_once(tiny, tmp_path):
    options = {"max_steps": 5, "checkpoint_steps": 2}
    fit(tiny, tmp_path, **options)
    (tmp_path / "checkpoints/step-00000005/state.json").unlink()
    with (tmp_path / "trainer_log.jsonl").open("a") as file:
        file.write('{"current_st')  # as a kill leaves it
    fit(tiny, tmp_path, **options)
    assert [row["current_steps"] for row in trainer_log(tmp_path)] == [1, 2, 3, 4, 5]


def test_a_loss_that_is_not_finite_is_null_for_readers_of_plain_json(tmp_path):
    from llama_factory.training.monitor import Progressed, TrainingFolders, monitored

    folders = TrainingFolders(tmp_path, tmp_path / "metrics.jsonl", tmp_path / "runs", tmp_path)
    with monitored(folders, [], done=0) as monitor:
        monitor.record(Progressed(1, 2, 0.5, 1.0, 10), {"loss": float("nan")})
    text = (tmp_path / "trainer_log.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["loss"] is None


@pytest.mark.slow
def test_tensorboard_shows_speed_memory_and_padding(tiny, tmp_path):
    fit(tiny, tmp_path, max_steps=3)
    events = EventAccumulator(str(tmp_path / "runs"))
    events.Reload()
    names = set(events.Tags()["scalars"])
    wanted = (
        "loss learning_rate gradient_norm tokens_per_second samples_per_second padding_fraction "
        "memory_used_gib memory_reserved_gib"
    )
    assert names >= {f"train/{name}" for name in wanted.split()}
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3]
    assert 0.01 < events.Scalars("train/memory_used_gib")[0].value < 100


def test_reporting_may_be_off_and_one_name_is_a_list(tiny, tmp_path):
    fit(tiny, tmp_path, max_steps=1, report_to="none")
    assert not (tmp_path / "runs").exists()
    assert TrainingSettings(report_to="tensorboard") == TrainingSettings()


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_reporter_without_its_library_is_refused_at_once(tiny, tmp_path, name):
    if importlib.util.find_spec(name):
        pytest.skip("it is installed here")
    with pytest.raises(ConfigError) as told:
        fit(tiny, tmp_path, report_to=["tensorboard", name])
    assert f"training.report_to: {name} is not installed" in str(told.value)
    assert f"pip install 'llama-factory-continual[{name}]'" in str(told.value)
    assert not list(tmp_path.iterdir())


def test_wandb_writes_offline(tiny, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    fit(tiny, tmp_path, max_steps=2, report_to=["wandb"])
    assert list((tmp_path / "runs").rglob("*.wandb"))


def test_mlflow_writes_to_files(tiny, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    fit(tiny, tmp_path, max_steps=2, report_to=["mlflow"])
    assert (tmp_path / "mlflow.db").exists()


def test_an_unknown_reporter_names_the_nearest():
    with pytest.raises(ValidationError, match="'wanbd' is not a reporter. Did you mean 'wandb'"):
        TrainingSettings(report_to=["wanbd"])


def test_two_processes_never_write_into_one_folder(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LOOK_SECONDS", 0.1)
    with (
        FileLock(tmp_path / ".trainer_log.jsonl.lock"),
        pytest.raises(VersionError, match="another process trains into this folder"),
    ):
        fit(tiny, tmp_path)


def test_a_finished_run_leaves_no_lock(tiny, tmp_path):
    fit(tiny, tmp_path, max_steps=1)
    assert not list(tmp_path.glob("*.lock"))
    assert not list(tmp_path.glob(".*.lock"))


def test_a_spike_is_many_medians_high():
    watch = SpikeWatch(5.0)
    assert [watch.see(100.0), *(watch.see(1.0) for _ in range(FEWEST - 1))] == [None] * FEWEST
    assert watch.see(4.9) is None
    assert watch.see(6.0) == pytest.approx(6.0)
    assert watch.see(1.0) is None


def test_a_resumed_watch_knows_the_norms_before():
    assert SpikeWatch(5.0, [1.0] * FEWEST).see(10.0) == pytest.approx(10.0)


def rows(losses, norms=None):
    norms = norms or [1.0] * len(losses)
    return [{"loss": loss, "gradient_norm": norm} for loss, norm in zip(losses, norms, strict=True)]


@pytest.mark.parametrize(
    "losses",
    [
        [4.1, 9.0, 30.8, 25.0, 18.0, 14.0, 11.0, 10.5],
        [1.46, 100.0, 27.0],
        [2.0, math.nan, 8.0],
        [0.69] * 20 + [3.0] * 20,
        [-1.0, 1.0, 5.0],
    ],
)
def test_a_loss_that_ended_far_above_its_beginning_is_reported(losses):
    assert "The run diverged: the loss ended at" in divergence(rows(losses))


@pytest.mark.parametrize(
    "losses",
    [
        [],
        [3.0],
        [math.nan, math.nan],
        [4.0, 3.0, 2.0, 1.0],
        [0.2, 0.9, 0.1, 0.8, 0.3, 1.0],  # small batches
        [2.0, 30.0, 3.0, 2.0, 1.5],  # it came back
        [3.0, 3.5, 4.0, 4.5],
    ],
)
def test_a_usual_course_is_not(losses):
    assert divergence(rows(losses)) == ""


def test_gradients_that_exploded_are_reported_also_where_the_loss_hides_it():
    assert "gradients grew to 4271 times" in divergence(rows([4.0] * 3, [3.5, 385.0, 14947.0]))
    assert divergence(rows([4.0] * 4, [0.5, 8.0, 9.0, 12.0])) == ""


def test_a_spike_shows_before_there_is_a_median():
    watch = SpikeWatch(5.0)
    assert watch.see(3.5) is None
    assert watch.see(30.0) is None
    assert watch.see(1000.0) == pytest.approx(1000 / 16.75)


class Ruin(Strategy):
    """Moves weights ever farther from where they should be, as too high a rate does."""

    def after_step(self, model, state):
        draw = torch.Generator().manual_seed(0)
        head = model.network.get_output_embeddings().weight
        head.data.add_(2 * torch.randn(head.shape, generator=draw))


@pytest.mark.slow
def test_a_run_that_diverges_says_so_and_keeps_it_in_its_report(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(STRATEGIES.parts, "ruin", Ruin)
    said = []
    done = fit(tiny, tmp_path, max_steps=6, protection=Protection((Ruin(),)), say=said)
    assert "The run diverged: the loss ended at" in done.divergence
    assert f"Warning: {done.divergence}" in said
    assert done.to_json()["divergence"] == done.divergence


@pytest.mark.slow
def test_a_run_that_learns_says_nothing(tiny, tmp_path):
    said = []
    done = fit(tiny, tmp_path, max_steps=8, say=said)
    assert done.to_json()["divergence"] == ""
    assert not any("Warning" in text for text in said)
