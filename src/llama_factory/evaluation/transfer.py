"""What a task x round matrix comes to: AA, LA, BWT, forgetting and FWT, once or for many resamples.

Definitions as in Lopez-Paz and Ranzato 2017 (https://arxiv.org/abs/1706.08840) and Chaudhry et al.
2018 (https://arxiv.org/abs/1801.10112); every mean is over tasks.
"""

from dataclasses import dataclass

import numpy as np

from llama_factory.evaluation.statistics import Array, Mask


@dataclass(frozen=True)
class Cells:
    """A matrix in numbers; NaN where nothing was measured.

    Attributes:
        scores: [resamples, versions, tasks] R[i, j], versions oldest first.
        untaught: [resamples, tasks] R[j-1, j], just before the task's own round.
        base: [resamples, tasks] R[0, j], of the base model.
    """

    scores: Array
    untaught: Array
    base: Array


@dataclass(frozen=True)
class Summary:
    """A mean over some of the tasks.

    Attributes:
        terms: [resamples, tasks] what is averaged.
        counts: [tasks] whether the mean is over the task.
    """

    terms: Array
    counts: Mask

    @property
    def mean(self) -> Array:
        """[resamples]; NaN where it is over no task."""
        if not self.counts.any():
            return np.full(len(self.terms), np.nan)
        found: Array = self.terms[:, self.counts].mean(axis=1)
        return found


def summaries(cells: Cells, measured: Cells) -> dict[str, Summary]:
    """The five numbers by name.

    Args:
        cells: the matrix, or resamples of it.
        measured: the matrix itself, one resample: it says which tasks each mean is over.
    """
    seen = ~np.isnan(measured.scores[0])
    own, has_last = seen.argmax(axis=0), seen[-1]
    last, learned = cells.scores[:, -1], cells.scores[:, own, np.arange(seen.shape[1])]
    so_far = np.where(seen, cells.scores, -np.inf)[:, :-1]
    best: Array = so_far.max(axis=1, initial=-np.inf)
    is_earlier = has_last & (own < len(seen) - 1)
    is_later = (own > 0) & ~np.isnan(measured.untaught[0] - measured.base[0])
    return {
        "average": Summary(last, has_last),
        "learned": Summary(learned, seen.any(axis=0)),
        "backward_transfer": Summary(last - learned, is_earlier),
        "forgetting": Summary(best - last, is_earlier),
        "forward_transfer": Summary(cells.untaught - cells.base, is_later),
    }
