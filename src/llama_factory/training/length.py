"""How many updates a run has, and where it is cut short."""

import math

from llama_factory.training.batching import NEW, RowRef, plan_steps
from llama_factory.training.rows import Rows
from llama_factory.training.settings import TrainingSettings

Plan = list[list[RowRef]]
"""The rows of every update."""


def plan_run(rows: Rows, settings: TrainingSettings) -> Plan:
    """All updates of a run, cut at `max_train_tokens`; time is not planned with."""
    num_steps = count_steps(rows.sizes[NEW], settings)
    sizes, shares, kinds = rows.sizes, rows.shares, rows.kinds()
    plan = plan_steps(sizes, shares, settings.batch_size, num_steps, settings.seed, kinds)
    if settings.max_train_tokens is None:
        return plan
    return _cut(plan, rows, settings.max_train_tokens)


def count_steps(num_rows: int, settings: TrainingSettings) -> int:
    """Updates of a run over `num_rows` new rows, whatever cuts it short."""
    return settings.max_steps or math.ceil(num_rows * settings.epochs / settings.batch_size)


def _cut(plan: Plan, rows: Rows, max_tokens: int) -> Plan:
    seen = 0
    for number, refs in enumerate(plan, start=1):
        seen += sum(map(rows.num_tokens, refs))
        if seen >= max_tokens:
            return plan[:number]
    return plan
