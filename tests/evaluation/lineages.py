"""Lineages whose answers are made up, so that what they come to can be worked out by hand."""

from collections.abc import Mapping, Sequence

from llama_factory.core.types import EvalReport, TaskScores
from llama_factory.evaluation.forgetting import ForgettingMatrix, build_matrix
from llama_factory.evaluation.task_rows import Prediction

Rows = Mapping[str, Sequence[float]]
"""Scores of a task's rows, by task."""


def report(rows: Rows, metric: str) -> EvalReport:
    """What was measured on these rows."""
    tasks = {
        name: TaskScores(name, len(scores), {metric: sum(scores) / len(scores)})
        for name, scores in rows.items()
    }
    return EvalReport(tasks, 5.0, 1.0)


def answers(rows: Rows, metric: str) -> list[Prediction]:
    """The answers behind them; the same place in a task is the same question."""
    return [
        Prediction(task, "?", "!", "!", {metric: score}, key=f"{task} {number}")
        for task, scores in rows.items()
        for number, score in enumerate(scores)
    ]


def matrix_of(
    taught: Mapping[str, Rows],
    metric: str = "token_f1",
    *,
    untaught: Sequence[Rows] = (),
    base: Sequence[Rows] = (),
) -> ForgettingMatrix:
    """The matrix of a lineage."""
    return build_matrix(
        {version: report(rows, metric) for version, rows in taught.items()},
        metric,
        untaught=[report(rows, metric) for rows in untaught],
        base=[report(rows, metric) for rows in base],
    )
