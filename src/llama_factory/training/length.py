"""How many updates a run has, and where it is cut short."""

import math

from llama_factory.training.planning import NEW, RowRef, plan_steps
from llama_factory.training.rows import Rows
from llama_factory.training.settings import TrainingSettings

Plan = list[list[RowRef]]
"""The rows of every update."""


def plan_run(rows: Rows, settings: TrainingSettings) -> Plan:
    """All updates of a run, cut at `max_train_tokens`; time is not planned with."""
    plan = _plan(rows, settings, count_steps(rows.sizes[NEW], settings))
    most = settings.max_train_tokens
    if most is None:
        return plan
    # planned anew, since what rises until the end has to reach it; other rows may be longer
    shorter = _plan(rows, settings, _count_within(most, plan, rows))
    return shorter[: _count_within(most, shorter, rows)]


def _plan(rows: Rows, settings: TrainingSettings, num_steps: int) -> Plan:
    sizes, shares, kinds = rows.sizes, rows.shares, rows.kinds()
    return plan_steps(sizes, shares, settings.batch_size, num_steps, settings.seed, kinds)


def count_steps(num_rows: int, settings: TrainingSettings) -> int:
    """Updates of a run over `num_rows` new rows, whatever cuts it short."""
    return settings.max_steps or math.ceil(num_rows * settings.epochs / settings.batch_size)


def _count_within(max_tokens: int, plan: Plan, rows: Rows) -> int:
    """Updates until so many tokens are seen."""
    seen = 0
    for number, refs in enumerate(plan, start=1):
        seen += sum(map(rows.num_tokens, refs))
        if seen >= max_tokens:
            return number
    return len(plan)
