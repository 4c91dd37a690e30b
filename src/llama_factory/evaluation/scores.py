"""What a score's label says: which end of it is better, and whether it is a mean over rows."""

from llama_factory.evaluation.metrics import METRICS, Metric

PERPLEXITY = "perplexity"
"""Measured on every task, beside the metrics asked for. Lower is better."""


def higher_is_better(label: str) -> bool:
    """Which end of a score is better; labels begin with the metric's name."""
    part = METRICS.parts.get(label.partition(":")[0])
    return label != PERPLEXITY and (part is None or part.higher_is_better)


def metric_of(label: str) -> Metric | None:
    """The metric that a score is kept under, where its label says all of its settings."""
    name = label.partition(":")[0]
    metric = METRICS.parse(name) if name in METRICS.parts else None
    return metric if metric and metric.label == label else None


def is_mean(label: str) -> bool:
    """Whether a score is the plain mean of the rows' scores."""
    part = METRICS.parts.get(label.partition(":")[0])
    return part is not None and part.total is Metric.total
