import math

import pytest
import torch
from pydantic import ValidationError
from transformers.optimization import get_scheduler

from llama_factory.training.plan import learning_rate_at
from llama_factory.training.settings import TrainingSettings


def course(num_steps=21, **options):
    settings = TrainingSettings(learning_rate=1.0 - 1e-9, **options)
    return [learning_rate_at(step, num_steps, settings) for step in range(num_steps)]


def test_cosine_rises_and_falls_to_its_final_share():
    rates = course(warmup_steps=5, final_lr_fraction=0.1)
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    middle = 0.1 + 0.9 * (1 + math.cos(math.pi * 7 / 15)) / 2
    assert rates[12] == pytest.approx(middle)
    assert rates[-1] == pytest.approx(0.1)


def test_linear_and_constant():
    assert course(warmup_steps=0, schedule="linear", final_lr_fraction=0)[10] == pytest.approx(0.5)
    assert set(course(warmup_steps=0, schedule="constant")) == {1.0 - 1e-9}


@pytest.mark.parametrize("num_warmup", [0, 4])
@pytest.mark.parametrize(
    ("name", "known", "theirs"),
    [
        ("linear", {}, {}),
        ("cosine", {}, {}),
        ("constant", {}, {}),
        ("cosine_with_restarts", {"num_cycles": 2}, {"num_cycles": 2}),
        ("polynomial", {"power": 2.0}, {"power": 2.0, "lr_end": 0.0}),
        ("inverse_sqrt", {"timescale": 7}, {"timescale": 7}),
    ],
)
def test_schedules_that_end_after_the_run_are_those_of_transformers(
    name, known, theirs, num_warmup
):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0 - 1e-9)
    kind = "constant_with_warmup" if name == "constant" else name
    options = {"num_warmup_steps": num_warmup, "num_training_steps": 12}
    schedule = get_scheduler(kind, optimizer, **options, scheduler_specific_kwargs=theirs)
    expected = []
    for _ in range(12):
        expected.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    given = {"schedule": {"type": name} | known, "final_lr_fraction": 0, "schedule_ends": "after"}
    assert course(12, warmup_steps=num_warmup, **given) == pytest.approx(expected, abs=1e-9)


def test_wsd_stays_at_its_peak_and_falls_over_its_last_share():
    wsd = {"type": "wsd", "decay_fraction": 0.4}
    rates = course(10, warmup_steps=2, schedule=wsd, final_lr_fraction=0.2)
    hand = [0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]
    assert rates == pytest.approx(hand)


def test_a_wsd_run_can_be_made_longer_without_another_beginning():
    wsd = {"type": "wsd", "decay_fraction": 0.1}
    short, long = (course(n, warmup_steps=5, schedule=wsd) for n in (50, 100))
    assert short[:45] == long[:45]


def test_warmup_is_a_share_of_the_steps_or_a_number_of_them():
    share = course(20, warmup_fraction=0.25)
    assert share == course(20, warmup_steps=5)
    assert share[0] == pytest.approx(0.2)


@pytest.mark.parametrize("name", ["cosine", "linear", "constant", "wsd"])
@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_the_shortest_runs_have_a_rate(name, num_steps):
    rates = course(num_steps, schedule=name)
    assert all(0 < rate <= 1 for rate in rates)


def test_an_unknown_schedule_names_the_nearest():
    with pytest.raises(ValidationError, match=r"'cosin' is not a schedule. Did you mean 'cosine'"):
        TrainingSettings(schedule="cosin")
