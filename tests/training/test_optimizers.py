import math

import pytest

from llama_factory.training.optimizers import learning_rate_at
from llama_factory.training.settings import TrainingSettings


def course(**options):
    settings = TrainingSettings(learning_rate=1.0 - 1e-9, **options)
    return [learning_rate_at(step, 21, settings) for step in range(21)]


def test_cosine_rises_and_falls_to_its_final_share():
    rates = course(warmup_steps=5, final_lr_fraction=0.1)
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    middle = 0.1 + 0.9 * (1 + math.cos(math.pi * 7 / 15)) / 2
    assert rates[12] == pytest.approx(middle)
    assert rates[-1] == pytest.approx(0.1)


def test_linear_and_constant():
    assert course(warmup_steps=0, schedule="linear", final_lr_fraction=0)[10] == pytest.approx(0.5)
    assert set(course(warmup_steps=0, schedule="constant")) == {1.0 - 1e-9}
