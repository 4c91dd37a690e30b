"""Rows of real models, drawn so that the true change of the mean is known: to test a test on.

Rows that changed are drawn more or less often than they came, by exponential tilting: of all
weights that give the wanted mean these are nearest to the rows' own (Efron 1981, "Nonparametric
standard errors and confidence intervals", section 11). How many answers change in both directions
stays as real as it can.
"""

import math

import numpy as np

from llama_factory.evaluation.statistics import Array

ADDED = (-1.0, 1.0)
"""Changes that are always possible, each as half a row: so that every mean can be had."""
ADDED_WEIGHT = 0.5
STEEPEST = 60.0


def tilted(changes: Array, drop: float) -> tuple[Array, Array]:
    """Values and how likely each is drawn, so that their mean is minus the drop.

    Args:
        changes: [rows] of a score between 0 and 1.
        drop: from 0 to below 1; below 0 for a gain.

    Returns:
        [rows + 2] values and probabilities.
    """
    values = np.concatenate([changes, ADDED])
    base = np.concatenate([np.ones(len(changes)), np.full(len(ADDED), ADDED_WEIGHT)])
    low, high = -STEEPEST, STEEPEST
    for _ in range(80):
        middle = (low + high) / 2
        if float(_weights(values, base, middle) @ values) < -drop:
            low = middle
        else:
            high = middle
    return values, _weights(values, base, (low + high) / 2)


def mean_of(values: Array, weights: Array) -> float:
    """The true mean of what is drawn."""
    return float(values @ weights)


def _weights(values: Array, base: Array, slope: float) -> Array:
    weights = base * np.exp(slope * values - math.fabs(slope))
    total: Array = weights / weights.sum()
    return total
