import math

import pytest
import torch

from llama_factory.training.monitor import SpikeWatch, divergence
from llama_factory.training.strategy import STRATEGIES, Protection, Strategy
from tests.training.test_loop import fit


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
def test_a_loss_that_ended_far_above_its_beginning_is_told(losses):
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


def test_gradients_that_exploded_are_told_also_where_the_loss_hides_it():
    assert "gradients grew to 4271 times" in divergence(rows([4.0] * 3, [3.5, 385.0, 14947.0]))
    assert divergence(rows([4.0] * 4, [0.5, 8.0, 9.0, 12.0])) == ""


def test_a_spike_shows_before_there_is_a_median():
    watch = SpikeWatch(5.0)
    assert watch.see(3.5) is None
    assert watch.see(30.0) is None
    assert watch.see(1000.0) == pytest.approx(1000 / 16.75)


class Ruin(Strategy):
    """Moves weights ever farther from where they should be, as too high a rate does."""

    def after_step(self, model, memory):
        draw = torch.Generator().manual_seed(0)
        head = model.network.get_output_embeddings().weight
        head.data.add_(2 * torch.randn(head.shape, generator=draw))


def test_a_run_that_diverges_says_so_and_keeps_it_in_its_report(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(STRATEGIES.parts, "ruin", Ruin)
    said = []
    done = fit(tiny, tmp_path, max_steps=6, protection=Protection((Ruin(),)), say=said)
    assert "The run diverged: the loss ended at" in done.divergence
    assert f"Warning: {done.divergence}" in said
    assert done.to_json()["divergence"] == done.divergence


def test_a_run_that_learns_says_nothing(tiny, tmp_path):
    said = []
    done = fit(tiny, tmp_path, max_steps=8, say=said)
    assert done.to_json()["divergence"] == ""
    assert not any("Warning" in text for text in said)
