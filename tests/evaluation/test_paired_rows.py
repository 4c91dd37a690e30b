"""Rows of two models side by side: paired by content, left out where one of them lacks a row."""

import math

import numpy as np

from llama_factory.evaluation.paired_rows import pair_rows
from llama_factory.evaluation.task_rows import Prediction


def predictions(task, scores, metric="token_f1", nats=None):
    return [
        Prediction(task, "?", "", "", {metric: score}, (nats or [1.0] * 9)[n], tokens=2, key=str(n))
        for n, score in enumerate(scores)
    ]


def test_a_change_is_paired_by_row_whatever_the_order_of_the_rows():
    before, after = [0.25, 0.875, 0.5, math.nan], [0.5, 0.75, 1.0, math.nan]
    earlier = [*predictions("other", [1.0]), *predictions("t", [0.0]), *predictions("t", before)]
    later = [*reversed(predictions("t", after)), *predictions("new", [1.0])]
    paired = pair_rows(earlier, later, "token_f1")
    assert list(paired) == ["t"]  # of "new" nothing is known before
    assert sorted(paired["t"].changes) == [-0.125, 0.25, 0.5]
    assert paired["t"].nats.shape == (4, 3)


def test_scores_are_compared_only_of_the_same_rows_and_of_means():
    one = predictions("t", [0.5, 0.5])
    lacks_a_score = pair_rows(one, predictions("t", [0.5, math.nan]), "token_f1")
    assert len(lacks_a_score["t"].scores) == 0
    assert pair_rows(one, predictions("t", [0.5, 0.5, 0.5]), "token_f1") == {}
    assert len(pair_rows(one, one, "exact_match")["t"].scores) == 0
    bleu = predictions("t", [1, 0], "bleu")
    assert len(pair_rows(bleu, bleu, "bleu")["t"].scores) == 0


def test_nats_that_are_no_number_are_no_evidence():
    one = predictions("t", [0.5, 0.5])
    broken = predictions("t", [0.5, 0.5], nats=[1.0, math.nan])
    assert len(pair_rows(one, broken, "token_f1")["t"].nats) == 0
    better = predictions("t", [0.5, 0.5], nats=[0.5, 0.25])
    assert np.allclose(pair_rows(one, better, "token_f1")["t"].gained_nats, [0.5, 0.75])
