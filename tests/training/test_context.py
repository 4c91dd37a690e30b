"""Processes that compute a part of each sequence make the updates of one that computes all."""

import json
import os

import pytest
import torch

from llama_factory.core.errors import ConfigError
from llama_factory.core.files import read_jsonl
from llama_factory.model.output_head import TokenLogProbs
from llama_factory.model.padding import IGNORED
from llama_factory.model.shared_sequences import Sharers
from llama_factory.rounds.settings import LearningConfig
from llama_factory.training import context
from llama_factory.training.context import share_sequences
from llama_factory.training.processes import Processes, process_group
from llama_factory.training.strategy import STRATEGIES
from tests.tiny import make_tiny_model
from tests.training.short_runs import examples, fit
from tests.training.test_fsdp import USUAL, make, together, weights
from tests.training.test_fsdp_parts import pairs

SGD = {"optimizer": "sgd", "learning_rate": 0.1, "eval_steps": 2}
"""Steps along the gradient itself: weights are as like as gradients are."""
DDP = {"type": "ddp", "context": 2}
FSDP = {"type": "fsdp", "context": 2}


def train(folder, tiny, adapter, environment, options):
    """One process's part of a run; the first one saves what came of it."""
    os.environ.update(environment)
    given = dict(options)
    rows = pairs() if given.get("objective") in ("dpo", "simpo") else examples(13)
    with process_group(timeout=60) as ours:
        model = make(tiny, adapter)
        trained = fit(
            tiny, folder, model=model, rows=rows, held_out=rows[:5], **(USUAL | SGD | given)
        )
        if ours.is_first:
            trained.model.save(folder / "model")
            (folder / "measured.json").write_text(json.dumps(trained.measured))


def course(folder):
    rows = [*read_jsonl(folder / "metrics.jsonl")]
    return [row["loss"] for row in rows], [row["gradient_norm"] for row in rows], rows


WAYS = [
    ("lora", {"parallel": DDP}, 2),
    ("full", {"parallel": FSDP}, 2),
    ("full", {"parallel": DDP, "gradient_checkpointing": True}, 4),
    ("lora", {"parallel": FSDP, "gradient_checkpointing": True, "objective": "eaft"}, 4),
    ("lora", {"parallel": DDP, "objective": "dpo"}, 2),
    ("lora", {"parallel": {"type": "ddp", "context": 3}, "objective": "pretrain"}, 3),
]


@pytest.mark.slow
@pytest.mark.parametrize(("adapter", "options", "count"), WAYS)
def test_parts_of_sequences_add_up_to_whole_ones(tiny_model, tmp_path, adapter, options, count):
    alone = {key: each for key, each in options.items() if key != "parallel"}
    train(tmp_path / "one", tiny_model, adapter, {}, alone)
    together(count, train, tmp_path / "many", tiny_model, adapter, {}, options)
    (losses, norms, rows), (shared, shared_norms, shared_rows) = (
        course(tmp_path / name) for name in ("one", "many")
    )
    assert shared == pytest.approx(losses, rel=1e-6)
    assert shared_norms == pytest.approx(norms, rel=1e-5)
    assert shared_rows[-1]["eval_loss"] == pytest.approx(rows[-1]["eval_loss"], rel=1e-6)
    one, many = (weights(tmp_path / name) for name in ("one", "many"))
    assert one.keys() == many.keys()
    for name, each in one.items():
        torch.testing.assert_close(many[name], each, rtol=1e-5, atol=1e-6)


def look_at_gradients(folder, tiny, environment):
    """Gradients of every weight, and what a pass keeps for them."""
    os.environ.update(environment)
    with process_group(timeout=60) as ours:
        model = make(tiny, "full").network.double()
        ids = torch.arange(4, 4 + 3 * 46).reshape(3, 46)
        targets = ids.roll(-1, 1)
        targets[:, :20], targets[1] = IGNORED, IGNORED
        kernel, kept = TokenLogProbs(model), {}

        def keep(tensor):
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
            return tensor

        shared = share_sequences(model, ours.count, reads_weights=False)
        own = {each.data_ptr() for each in model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            if shared is None:
                (kernel(ids, targets) * torch.arange(1, 53)).sum().backward()
            else:
                with shared.on():
                    outputs = shared.outputs(kernel, ids, targets)
                    (outputs * torch.arange(1, 53)).sum().backward()
        gradients = [weight.grad for weight in model.parameters()]
        if ours.are_several:
            for gradient in gradients:
                torch.distributed.all_reduce(gradient)
        num_bytes = sum(size for place, size in kept.items() if place not in own)
        torch.save((gradients, num_bytes), folder / f"{ours.count}-{ours.rank}.pt")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("llama", 1e-9), ("gpt_neox", 1e-9), ("gemma", 1e-4)],  # gemma's norms round to float32
)
def test_gradients_are_those_of_whole_sequences_and_less_is_kept(tmp_path, name, tolerance):
    base = make_tiny_model(tmp_path / "base", name)
    look_at_gradients(tmp_path, base, {})
    alone, num_bytes = torch.load(tmp_path / "1-0.pt")
    together(2, look_at_gradients, tmp_path, base, {})
    for rank in range(2):
        gradients, kept = torch.load(tmp_path / f"2-{rank}.pt")
        for one, many in zip(alone, gradients, strict=True):
            torch.testing.assert_close(many, one, rtol=tolerance, atol=tolerance)
        assert kept < 0.7 * num_bytes


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_every_token_is_one_processs_and_all_see_alike_much(count):
    num_tokens = 4 * count * 2
    device = torch.device("cpu")
    own = [Sharers(rank, count).places(num_tokens, rank, device) for rank in range(count)]
    assert sorted(torch.cat(own).tolist()) == list(range(num_tokens))
    assert len({int(places.sum()) for places in own}) == 1
    for rank, places in enumerate(own):
        early, late = Sharers(rank, count).ends(len(places))
        assert [early - 1, late - 1] == [int(places[len(places) // 2 - 1]), int(places[-1])]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"training": {"share_prefixes": True}}, "context and training.share_prefixes exclude"),
        ({"training": {"neftune_alpha": 5.0}}, "context and training.neftune_alpha exclude"),
        ({"training": {"objective": "reward"}}, "this training.objective exclude each other"),
        ({"training": {"objective": "asft"}}, "this training.objective exclude each other"),
        ({"model": {"adapter": "prompt"}}, "context and adapter prompt exclude each other"),
    ],
)
def test_what_needs_whole_rows_is_refused_by_name(settings, problem):
    training = {"parallel": DDP} | settings.get("training", {})
    with pytest.raises(ValueError, match=problem):
        LearningConfig.model_validate({**settings, "training": training})


def test_processes_that_cannot_be_divided_are_told_how_many_to_start(tiny_model, tmp_path):
    with pytest.raises(
        ConfigError, match="2 processes are to compute each sequence, and there are 1"
    ):
        fit(tiny_model, tmp_path, parallel=DDP)


@pytest.fixture
def two(monkeypatch):
    monkeypatch.setattr(context, "current", lambda: Processes(0, 2))


def test_strategies_that_make_passes_of_their_own_are_refused(tiny_model, two):
    reads = STRATEGIES.parse("ewc").reads_weights
    assert reads
    with pytest.raises(ConfigError, match="strategies but replay, anchor and freeze make passes"):
        share_sequences(make(tiny_model, "lora").network, 2, reads_weights=reads)
