"""Cross-validation: every row of a small set is tested once, by a model that was taught the rest.

Stone 1974, https://doi.org/10.1111/j.2517-6161.1974.tb00994.x. Differs: rows that ask the same stay
in one fold, and every fold gets its share of each group.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import stdev
from typing import Any

from llama_factory.core.errors import DataError
from llama_factory.core.types import Example
from llama_factory.evaluation.exam import Exam
from llama_factory.evaluation.marks import Marks, TaskResult, judge
from llama_factory.evaluation.prediction import Prediction

FOLDS = "fold"


@dataclass(frozen=True)
class Fold:
    """One part of the rows to test on, and all others to teach."""

    number: int
    train: tuple[Example, ...]
    test: tuple[Example, ...]


@dataclass(frozen=True)
class CrossValidation:
    """What the folds came to.

    Attributes:
        result: scores over all rows together, with intervals over rows.
        folds: scores of each fold.
        spread: standard deviation between the folds by metric: what another choice of rows to
            teach would change.
    """

    result: TaskResult
    folds: tuple[TaskResult, ...]
    spread: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        folds = [each.to_json() for each in self.folds]
        return {"all": self.result.to_json(), "folds": folds, "spread": self.spread}


def make_folds(rows: Sequence[Example], count: int, *, seed: int = 0) -> list[Fold]:
    """Cut rows into folds by their content: the same rows and seed give the same folds.

    Args:
        rows: all of them.
        count: how many folds.
        seed: another one deals the rows differently.

    Raises:
        DataError: there are fewer different prompts than folds.
    """
    by_group: dict[str, set[str]] = {}
    for row in rows:
        by_group.setdefault(row.group, set()).add(row.prompt_key)
    prompts = {key for keys in by_group.values() for key in keys}
    if not 2 <= count <= len(prompts):
        raise DataError(
            f"--folds {count}: the rows have {len(prompts)} different prompts. Give from 2 "
            f"to {max(2, len(prompts))}."
        )
    ranked = [key for group in sorted(by_group) for key in sorted(by_group[group], key=_rank(seed))]
    fold_of = {key: place % count for place, key in enumerate(dict.fromkeys(ranked))}
    return [
        Fold(
            number + 1,
            tuple(row for row in rows if fold_of[row.prompt_key] != number),
            tuple(row for row in rows if fold_of[row.prompt_key] == number),
        )
        for number in range(count)
    ]


def cross_validate(
    folds: Iterable[Fold], exam: Exam, answer: Callable[[Fold, Exam], list[Prediction]]
) -> CrossValidation:
    """Test every fold and put the results together.

    Args:
        folds: of the rows.
        exam: how rows are asked; its own rows are not looked at.
        answer: teaches a fold's rows to a fresh model and answers the exam, whose rows are those
            that the fold tests.
    """
    marks = []
    for fold in folds:
        asked = exam.of_rows(f"{FOLDS} {fold.number}", fold.test)
        asked.check()
        marks.append(judge(asked, answer(fold, asked)))
    results = tuple(each.result for each in marks)
    return CrossValidation(_together(exam, marks), results, _spread(results))


def _together(exam: Exam, marks: Sequence[Marks]) -> TaskResult:
    rows = tuple(row for each in marks for row in each.exam.rows)
    predictions = [p for each in marks for p in each.predictions]
    return judge(replace(exam, rows=rows), predictions).result


def _spread(results: Sequence[TaskResult]) -> dict[str, float]:
    names = dict.fromkeys(name for each in results for name in each.scores)
    values = {n: [r.scores[n].value for r in results if n in r.scores] for n in names}
    return {name: stdev(found) for name, found in values.items() if len(found) > 1}


def _rank(seed: int) -> Callable[[str], str]:
    def rank(key: str) -> str:
        return hashlib.blake2b(f"{seed} {key}".encode(), digest_size=8).hexdigest()

    return rank
