"""The optimizer and the course of the learning rate, which is a function of the step alone."""

import math
from collections.abc import Iterable

from torch import nn
from torch.optim import AdamW

from llama_factory.training.settings import TrainingSettings


def make_optimizer(weights: Iterable[nn.Parameter], settings: TrainingSettings) -> AdamW:
    """AdamW (Loshchilov and Hutter 2019) in its fused form, states in the weights' format."""
    return AdamW(weights, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)


def learning_rate_at(step: int, num_steps: int, settings: TrainingSettings) -> float:
    """The rate of update `step` (from 0) out of `num_steps`."""
    warmup = settings.warmup_steps
    if warmup is None:
        warmup = math.ceil(settings.warmup_fraction * num_steps)
    peak = settings.learning_rate
    if step < warmup:
        return peak * (step + 1) / warmup
    if settings.schedule == "constant":
        return peak
    done = (step - warmup) / max(1, num_steps - 1 - warmup)
    falling = 1 - done if settings.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return peak * (settings.final_lr_fraction + (1 - settings.final_lr_fraction) * falling)
