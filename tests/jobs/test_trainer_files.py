"""Transformers' own reader takes what a run leaves."""

import json

import pytest
from transformers import TrainerState

from llama_factory.jobs import trainer_files
from llama_factory.training.settings import TrainingSettings

TRAINING = {"steps": 2, "loss": 1.0, "tokens": 64, "seconds": 4.0}


def log_rows(**more):
    for step, loss in ((1, 3.0), (2, 1.0)):
        yield {
            "current_steps": step,
            "total_steps": 2,
            "epoch": step / 2,
            "loss": loss,
            "lr": 1e-4,
            "gradient_norm": 0.5,
        } | (more if step == 2 else {})


def written(folder, **more):
    lines = (json.dumps(row) + "\n" for row in log_rows(**more))
    (folder / "trainer_log.jsonl").write_text("".join(lines))
    settings = TrainingSettings(batch_size=4, micro_batch_size=2, checkpoint_steps="epoch")
    return trainer_files.write(folder, TRAINING, settings, num_rows=8)


def test_the_state_is_read_by_transformers(tmp_path):
    written(tmp_path)
    state = TrainerState.load_from_json(str(tmp_path / "trainer_state.json"))
    assert (state.global_step, state.max_steps, state.num_train_epochs) == (2, 2, 1)
    assert [row["loss"] for row in state.log_history[:2]] == [3.0, 1.0]
    assert state.log_history[0]["learning_rate"] == 1e-4
    assert state.log_history[-1]["train_loss"] == 2.0
    assert state.train_batch_size == 2


def test_the_results_are_flat_numbers(tmp_path):
    results = written(tmp_path)
    assert results == json.loads((tmp_path / "train_results.json").read_text())
    assert results["train_loss"] == 2.0
    assert results["train_runtime"] == 4.0
    assert results["train_samples_per_second"] == pytest.approx(2.0)
    assert results["train_steps_per_second"] == 0.5
    assert not (tmp_path / "eval_results.json").exists()


def test_a_measured_held_out_loss_is_a_result_of_its_own(tmp_path):
    results = written(tmp_path, eval_loss=1.5)
    assert json.loads((tmp_path / "eval_results.json").read_text()) == {
        "epoch": 1.0,
        "eval_loss": 1.5,
    }
    assert results["eval_loss"] == 1.5
    assert results["train_loss"] == 2.0
    state = TrainerState.load_from_json(str(tmp_path / "trainer_state.json"))
    assert {"eval_loss": 1.5, "epoch": 1.0, "step": 2} in state.log_history
