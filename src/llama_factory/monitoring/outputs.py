"""Drift of outputs: decay of what was learned, what users say, and what production answers."""

import json
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llama_factory.core.types import Example
from llama_factory.data.sources.feedback import Feedback
from llama_factory.evaluation.e_process import EProcess, worse
from llama_factory.evaluation.paired_rows import pair_rows
from llama_factory.evaluation.paired_tests import change_bounds, holm, p_below
from llama_factory.evaluation.task_rows import Prediction, by_task
from llama_factory.monitoring import sentences
from llama_factory.monitoring.series import Point

FEEDBACK = "feedback.down"
REFUSALS, ANSWER_LENGTH = "traffic.refusals", "traffic.length"
SURE = 0.99
"""Confidence of an alert about decay, over all groups together."""
E_ALARM = 100.0
"""Evidence that is an alert: chance reaches it once in 100 series at most."""
RECENT = 500
"""Newest ratings and answers of production that are looked at, and as many before them."""
MOST_ANSWERS = 20_000
"""Answered requests that are enough: days before these are not read."""
FEWEST = 5
CONVERSATIONS = "conversations-*.jsonl"
"""Files of answered requests, one a day, in the workspace's `feedback/` and `conversations/`."""
_REFUSAL = re.compile(
    r"\b(?:I(?:'m| am) (?:sorry|unable|not able)|I can(?:no|')t (?:help|answer|assist|do)|"
    r"as an AI\b|I do(?:n't| not) know)|抱歉|对不起|我(?:无法|不能|不知道)|作为(?:一个)?人工智能",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Answered:
    """One answer that production gave: by which version, and the text."""

    version: str
    text: str


def decay(
    first: Sequence[Prediction],
    now: Sequence[Prediction],
    metric: str,
    at: str,
    *,
    version: str,
    max_drop: float,
) -> list[Point]:
    """How far each group fell since its rows were first scored, paired by row.

    Rows of production's own round were first scored with production itself. They count only where
    a group has no others: else their unchanged scores would hide what the older rows lost.

    Args:
        first: answers of the versions that learned each task, right after their rounds.
        now: production's answers to the same rows.
        metric: its label.
        at: time of the new values.
        version: production.
        max_drop: how far a score may fall.

    Returns:
        `decay.GROUP` for each group that both have; groups that vanished have none.
    """
    own: dict[str, list[float]] = {}
    older: dict[str, list[float]] = {}
    for task, rows in pair_rows(first, now, metric).items():
        taught_by, _, group = task.partition(" ")
        changes = own if taught_by == version else older
        changes.setdefault(group or task, []).extend(rows.changes.tolist())
    measured = {group: np.array(listed) for group, listed in (own | older).items() if listed}
    lost = holm([p_below(each, 0.0) for each in measured.values()])
    points = []
    for (group, each), p_value in zip(measured.items(), lost, strict=True):
        drop = -float(each.mean())
        bounds = change_bounds(each, 0.95)
        is_alert = drop > max_drop and p_value < 1 - SURE
        assert bounds.low is not None
        assert bounds.high is not None
        words = (sentences.LOST if drop > max_drop else sentences.KEPT)(
            group=group,
            metric=metric,
            change=f"{-drop:+.2f}",
            between=f"{max(-1.0, bounds.low):+.2f} – {min(1.0, bounds.high):+.2f}",
            rows=len(each),
            limit=f"{max_drop:g}",
        )
        name, value = f"decay.{group}", round(drop, 6)
        points.append(Point(at, name, value, is_alert, words, max_drop, version, len(each)))
    return points


def first_scores(answers: Mapping[str, Sequence[Prediction]]) -> list[Prediction]:
    """The first answers to each task along a lineage.

    Args:
        answers: by version, oldest first.
    """
    known: dict[str, list[Prediction]] = {}
    for rows in answers.values():
        for task, listed in by_task(rows).items():
            known.setdefault(task, listed)
    return [row for rows in known.values() for row in rows]


def thumbs(book: Sequence[Feedback], version: str, at: str) -> list[Point]:
    """How often users rate production down, beside the versions before it.

    Args:
        book: feedback that counts, oldest first.
        version: production.
        at: time of the new value.
    """
    new = [each.rating == "down" for each in book if each.version == version][-RECENT:]
    old = [each.rating == "down" for each in book if each.version != version][-RECENT:]
    if not new:
        return []
    rate = sum(new) / len(new)
    e_value = _e_value(old, new)
    words = sentences.RATED_DOWN(down=sum(new), all=len(new), version=version, rate=f"{rate:.0%}")
    if len(old) >= FEWEST:
        words = sentences.RATED_DOWN_BEFORE(
            text=words,
            down=sum(old),
            all=len(old),
            rate=f"{sum(old) / len(old):.0%}",
            e=f"{e_value:.3g}",
            alarm=f"{E_ALARM:g}",
        )
    is_alert = e_value > E_ALARM
    more = {"e": e_value}
    return [Point(at, FEEDBACK, round(rate, 6), is_alert, words, None, version, len(new), more)]


def traffic(answers: Sequence[Answered], version: str, at: str) -> list[Point]:
    """How often production refuses and how long its answers are, beside the versions before it."""
    new = [each.text for each in answers if each.version == version][-RECENT:]
    old = [each.text for each in answers if each.version != version][-RECENT:]
    if len(new) < FEWEST:
        return []
    refused = [[bool(_REFUSAL.search(text)) for text in side] for side in (old, new)]
    rate = sum(refused[1]) / len(new)
    e_value = _e_value(*refused)
    words = sentences.REFUSES(
        version=version, refused=sum(refused[1]), all=len(new), rate=f"{rate:.0%}"
    )
    if len(old) >= FEWEST:
        words = sentences.REFUSED_BEFORE(
            text=words, refused=sum(refused[0]), all=len(old), e=f"{e_value:.3g}"
        )
    is_alert = e_value > E_ALARM
    points = [Point(at, REFUSALS, round(rate, 6), is_alert, words, None, version, len(new))]
    median = float(statistics.median(map(len, new)))
    told = sentences.ANSWER_LENGTHS(version=version, median=f"{median:g}", all=len(new))
    e_length = 1.0
    if len(old) >= FEWEST:
        before = float(statistics.median(map(len, old)))
        low, high = _tails([len(text) for text in old])
        odd = [[not low <= len(text) <= high for text in side] for side in (old, new)]
        e_length = _e_value(*odd)
        told = sentences.LENGTHS_BEFORE(
            text=told, median=f"{before:g}", odd=sum(odd[1]), e=f"{e_length:.3g}"
        )
    is_odd = e_length > E_ALARM
    return [*points, Point(at, ANSWER_LENGTH, median, is_odd, told, None, version, len(new))]


def read_answers(folders: Sequence[Path]) -> list[Answered]:
    """The newest answered requests of a workspace, oldest first; damaged lines are left out.

    Whole days are read, back from today, until there are `MOST_ANSWERS`.
    """
    known: dict[str, tuple[str, Answered]] = {}
    paths = (path for folder in folders for path in folder.glob(CONVERSATIONS))
    for path in sorted(paths, key=lambda path: path.name, reverse=True):
        for line in _parsed_lines(path):
            known[str(line["name"])] = str(line["when"]), _answered(line)
        if len(known) >= MOST_ANSWERS:
            break
    return [answer for _, answer in sorted(known.values(), key=lambda pair: pair[0])]


def _parsed_lines(path: Path) -> Iterator[dict[str, object]]:
    with path.open("rb") as file:
        for line in file:
            try:
                values = json.loads(line)
                _answered(values)
                str(values["name"]), str(values["when"])
            except (AttributeError, KeyError, IndexError, TypeError, ValueError):
                continue
            yield values


def _answered(line: Mapping[str, object]) -> Answered:
    row = line["row"]
    assert isinstance(row, dict)
    return Answered(str(line["version"]), Example.from_json(row).answer)


def _e_value(old: Sequence[bool], new: Sequence[bool]) -> float:
    """Evidence that the new outcomes are bad more often; 1 where there is nothing before."""
    if len(old) < FEWEST or not new:
        return 1.0
    process: EProcess = worse()
    step = len(old) / len(new)
    for n, bad in enumerate(new):
        block = old[int(n * step) : int((n + 1) * step)] or [old[int(n * step)]]
        process = process.add("production", sum(block), len(block)).add("candidate", bad)
    return math.exp(min(process.log_e, 700.0))


def _tails(lengths: Sequence[int]) -> tuple[int, int]:
    """Between which 90 % of the lengths lie."""
    ordered = sorted(lengths)
    cut = len(ordered) // 20
    return ordered[cut], ordered[-1 - cut]
