"""Sums over the micro-batches of an update, of one process and of several."""

from types import SimpleNamespace

import pytest
import torch

from llama_factory.training.objectives import Losses
from llama_factory.training.objectives.dpo import Dpo
from llama_factory.training.objectives.sft import Sft
from llama_factory.training.processes import Processes
from llama_factory.training.totals import Totals

CPU = torch.device("cpu")
NAN = float("nan")


def micro(objective, *sources):
    """A micro-batch, of which only the sources of its tokens or rows count here."""
    places = torch.tensor(sources)
    return SimpleNamespace(objective=objective, sources=places, row_sources=places)


class Two(Processes):
    """Two processes that count the same."""

    def gather(self, value):
        return [value, value]


def some():
    totals = Totals(2, CPU)
    weighted = torch.tensor([0.5, 0.25, 1.0], requires_grad=True)
    numbers = {"reward": torch.tensor([1.0, NAN]), "never": torch.tensor([NAN])}
    totals.add(weighted, micro(Sft(), 0, 1, 0), Losses(weighted))
    totals.add(torch.tensor([2.0, 4.0]), micro(Dpo(), 1, 1), Losses(weighted, numbers))
    totals.add(torch.tensor([0.0]), micro(Dpo(), 0), Losses(weighted, {"reward": torch.ones(3)}))
    for term in (0.5, 0.25):
        totals.add_terms({"pull": torch.tensor(term, requires_grad=True)})
    totals.set("gradient_norm", torch.tensor(3.0))
    return totals


def test_losses_add_up_by_source_and_numbers_are_means_over_rows_that_have_one():
    sums = some().read(Processes())
    assert sums.by_source.tolist() == [1.5, 6.25]
    assert sums.loss == 7.75
    assert sums.means == {"reward": 1.0}
    assert sums.terms == {"pull": 0.75, "gradient_norm": 3.0}


def test_processes_add_up_all_but_what_is_the_same_in_each():
    sums = some().read(Two())
    assert sums.by_source.tolist() == [3.0, 12.5]
    assert sums.means == {"reward": 1.0}
    assert sums.terms == {"pull": 1.5, "gradient_norm": 3.0}


def test_numbers_are_logged_with_the_mean_loss_of_each_source():
    batch = SimpleNamespace(sources=("new", "replay"), shares=(0.75, 0.25))
    numbers = some().read(Processes()).by_name(batch)
    assert numbers == pytest.approx(
        {"loss": 7.75, "loss_new": 2.0, "loss_replay": 25.0, "reward": 1.0}
        | {"pull": 0.75, "gradient_norm": 3.0}
    )
    assert next(iter(numbers)) == "loss"
    assert list(numbers)[-1] == "gradient_norm"
