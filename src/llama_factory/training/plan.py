"""The plan of a run: the rows of every update, how many updates there are, and their rates.

A function of rows, settings and seed: a run that goes on has the updates it would have had.
"""

import hashlib
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import count, cycle

import torch

from llama_factory.training.items import NEW, Kind, RowRef, Rows
from llama_factory.training.schedules import Course
from llama_factory.training.settings import TrainingSettings
from llama_factory.training.strategy import Share

TINY = 1e-6
"""0.1 x 10 must count as 1 row, whatever the rounding."""
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
    plan = plan_steps(sizes, shares, settings.batch_size, num_steps, settings.seed, kinds)
    return plan if settings.shuffle else _in_order(plan, sizes[NEW])


def _in_order(plan: Plan, size: int) -> Plan:
    """The same plan with the new rows as they lie, again from the first when used up."""
    rows = cycle(range(size))
    return [
        [RowRef(NEW, next(rows)) if ref.source == NEW else ref for ref in update] for update in plan
    ]


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


def plan_steps(
    sizes: Mapping[str, int],
    shares: Mapping[str, Share],
    batch_size: int,
    num_steps: int,
    seed: int,
    kinds: Mapping[str, Sequence[Kind]] | None = None,
) -> Plan:
    """The rows of every update.

    Rows of extra sources replace new rows, so the number of updates does not grow. Where a share
    of the batch is not a whole number of rows, some updates get one row more than others.

    Args:
        sizes: rows in each source; NEW is one of them.
        shares: of each extra source.
        batch_size: rows in an update.
        num_steps: updates.
        seed: of the order.
        kinds: of the rows of sources whose kinds are spread evenly over the order.
    """
    known = kinds or {}
    streams = {name: _endless(name, n, seed, known.get(name, ())) for name, n in sizes.items()}
    new = 1 - sum(share.of_rows for share in shares.values())
    given = dict.fromkeys(shares, 0)
    plan = []
    for step in range(1, num_steps + 1):
        update: list[RowRef] = []
        for name, share in shares.items():
            so_far = share.until(step / num_steps, new) * batch_size * num_steps
            due = int(so_far + TINY) - given[name]
            taken = [next(streams[name]) for _ in range(min(due, batch_size - len(update)))]
            given[name] += len(taken)
            update += taken
        plan.append([next(streams[NEW]) for _ in range(batch_size - len(update))] + update)
    return plan


def derive_seed(*parts: int | str) -> int:
    """One 63-bit seed out of several values, the same on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _endless(source: str, size: int, seed: int, kinds: Sequence[Kind]) -> Iterator[RowRef]:
    """All rows in a shuffled order, then all again in another one, without end."""
    for epoch in count():
        order = shuffled(size, derive_seed(seed, source, epoch), kinds)
        yield from (RowRef(source, index) for index in order)


def every(often: int | float | str, num_steps: int, epochs: float) -> int:
    """Updates between two of something that is done so often.

    Args:
        often: updates, a share of the run below 1, or `epoch`.
        num_steps: updates of the whole run.
        epochs: passes over the new rows in it.
    """
    if isinstance(often, str):
        return max(1, round(num_steps / max(epochs, 1)))
    return max(1, math.ceil(often * num_steps) if often < 1 else int(often))


def shuffled(size: int, seed: int, kinds: Sequence[Kind] = ()) -> list[int]:
    """The numbers below `size` in a random order, with every kind of row spread evenly over it.

    Few old rows are mixed into a round, so a shuffle alone may leave out some answers of a task, or
    give a task half of another one's rows. Each kind is spread evenly over the whole order
    (systematic sampling; Cochran, Sampling Techniques, 1977, chapter 8): first the groups, then a
    group's answers.

    Args:
        size: how many.
        seed: of the order.
        kinds: [size] kind of each, all of one depth; every division is spread evenly. Empty: the
            order is random in all respects.
    """
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(size, generator=draw).tolist()
    return _spread(order, kinds, 0, draw) if kinds else order


def _spread(
    order: list[int], kinds: Sequence[Kind], level: int, draw: torch.Generator
) -> list[int]:
    """Rows of one division, those of its parts as evenly among each other as can be."""
    if level == len(kinds[order[0]]):
        return order
    parts: dict[Hashable, list[int]] = {}
    for row in order:
        parts.setdefault(kinds[row][level], []).append(row)
    offsets = torch.rand(len(parts), generator=draw).tolist()
    placed = [
        ((place + offset) / len(part), row)
        for offset, part in zip(offsets, parts.values(), strict=True)
        for place, row in enumerate(_spread(part, kinds, level + 1, draw))
    ]
    return [row for _, row in sorted(placed)]


def learning_rate_at(step: int, num_steps: int, settings: TrainingSettings) -> float:
    """The rate of update `step` (from 0) out of `num_steps` planned ones."""
    warmup = settings.warmup_steps
    if warmup is None:
        warmup = math.ceil(settings.warmup_fraction * num_steps)
    peak, floor = settings.learning_rate, settings.final_lr_fraction
    course = Course(num_steps, warmup, ends_after=settings.schedule_ends == "after")
    if step < warmup:
        return peak * course.warmth(step)
    height = settings.schedule.height(step, course)
    return peak * (floor + (1 - floor) * height)
