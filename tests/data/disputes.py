"""Conflicts and cases for tests of the review."""

from llama_factory.core.types import Example, Message
from llama_factory.data.conflict_rules import ConflictSettings, conflict_among
from llama_factory.data.review import folder as review
from llama_factory.data.review.cases import Choice

ALL = ConflictSettings(review="all")
DROP, UNRESOLVED = Choice(), Choice(is_unresolved=True)


def row(question, answer, file="a.jsonl", line=1, **more):
    turns = (Message("user", question), Message("assistant", answer))
    return Example(turns, file.split(".")[0], file, line, **more)


WARRANTY = [row("保修多久？", "24个月"), row("保修多久", "12个月", "b.jsonl", 7)]
RETURNS = [
    row("Any refund?", "yes"),
    row("Any refund?", "Yes.", "b.jsonl"),
    row("any refund", "no"),
]


def conflict(rows, settings=ALL):
    return conflict_among(rows, settings)


def add(folder, *sets, settings=ALL):
    return review.add_cases(folder, [conflict(rows) for rows in sets], settings)


def one(folder, rows=WARRANTY, settings=ALL):
    return add(folder, rows, settings=settings)[0]


def said(folder):
    return [each.answer for each in review.accepted_rows(folder)]


def case(folder, found):
    return review.read_book(folder).cases[found.id]
