"""The rows that two versions answered differently, from what they answered in their own rounds."""

from llama_factory.evaluation.comparison import RowChange, row_changes
from llama_factory.evaluation.lineage_scores import PREDICTIONS
from llama_factory.evaluation.task_rows import read_predictions
from llama_factory.versions.version import ModelVersion

RowChanges = tuple[RowChange, ...]


def changed_answers(before: ModelVersion, after: ModelVersion) -> tuple[RowChanges, RowChanges]:
    """Rows that got worse and rows that got better, the largest change first.

    Args:
        before: the first version.
        after: the second one; rows that only one of them answered are left out.
    """
    old = {(each.task, each.key): each for each in read_predictions(before.folder / PREDICTIONS)}
    new = read_predictions(after.folder / PREDICTIONS)
    shared = [each for each in new if each.key and (each.task, each.key) in old]
    worse, better = row_changes([old[each.task, each.key] for each in shared], shared)
    return _largest_first(worse), _largest_first(better)


def _largest_first(rows: list[RowChange]) -> RowChanges:
    return tuple(sorted(rows, key=lambda row: -row.size))
