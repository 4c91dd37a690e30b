"""Which of a task's labels an answer names."""

from collections.abc import Iterable, Sequence

from llama_factory.core.errors import suggest
from llama_factory.evaluation.answered import Answered, Scored, TaskRow
from llama_factory.evaluation.label_mentions import find_label

FEW_LABELS = 20
"""Up to so many different expected answers are labels, even in a small task."""


def score_labels(rows: Sequence[Answered]) -> list[Scored]:
    """1 for every row whose answer names the expected label; the label is its answer."""
    known = labels_of([row.row for row in rows])
    listed = []
    for row in rows:
        labels = row.row.options or known
        found = find_label(row.text, labels)
        right = same(found, row.row.expected)
        listed.append(Scored(row.row.expected, found, float(right), options=labels))
    return listed


def unfit_labels(rows: Sequence[TaskRow]) -> str:
    """Why the expected answers of these rows are no labels; empty where they are."""
    for row in rows:
        if row.options and not any(same(row.expected, option) for option in row.options):
            hint = suggest(row.expected, row.options)
            return (
                f"{row.place} expects '{row.expected}', which is not among its options "
                f"({', '.join(row.options)}).{hint}"
            )
    num_labels = len(labels_of(rows))
    if num_labels > max(FEW_LABELS, len(rows) / 2) and not all(row.options for row in rows):
        return (
            f"its {len(rows)} rows have {num_labels} different expected answers, so these are no "
            "labels. Give the rows options, or use exact_match."
        )
    return ""


def labels_of(rows: Iterable[TaskRow]) -> tuple[str, ...]:
    """The different expected answers, in order of appearance."""
    return tuple({plain(row.expected): row.expected for row in rows}.values())


def same(first: str, second: str) -> bool:
    """Whether two labels differ by case and white space at most."""
    return plain(first) == plain(second)


def plain(label: str) -> str:
    """Lower case, single spaces."""
    return " ".join(label.casefold().split())
