"""The loss on held-out rows, and runs that end by it."""

import shutil

import pytest
import torch
from pydantic import ValidationError

from llama_factory.core.errors import DataError
from llama_factory.core.files import read_jsonl
from llama_factory.training.held_out import BEST
from llama_factory.training.settings import TrainingSettings
from tests.training.short_runs import examples, fit, make, weights


def numbers(path):
    return list(read_jsonl(path / "metrics.jsonl"))


@pytest.mark.slow
def test_the_held_out_loss_is_the_mean_over_its_tokens_without_dropout(tiny, tmp_path):
    from llama_factory.model.chat.encoding import EncodeOptions, encode
    from llama_factory.model.output_head import TokenLogProbs
    from llama_factory.model.padding import pad

    rows = examples(5, "held")
    done = fit(
        tiny, tmp_path, held_out=rows, eval_steps=3, model=make(tiny, dropout=0.4), neftune_alpha=5
    )
    told = {row["step"]: row["eval_loss"] for row in numbers(tmp_path) if "eval_loss" in row}
    assert list(told) == [3, 6]
    tokenizer = done.model.tokenizer
    alone = [pad([encode(row, tokenizer, EncodeOptions(128))]) for row in rows]
    kernel = TokenLogProbs(done.model.network)
    values = torch.cat([kernel(ids, targets).detach() for ids, targets in alone])
    assert told[6] == pytest.approx(-float(values.mean()), rel=1e-5)


@pytest.mark.slow
def test_measuring_changes_no_update(tiny, tmp_path):
    plain = fit(tiny, tmp_path / "a", model=make(tiny, dropout=0.3))
    options = {"held_out": examples(3), "eval_steps": 1}
    measured = fit(tiny, tmp_path / "b", model=make(tiny, dropout=0.3), **options)
    assert torch.equal(weights(plain), weights(measured))


STOPPING = {"eval_steps": 1, "early_stopping_steps": 2, "learning_rate": 0.3, "max_steps": 40}


@pytest.mark.slow
def test_early_stopping_ends_the_run_and_puts_the_best_weights_back(tiny, tmp_path):
    options = {**STOPPING, "rows": examples(8), "held_out": examples(6, "held")}
    done = fit(tiny, tmp_path, **options)
    course = [row["eval_loss"] for row in numbers(tmp_path)]
    best = course.index(min(course)) + 1
    assert done.ended_by == "early_stopping_steps"
    assert done.position.step == best + 2 < 40
    assert done.to_json()["best_step"] == best
    assert done.to_json()["best_loss"] == min(course)
    alone = fit(
        tiny, tmp_path / "again", rows=examples(8), held_out=examples(6, "held"), **STOPPING
    )
    assert torch.equal(weights(done), weights(alone))
    from safetensors.torch import load_file

    saved = load_file(tmp_path / "checkpoints" / BEST)
    trained = done.model.trainable()
    assert all(torch.equal(trained[name].detach(), tensor) for name, tensor in saved.items())


@pytest.mark.slow
def test_early_stopping_is_the_same_after_a_resume(tiny, tmp_path):
    options = {**STOPPING, "checkpoint_steps": 1, "rows": examples(8), "held_out": examples(6, "h")}
    whole = fit(tiny, tmp_path / "a", **options)
    fit(tiny, tmp_path / "b", **options)
    newest = sorted((tmp_path / "b/checkpoints").glob("step-*"))[-1]
    shutil.rmtree(newest)
    again = fit(tiny, tmp_path / "b", **options)
    assert torch.equal(weights(whole), weights(again))
    assert again.position.step == whole.position.step


def test_early_stopping_without_measurements_is_refused(tiny, tmp_path):
    with pytest.raises(ValidationError, match="eval_steps, which says when to measure, is empty"):
        TrainingSettings(early_stopping_steps=3)
    with pytest.raises(DataError, match="eval_steps is 2 and none of 0 held-out rows"):
        fit(tiny, tmp_path, eval_steps=2)
