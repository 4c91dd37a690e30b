"""Schedules: the learning rate after the warm-up, as functions of the step alone."""

import math
from dataclasses import dataclass

from pydantic import Field

from llama_factory.core.settings import Registry, Settings


@dataclass(frozen=True)
class Course:
    """The steps of a run.

    Attributes:
        num_steps: planned, warm-up included.
        num_warmup: of them, the first ones, in which the rate rises.
        ends_after: whether the final rate would be that of a step after the last one.
    """

    num_steps: int
    num_warmup: int
    ends_after: bool = False

    @property
    def last(self) -> int:
        """The step that has the final rate."""
        return self.num_steps - (not self.ends_after)

    def done(self, step: int) -> float:
        """Fraction of the steps after the warm-up that are done: 0 at the first, 1 at the last."""
        return (step - self.num_warmup) / max(1, self.last - self.num_warmup)

    def warmth(self, step: int) -> float:
        """Fraction of the peak at a step of the warm-up."""
        return (step + (not self.ends_after)) / self.num_warmup


class Schedule(Settings):
    """How the rate goes on from its peak. A part holds settings only."""

    def height(self, step: int, course: Course) -> float:
        """Where the rate stands between its final value (0) and its peak (1).

        Args:
            step: from `course.num_warmup` to `course.num_steps` - 1.
            course: the steps of the run.
        """
        raise NotImplementedError


SCHEDULES: Registry[Schedule] = Registry("schedule")


@SCHEDULES.register("constant")
class Constant(Schedule):
    """The peak until the end."""

    def height(self, step: int, course: Course) -> float:
        """See `Schedule.height`."""
        return 1.0


@SCHEDULES.register("cosine")
class Cosine(Schedule):
    """Slow at first, fast in the middle, slow at the end; one fall, no restarts."""

    def height(self, step: int, course: Course) -> float:
        """Loshchilov and Hutter 2017, equation 5, https://arxiv.org/abs/1608.03983."""
        return (1 + math.cos(math.pi * course.done(step))) / 2


@SCHEDULES.register("linear")
class Linear(Schedule):
    """The same amount down at every step."""

    def height(self, step: int, course: Course) -> float:
        """See `Schedule.height`."""
        return 1 - course.done(step)


@SCHEDULES.register("cosine_with_restarts")
class CosineWithRestarts(Schedule):
    """Several falls like that of `cosine`, each from the peak again."""

    num_cycles: int = Field(1, ge=1)
    """How many falls there are. Higher lets the rate rise more often."""

    def height(self, step: int, course: Course) -> float:
        """Loshchilov and Hutter 2017, equation 5, https://arxiv.org/abs/1608.03983."""
        done = course.done(step)
        within = 1.0 if done >= 1 else done * self.num_cycles % 1
        return (1 + math.cos(math.pi * within)) / 2


@SCHEDULES.register("polynomial")
class Polynomial(Schedule):
    """A power of what is left of the run."""

    power: float = Field(1.0, gt=0)
    """1 is `linear`. Higher falls faster at first."""

    def height(self, step: int, course: Course) -> float:
        """See `Schedule.height`."""
        return float((1 - course.done(step)) ** self.power)


@SCHEDULES.register("inverse_sqrt")
class InverseSqrt(Schedule):
    """One over the square root of the step: slower and slower, without an end."""

    timescale: int | None = Field(None, ge=1)
    """Steps after the warm-up in which the rate falls to 0.7 of its peak. Higher falls more slowly.
    Empty: as many as the warm-up has."""

    def height(self, step: int, course: Course) -> float:
        """Vaswani et al. 2017, equation 3, https://arxiv.org/abs/1706.03762."""
        scale = self.timescale or max(1, course.num_warmup)
        done = step + (not course.ends_after) - course.num_warmup
        return float((scale / max(scale, scale + done)) ** 0.5)


@SCHEDULES.register("wsd")
class Wsd(Schedule):
    """The peak for most of the run, then a straight fall: a run can be made longer afterwards."""

    decay_fraction: float = Field(0.1, gt=0, le=1)
    """Fraction of all steps in which the rate falls, at the end. Higher is closer to `linear`."""

    def height(self, step: int, course: Course) -> float:
        """Warm-up, stable, decay. Hu et al. 2024, section 4, https://arxiv.org/abs/2404.06395."""
        num_falling = min(
            max(1, round(self.decay_fraction * course.num_steps)),
            max(1, course.num_steps - course.num_warmup),
        )
        left = course.last - step
        return min(1.0, left / num_falling)
