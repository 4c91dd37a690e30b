"""Rows and scores for tests of metrics."""

from llama_factory.core.types import TEXT, Example, Message
from llama_factory.evaluation.task_rows import AnsweredRow, ScoredRow, TaskRow


def task_row(expected, *options, question="?", line=1):
    turns = (Message("user", question), Message("assistant", expected))
    return TaskRow(Example(turns, "g", "rows.jsonl", line), options)


def text_row(text="Once upon a time"):
    return TaskRow(Example((Message(TEXT, text),), "g", "book.txt", 3))


def answered(expected, answer, *options, is_cut=False, question="?"):
    return AnsweredRow(task_row(expected, *options, question=question), answer, 3, is_cut)


def score(metric, *pairs):
    """The rows' scores and their total."""
    scored = metric.score_rows([answered(*pair) for pair in pairs])
    return [each.score for each in scored], metric.total(scored)


def corpus(metric, *pairs):
    """The total of expected and answered texts."""
    return metric.total([ScoredRow(e, a, metric.score(e, a)) for e, a in pairs])
