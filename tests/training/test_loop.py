"""Invariants of the loop, on a tiny model: what may change its results and what may not."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from llama_factory.continual.strategies.replay import Replay
from llama_factory.core.errors import DataError, FactoryError
from llama_factory.core.files import read_jsonl
from llama_factory.core.types import Example, Memory, Message
from llama_factory.model.chat.encoding import encode
from llama_factory.training import checkpoints
from llama_factory.training.items import NEW
from llama_factory.training.loop import Protection
from llama_factory.training.plan import plan_steps
from tests.tiny import make_tiny_model
from tests.training.short_runs import examples, fit, flat, losses, make, weights


def test_the_model_learns(tiny, tmp_path):
    fit(tiny, tmp_path, max_steps=30)
    course = losses(tmp_path)
    assert course[-1] < 0.7 * course[0]


@pytest.mark.variants
@pytest.mark.parametrize("options", [{"micro_batch_tokens": 16}, {"micro_batch_size": 1}])
def test_micro_batching_does_not_change_the_run(tiny, tmp_path, options):
    whole = fit(tiny, tmp_path / "a", micro_batch_tokens=100_000)
    cut = fit(tiny, tmp_path / "b", **options)
    torch.testing.assert_close(weights(cut), weights(whole), rtol=1e-4, atol=1e-5)
    assert losses(tmp_path / "b") == pytest.approx(losses(tmp_path / "a"), rel=1e-5)


def test_the_loss_of_an_update_is_the_plain_mean_over_its_tokens(tiny, tmp_path):
    rows = examples(4)
    fit(tiny, tmp_path, rows=rows, batch_size=4, max_steps=1)
    model = make(tiny)
    total, count = 0.0, 0
    for row in rows:
        turns = [{"role": t.role, "content": t.content} for t in row.messages]
        ask = model.tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True)[
            "input_ids"
        ]
        ids = model.tokenizer.apply_chat_template(turns)["input_ids"][:-1]  # without the newline
        labels = torch.tensor([[-100] * len(ask) + ids[len(ask) :]])
        trained = len(ids) - len(ask)
        total += float(model.network(input_ids=torch.tensor([ids]), labels=labels).loss) * trained
        count += trained
    assert losses(tmp_path)[0] == pytest.approx(total / count, rel=1e-5)


def test_no_strategy_and_an_empty_memory_are_plain_training_bit_for_bit(tiny, tmp_path):
    plain = fit(tiny, tmp_path / "a")
    replay = fit(tiny, tmp_path / "b", protection=Protection((Replay(),), Memory()))
    assert torch.equal(weights(plain), weights(replay))


@pytest.mark.slow
def test_a_run_is_adamw_on_the_mean_over_trained_tokens(tiny, tmp_path):
    """The same updates in a few lines that share nothing with the loop but the plan's rows."""
    rows, flat_rate = examples(13), {"schedule": {"type": "constant"}, "warmup_steps": 0}
    trained = fit(tiny, tmp_path, rows=rows, batch_size=4, learning_rate=1e-2, **flat_rate)
    model = make(tiny)
    plan = plan_steps({NEW: len(rows)}, {}, 4, 6, seed=0)
    own = list(model.trainable().values())
    optimizer = torch.optim.AdamW(own, lr=1e-2, weight_decay=0.0)
    for refs in plan:
        codes = [encode(rows[ref.index], model.tokenizer, model.options) for ref in refs]
        count = sum(sum(code.is_trained) for code in codes)
        for code in codes:
            ids, asked = torch.tensor(code.ids), torch.tensor(code.is_trained)
            logits = model.network(input_ids=ids[None]).logits[0, :-1]
            targets = torch.where(asked, ids, -100)[1:]
            (cross_entropy(logits, targets, reduction="sum") / count).backward()
        torch.nn.utils.clip_grad_norm_(own, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    by_hand, begun = (flat(weights) for weights in (own, make(tiny).trainable().values()))
    moved = (by_hand - begun).norm()
    assert float((weights(trained) - by_hand).norm()) < 1e-3 * float(moved)


@pytest.mark.slow
def test_gradients_are_turned_before_they_are_clipped(tiny, tmp_path, monkeypatch):
    seen = []

    def enlarge(strategy, model, memory):
        for weight in model.trainable().values():
            weight.grad.mul_(1000)
        squares = [weight.grad.square().sum() for weight in model.trainable().values()]
        seen.append(float(sum(squares)) ** 0.5)

    monkeypatch.setattr(Replay, "adjust_gradients", enlarge)
    fit(tiny, tmp_path, protection=Protection((Replay(),)), max_grad_norm=0.5)
    told = [row["gradient_norm"] for row in read_jsonl(tmp_path / "metrics.jsonl")]
    assert told == pytest.approx(seen, rel=1e-4)
    assert min(seen) > 0.5  # the norm before it is cut is what strategies left


@pytest.mark.slow
def test_replay_mixes_old_rows_into_the_loss_and_keeps_new_ones(tiny, tmp_path):
    memory = Memory(rows={"replay": tuple(examples(9, "old"))})
    protection = Protection((Replay(fraction=0.25),), memory)
    trained = fit(tiny, tmp_path, rows=examples(20, "new"), protection=protection)
    assert all("loss_replay" in row for row in read_jsonl(tmp_path / "metrics.jsonl"))
    groups = {row.group for row in trained.memory.rows["replay"]}
    assert groups == {"old", "new"}


@pytest.mark.variants
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_resume_equals_uninterrupted(tiny, tmp_path, dropout):
    options = {"max_steps": 8, "checkpoint_steps": 3}
    whole = fit(tiny, tmp_path / "a", model=make(tiny, dropout), **options)
    fit(tiny, tmp_path / "b", model=make(tiny, dropout), **options)
    for name in ("step-00000008",):  # as if killed after step 7, of which 6 were saved
        (tmp_path / "b/checkpoints" / name / "state.json").unlink()
    again = fit(tiny, tmp_path / "b", model=make(tiny, dropout), **options)
    assert torch.equal(weights(whole), weights(again))
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert again.num_tokens == whole.num_tokens


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(tiny, tmp_path):
    first = fit(tiny, tmp_path)
    written = (tmp_path / "metrics.jsonl").read_text()
    again = fit(tiny, tmp_path)
    assert torch.equal(weights(first), weights(again))
    assert (tmp_path / "metrics.jsonl").read_text() == written


@pytest.mark.slow
def test_a_checkpoint_of_other_settings_is_put_aside_and_what_changed_is_reported(tiny, tmp_path):
    fit(tiny, tmp_path, learning_rate=1e-3, max_steps=8)
    said = []
    fit(tiny, tmp_path, learning_rate=1e-2, say=said)
    (line,) = [text for text in said if text.startswith("Begun anew")]
    assert (
        "Changed since: training.max_steps (8, now 6), training.learning_rate (0.001, now" in line
    )
    assert (tmp_path / "checkpoints.replaced" / "step-00000008").is_dir()
    assert "They are kept in checkpoints.replaced; to go on with them, undo the change." in line
    other = fit(tiny, tmp_path / "fresh", learning_rate=1e-2)
    same = fit(tiny, tmp_path, learning_rate=1e-2)
    assert torch.equal(weights(other), weights(same))


@pytest.mark.slow
def test_a_checkpoint_of_another_base_model_is_put_aside(tiny, tmp_path):
    fit(tiny, tmp_path)
    said = []
    other = make_tiny_model(tmp_path / "other", seed=3)
    fit(tiny, tmp_path, model=make(other), say=said)
    (line,) = [text for text in said if text.startswith("Begun anew")]
    assert "Changed since: the base model's files. They" in line


@pytest.mark.slow
def test_damaged_checkpoints_are_skipped(tiny, tmp_path, caplog):
    whole = fit(tiny, tmp_path, max_steps=8, checkpoint_steps=3)
    newest = tmp_path / "checkpoints/step-00000008/weights.safetensors"
    newest.write_bytes(newest.read_bytes()[:-7])
    again = fit(tiny, tmp_path, max_steps=8, checkpoint_steps=3)
    assert "step-00000008 is damaged or half-written and is skipped" in caplog.text
    assert torch.equal(weights(whole), weights(again))


@pytest.mark.slow
def test_only_the_newest_checkpoints_stay(tiny, tmp_path):
    fit(tiny, tmp_path, max_steps=8, checkpoint_steps=2)
    names = sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*"))
    assert names == ["step-00000006", "step-00000008"]
    assert len(names) == checkpoints.KEPT


@pytest.mark.slow
def test_rows_that_are_too_long_are_left_out_and_counted(tiny, tmp_path):
    long = Example((Message("user", "word " * 300), Message("assistant", "a")), "g", "f", 1)
    done = fit(tiny, tmp_path, rows=[*examples(5), long])
    assert [unfit.row for unfit in done.unfit] == [long]
    assert done.to_json()["unfit"] == 1
    assert "f:1: its prompt fills all 128 tokens" in done.to_json()["unfit_rows"][0]
    with pytest.raises(DataError, match=r"1 of 1 cannot be taught with data.max_tokens = 128"):
        fit(tiny, tmp_path, rows=[long])


def test_a_loss_that_is_not_finite_stops_the_run(tiny, tmp_path):
    model = make(tiny)
    with torch.no_grad():
        next(iter(model.trainable().values())).fill_(float("nan"))
    with pytest.raises(FactoryError, match="not a finite number in 3 updates in a row"):
        fit(tiny, tmp_path, model=model)


@pytest.mark.slow
def test_a_time_limit_ends_with_a_checkpoint_and_a_later_start_goes_on(tiny, tmp_path):
    whole = fit(tiny, tmp_path / "whole")
    done = fit(tiny, tmp_path / "cut", max_minutes=1e-6)
    assert (done.position.step, done.ended_by) == (1, "max_minutes")
    assert done.to_json()["ended_by"] == "max_minutes"
    assert fit(tiny, tmp_path / "cut", max_minutes=1e-6).position.step == 1
    longer = fit(tiny, tmp_path / "cut")
    assert torch.equal(weights(longer), weights(whole))
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


@pytest.mark.slow
def test_padding_is_reported(tiny, tmp_path):
    fit(tiny, tmp_path, micro_batch_size=8, batch_size=8, quick_layers=False)
    for row in read_jsonl(tmp_path / "metrics.jsonl"):
        assert 0 <= row["padding_fraction"] < 1
    assert any(row["padding_fraction"] > 0 for row in read_jsonl(tmp_path / "metrics.jsonl"))
    fit(tiny, tmp_path / "quick")
    rows = read_jsonl(tmp_path / "quick" / "metrics.jsonl")
    assert all(row["padding_fraction"] == 0 for row in rows)
