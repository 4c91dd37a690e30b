"""Drift of inputs: rows that came in beside those that were taught before. No model is loaded."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path

from llama_factory.core.errors import FactoryError
from llama_factory.core.types import Example
from llama_factory.data.reading import is_readable, is_test_file, read_examples
from llama_factory.data.seen import TRAIN, rows_file
from llama_factory.data.store import RowFile
from llama_factory.evaluation.e_process import log_mean, worse
from llama_factory.evaluation.task_rows import Prediction
from llama_factory.monitoring import sentences
from llama_factory.monitoring.profile import (
    MOST_ROWS,
    NO_LABEL,
    RowTraits,
    labels_of,
    spread_out,
    traits_of,
)
from llama_factory.monitoring.series import Point, values
from llama_factory.monitoring.shift import FEWEST_ROWS, Shift, category_shift, unseen_words
from llama_factory.versions.version import ModelVersion

Past = Mapping[str, Sequence[Point]]
"""Earlier values by series."""
LANGUAGE, LENGTH, LABELS, WORDS, LOSS = (
    f"drift.{what}" for what in ("language", "length", "labels", "words", "loss")
)
TRAILING_ROUNDS = 10
"""Rounds that make up the reference."""
HIGH = 0.9
"""The point of the reference's losses above which a new row counts as unlikely."""
E_ALARM = 100.0
"""Evidence that is an alert: chance reaches it once in 100 rounds at most."""


def taught_before(lineage: Sequence[ModelVersion]) -> list[RowTraits]:
    """The traits of what the last rounds of a lineage were taught; none where rows are not kept."""
    files = [RowFile(rows_file(each.folder / "data", TRAIN)) for each in lineage[-TRAILING_ROUNDS:]]
    sizes = [len(file) for file in files]
    share = MOST_ROWS / max(sum(sizes), 1)
    traits: list[RowTraits] = []
    for file, size in zip(files, sizes, strict=True):
        wanted = min(size, math.ceil(size * min(share, 1.0)))
        step = max(1, size // wanted) if wanted else 1
        traits += traits_of(file[place] for place in range(0, size, step))
    return traits


def rows_of_version(version: ModelVersion) -> list[RowTraits]:
    """The traits of what a round taught."""
    return traits_of(spread_out(RowFile(rows_file(version.folder / "data", TRAIN))))


def row_drift(
    before: Sequence[RowTraits], after: Sequence[RowTraits], past: Past, at: str, version: str = ""
) -> list[Point]:
    """How far new rows are from earlier ones in language, length, labels and words.

    Args:
        before: what was taught before.
        after: the new rows.
        past: earlier values of the series.
        at: time of the new values.
        version: that was taught the new rows; empty where none was yet.

    Returns:
        Nothing where either side has too few rows to be like anything.
    """
    if min(len(before), len(after)) < FEWEST_ROWS:
        return []

    def point(name: str, shift: Callable[[Sequence[float]], Shift], what: str) -> Point:
        found = shift(_of_rounds(past, name))
        kind = sentences.ABOVE_CHANCE if found.is_alert else sentences.WITHIN_CHANCE
        words = kind(
            what=what,
            value=f"{found.value:.2f}",
            limit=f"{found.limit:.2f}",
            rows=len(after),
            words=found.words,
        )
        rounded = round(found.value, 6), round(found.limit, 6)
        return Point(at, name, rounded[0], found.is_alert, words, rounded[1], version, len(after))

    def of(trait: Callable[[RowTraits], str]) -> Callable[[Sequence[float]], Shift]:
        return lambda series: category_shift(
            [trait(each) for each in before], [trait(each) for each in after], series
        )

    points = [
        point(LANGUAGE, of(lambda each: each.language), sentences.LANGUAGES()),
        point(LENGTH, of(lambda each: each.length), sentences.LENGTHS()),
    ]
    if labels := labels_of(before, after):
        label = of(lambda each: each.answer if each.answer in labels else NO_LABEL)
        points.append(point(LABELS, label, sentences.LABELS()))
    words = point(WORDS, lambda series: unseen_words(before, after, series), sentences.UNSEEN())
    return [*points, words]


def loss_drift(
    before: Sequence[Prediction],
    after: Sequence[Prediction],
    past: Past,
    at: str,
    version: str = "",
) -> list[Point]:
    """Whether production finds the answers of new rows less likely than those it was tested on.

    A row is unlikely where its nll a token is above 90 % of the reference's. The share of such rows
    is compared by the e-process of `evaluation/e_process.py`, in blocks of one row each.

    Args:
        before: production's answers to the rows that earlier rounds held out.
        after: its answers to the new ones, before it was taught them.
        past: earlier values of the series.
        at: time of the new value.
        version: that was taught the new rows.
    """
    old, new = _token_losses(before), _token_losses(after)
    if min(len(old), len(new)) < FEWEST_ROWS:
        return []
    high = sorted(old)[min(len(old) - 1, math.ceil(HIGH * len(old)) - 1)]
    e_value = math.exp(min(_evidence([o > high for o in old], [n > high for n in new]), 700.0))
    rate = sum(n > high for n in new) / len(new)
    earlier = _of_rounds(past, LOSS)
    is_alert = e_value > E_ALARM and rate > max(earlier[-TRAILING_ROUNDS:], default=0.0)
    words = sentences.UNLIKELY(
        rate=f"{rate:.0%}",
        rows=len(new),
        tested=len(old),
        e=f"{e_value:.3g}",
        alarm=f"{E_ALARM:g}",
    )
    more = {"e": min(e_value, 1e300)}
    return [Point(at, LOSS, round(rate, 6), is_alert, words, None, version, len(new), more)]


def _of_rounds(past: Past, name: str) -> list[float]:
    """The values of a series that rounds added: rows that wait are looked at many times."""
    return values(point for point in past.get(name, ()) if point.version)


def _token_losses(rows: Sequence[Prediction]) -> list[float]:
    losses = (row.nats / row.tokens for row in rows if row.tokens)
    return [loss for loss in losses if math.isfinite(loss)]


def _evidence(reference: Sequence[bool], new: Sequence[bool]) -> float:
    """log e after all rows, the reference spread evenly among the new ones.

    The mean over some orders of the reference: a mean of e-values is one, and does not hang on
    which of its rows came first.
    """
    step = len(reference) / len(new)
    processes = []
    for turn in range(5):
        turned = [reference[(n * 5 + turn) % len(reference)] for n in range(len(reference))]
        process = worse()
        for n, bad in enumerate(new):
            block = turned[int(n * step) : int((n + 1) * step)] or [turned[int(n * step)]]
            process = process.add("production", sum(block), len(block)).add("candidate", bad)
        processes.append(process)
    return log_mean(processes)


def examples_below(folder: Path) -> list[Example]:
    """The rows of the files that wait in an inbox, up to some; what cannot be read is left out."""
    rows: list[Example] = []
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in paths:
        if path.name.startswith(".") or not path.is_file() or is_test_file(path):
            continue
        try:
            if is_readable(path):
                whole = (row for row in read_examples(path) if isinstance(row, Example))
                rows += islice(whole, MOST_ROWS - len(rows))
        except (FactoryError, OSError):
            continue  # the round says what is wrong with it
        if len(rows) >= MOST_ROWS:
            break
    return rows
