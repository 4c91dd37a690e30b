"""What ends a run: steps, epochs, tokens, minutes, a held-out loss that no longer falls."""

import math
import shutil

import pytest
import torch
from pydantic import ValidationError

from llama_factory.core.errors import DataError
from llama_factory.core.files import read_jsonl
from llama_factory.core.types import Example, Message
from llama_factory.training.held_out import BEST
from llama_factory.training.settings import TrainingSettings
from tests.training.test_loop import examples, fit, losses, make, weights


def numbers(path):
    return list(read_jsonl(path / "metrics.jsonl"))


def test_epochs_count_the_rows(tiny, tmp_path):
    done = fit(tiny, tmp_path, rows=examples(10), max_steps=None, epochs=2, batch_size=4)
    assert done.position.step == 5
    assert done.ended_by == ""


def test_a_run_ends_with_the_update_that_reaches_its_tokens(tiny, tmp_path):
    fit(tiny, tmp_path / "whole")
    log = list(read_jsonl(tmp_path / "whole/trainer_log.jsonl"))
    seen = [row["total_tokens"] for row in log]
    done = fit(tiny, tmp_path / "cut", max_train_tokens=seen[1] + 1)
    assert done.position.step == 3
    assert done.num_tokens == seen[2]
    exact = fit(tiny, tmp_path / "exact", max_train_tokens=seen[1])
    assert exact.position.step == 2


def test_the_schedule_is_that_of_the_run_cut_by_tokens(tiny, tmp_path):
    fit(tiny, tmp_path, max_train_tokens=3000, final_lr_fraction=0.1, max_steps=50)
    rates = [row["learning_rate"] for row in numbers(tmp_path)]
    assert len(rates) < 50
    assert rates[-1] == pytest.approx(0.1 * 1e-2)


def test_a_time_limit_ends_with_a_checkpoint_and_a_later_start_goes_on(tiny, tmp_path):
    whole = fit(tiny, tmp_path / "whole")
    done = fit(tiny, tmp_path / "cut", max_minutes=1e-6)
    assert (done.position.step, done.ended_by) == (1, "max_minutes")
    assert done.to_json()["ended_by"] == "max_minutes"
    assert fit(tiny, tmp_path / "cut", max_minutes=1e-6).position.step == 1
    longer = fit(tiny, tmp_path / "cut")
    assert torch.equal(weights(longer), weights(whole))
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


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


def test_measuring_changes_no_update(tiny, tmp_path):
    plain = fit(tiny, tmp_path / "a", model=make(tiny, dropout=0.3))
    options = {"held_out": examples(3), "eval_steps": 1}
    measured = fit(tiny, tmp_path / "b", model=make(tiny, dropout=0.3), **options)
    assert torch.equal(weights(plain), weights(measured))


STOPPING = {"eval_steps": 1, "early_stopping_steps": 2, "learning_rate": 0.3, "max_steps": 40}


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


def test_noise_on_the_embeddings_is_bounded_and_resumes_exactly(tiny, tmp_path):
    options = {"neftune_alpha": 5.0, "max_steps": 4, "checkpoint_steps": 2}
    whole = fit(tiny, tmp_path / "a", **options)
    fit(tiny, tmp_path / "b", **options)
    shutil.rmtree(tmp_path / "b/checkpoints/step-00000004")
    assert torch.equal(weights(fit(tiny, tmp_path / "b", **options)), weights(whole))
    plain = fit(tiny, tmp_path / "c", **(options | {"neftune_alpha": None}))
    assert not torch.equal(weights(plain), weights(whole))


def test_the_noise_is_alpha_over_the_root_of_length_and_width(tiny):
    from llama_factory.model.padding import IGNORED
    from llama_factory.training.neftune import EmbeddingNoise

    model = make(tiny)
    ids = torch.arange(1, 21).repeat(2, 1)
    targets = torch.full((2, 20), IGNORED)
    targets[0, 7], targets[1, 18] = 5, 5  # rows of 9 and 20 tokens
    table = model.network.get_input_embeddings()
    with EmbeddingNoise(6.0).on(model, targets):
        noise = (table(ids) - table.weight[ids]).detach()
        with torch.no_grad():
            assert torch.equal(table(ids), table.weight[ids])
    width = noise.shape[-1]
    for row, length in enumerate((9, 20)):
        bound = 6.0 / math.sqrt(length * width)
        assert 0.9 * bound < float(noise[row].abs().max()) <= bound * 1.001
    assert torch.equal(table(ids), table.weight[ids])


def test_what_is_cut_is_told_before_the_training_and_in_its_report(tiny, tmp_path):
    turns = (Message("user", "Hi?"), Message("assistant", "word " * 200))
    rows = [*examples(3), Example(turns, "g", "f", 9)]
    heard, quiet = [], []
    done = fit(tiny, tmp_path / "a", rows=rows, max_steps=1, say=heard)
    (told,) = (line for line in heard if "Too long" in line)
    cut = done.to_json()["cut"]
    assert (cut["cut"], cut["shortened"]) == (1, 0)
    assert "of 4 rows, 1 without the end of an answer" in told
    assert f"{cut['tokens']} tokens in all" in told
    done = fit(tiny, tmp_path / "b", rows=examples(3), max_steps=1, say=quiet)
    assert done.to_json()["cut"] == {"shortened": 0, "cut": 0, "tokens": 0}
    assert not any("Too long" in line for line in quiet)
