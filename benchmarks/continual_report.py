"""What the results of the continual benchmark come to: tables, JSON, heat maps and curves."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np
from continual_methods import BASE, JOINT, NAIVE, hash_of
from continual_pictures import Course, draw
from continual_tiers import STREAMS
from numpy.typing import NDArray

from llama_factory.core import files
from llama_factory.evaluation.forgetting import ForgettingMatrix
from llama_factory.evaluation.statistics import Estimate, percentiles, resampled

DEFAULT = "default"

Array = NDArray[np.float64]
Result = Mapping[str, Any]
"""What the file of one run holds."""


@dataclass(frozen=True)
class Group:
    """All runs of one table: the same stream, tier, rows, model and rate.

    Attributes:
        results: finished runs, by label.
        base: the base model's scores by task; None where they are not there yet.
    """

    stream: str
    common: Mapping[str, Any]
    results: Mapping[str, Sequence[Result]]
    base: Mapping[str, Any] | None

    @property
    def metric(self) -> str:
        """The main metric."""
        return STREAMS[self.stream].metrics[0]

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.stream}-{self.common['split']}-{hash_of(self.common)}"


@dataclass(frozen=True)
class Line:
    """One method in numbers; None where it cannot be told.

    Attributes:
        summary: means over runs of what the matrix gives.
        average: AA under the main metric.
        closed: share of the gap from naive to joint.
        over_naive: difference of AA from naive.
    """

    label: str
    num_runs: int
    summary: Mapping[str, float | None]
    average: Estimate
    over_naive: Estimate | None
    closed: Estimate | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        of = {"average": self.average, "over_naive": self.over_naive, "gap_closed": self.closed}
        told = {name: each.to_json() for name, each in of.items() if each is not None}
        return {"method": self.label, "runs": self.num_runs, **self.summary, **told}


def report(out: Path) -> None:
    """Print a table of every group of runs, and write JSON and pictures beside them."""
    folder = out / "report"
    written = []
    for group in groups(out):
        lines = [line_of(group, label) for label in group.results]
        lines.sort(key=lambda line: -line.average.value)
        show(group, lines)
        if lines:
            draw(_courses(group), _levels(lines), folder / group.name)
        written.append({
            "stream": group.stream,
            "common": group.common,
            "base": _means(group.base) if group.base else None,
            "methods": [line.to_json() for line in lines],
            "default_over": {name: each.to_json() for name, each in default_over(group).items()},
            "matrices": [matrix for label in group.results for matrix in _told(group, label)],
        })  # fmt: skip
    common.write_results(folder / "continual.json", {"tables": written})


def groups(out: Path) -> Iterator[Group]:
    """The finished runs of a results folder, by what they share."""
    found: dict[str, list[Result]] = defaultdict(list)
    paths = sorted((out / "runs").glob("*.json"), key=lambda path: -path.stat().st_mtime)
    for result in map(files.read_json, paths):
        if len(result["rounds"]) == max(1, len(result["rounds_of_tasks"])):
            found[json.dumps([result["stream"], result["common"]], sort_keys=True)].append(result)
        else:
            print(f"not finished: {result['label']}, order {result['order']}")
    for listed in found.values():
        by_label = _by_label(listed)
        base = by_label.pop(BASE, None)
        scores = base[0]["rounds"][-1]["scores"] if base else None
        yield Group(listed[0]["stream"], listed[0]["common"], by_label, scores)


def _by_label(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Newest first; older runs of a name that meant other settings get a line of their own."""
    meant: dict[str, str] = {}
    found: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        label, kind = result["label"], hash_of(result["settings"])
        is_newest = meant.setdefault(label, kind) == kind
        if label == BASE and not is_newest:
            continue
        found[label if is_newest else f"{label} ({kind})"].append(result)
    return found


def line_of(group: Group, label: str) -> Line:
    """What the runs of one method come to."""
    own, naive, joint = (_final(group, each) for each in (label, NAIVE, JOINT))
    average = stratified([_pooled(list(own.values()))], lambda averages: averages[:, 0])
    closed = None
    if joint and not _is_joint(label) and label != NAIVE:
        closed = _paired(own, naive, gap_closed, _pooled(list(joint.values())))
    return Line(
        label,
        len(group.results[label]),
        _summary(group, label),
        average,
        over(group, label, NAIVE) if label != NAIVE else None,
        closed,
    )


def over(group: Group, label: str, other: str) -> Estimate | None:
    """Difference of AA between two methods on the same orders, seeds and rows."""
    own, reference = _final(group, label), _final(group, other)
    if _is_joint(label) and own and reference:
        own = dict.fromkeys(reference, _pooled(list(own.values())))
    return _paired(own, reference, lambda averages: averages[:, 0] - averages[:, 1])


Final = dict[str, Array]
"""Scores after the last round, [rows] by task."""


Finals = dict[tuple[int, int], Final]
"""By order and seed of the run."""


def _final(group: Group, label: str) -> Finals:
    found = {}
    for result in group.results.get(label, ()):
        scores = result["rounds"][-1]["scores"]
        per_task = {task: np.array(scores[task][group.metric]) for task in scores}
        found[result["order"], result["seed"]] = per_task
    return found


def _pooled(finals: Sequence[Final]) -> Final:
    """Each row's mean over runs: the rows are the same in all of them."""
    return {task: np.mean([each[task] for each in finals], axis=0) for task in finals[0]}


def _paired(
    own: Finals, other: Finals, statistic: Callable[[Array], Array], *more: Final
) -> Estimate | None:
    """A function of two methods, and of more columns, over the runs that both have."""
    shared = sorted(own.keys() & other.keys())
    if not shared:
        return None
    pooled = [_pooled([each[key] for key in shared]) for each in (own, other)]
    return stratified([*pooled, *more], statistic)


def gap_closed(averages: Array) -> Array:
    """(AA - AA of naive) / (AA of joint - AA of naive)."""
    own, naive, joint = averages.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return (own - naive) / (joint - naive)


def stratified(columns: Sequence[Final], statistic: Callable[[Array], Array]) -> Estimate:
    """A function of averages over tasks, with 95 % of the values over resampled rows of each task.

    Args:
        columns: the scores of each method on the same rows.
        statistic: [resamples, methods] averages -> [resamples] values.
    """
    tasks = [np.stack([column[task] for column in columns], 1) for task in columns[0]]
    value = float(statistic(np.mean([rows.mean(0) for rows in tasks], 0)[None])[0])
    count = sum(map(len, tasks))
    if not math.isfinite(value):
        return Estimate(value, None, None, count)
    return percentiles(value, statistic(np.mean(resampled(tasks), 0)), count)


def _summary(group: Group, label: str) -> dict[str, float | None]:
    """Means over the runs of a method."""
    results = group.results[label]
    first, second = (
        [matrix_of(group, result, metric) for result in results]
        for metric in STREAMS[group.stream].metrics
    )
    is_stream = not _is_joint(label)
    told = {
        "average_second": _mean([m.summary["average"] for m in second]),
        "learned": _mean([m.summary["learned"] for m in first]) if is_stream else None,
        "backward_transfer": _mean([m.summary["backward_transfer"] for m in first])
        if is_stream
        else None,
        "forgetting": _mean([m.summary["forgetting"] for m in first]) if is_stream else None,
        "forward_transfer": _mean([m.summary["forward_transfer"] for m in first])
        if is_stream
        else None,
        "perplexity": _mean([_perplexity(result) for result in results]),
        "bytes_kept": _mean([result["rounds"][-1]["bytes_kept"] for result in results]),
        "extra_tokens": _extra_tokens(group, label),
        "minutes": _mean([_total(result, "seconds") / 60 for result in results]),
    }
    for name in results[0]["rounds"][-1]["guard"]:
        guards = [result["rounds"][-1]["guard"][name] for result in results]
        told[f"{name}_ratio"] = _mean([g["perplexity"] / g["base_perplexity"] for g in guards])
        told[f"{name}_divergence"] = _mean([g["divergence"] for g in guards])
    return told


def _perplexity(result: Result) -> float | None:
    """Of free answers after the last round: geometric mean over tasks."""
    scores = result["rounds"][-1]["scores"].values()
    if not all("nats" in each for each in scores):
        return None
    return math.exp(float(np.mean([sum(s["nats"]) / sum(s["tokens"]) for s in scores])))


def _total(result: Result, what: str) -> float:
    return sum(each[what] for each in result["rounds"])


def _extra_tokens(group: Group, label: str) -> float | None:
    """More than naive reads on the same orders and seeds, as a share."""

    def totals(name: str) -> dict[tuple[int, int], float]:
        return {(r["order"], r["seed"]): _total(r, "tokens") for r in group.results.get(name, ())}

    own, naive = totals(label), totals(NAIVE)
    shared = own.keys() & naive.keys()
    if not shared:
        return None
    return sum(own[key] for key in shared) / sum(naive[key] for key in shared) - 1


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _means(scores: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Mean of each metric by task."""
    return {t: {m: float(np.mean(v)) for m, v in s.items()} for t, s in scores.items()}


def matrix_of(group: Group, result: Result, metric: str) -> ForgettingMatrix:
    """The task x round matrix of one run, with what was measured before teaching beside it."""
    tasks = [task for tasks in result["rounds_of_tasks"] for task in tasks]
    names = [f"{i + 1} {'+'.join(each)}" for i, each in enumerate(result["rounds_of_tasks"])]
    means = [_means(each["scores"]) for each in result["rounds"]]
    since = {t: i for i, each in enumerate(result["rounds_of_tasks"]) for t in each}
    scores = {
        (name, task): means[number][task][metric]
        for number, name in enumerate(names)
        for task in tasks
        if since[task] <= number
    }
    before = {task: means[since[task] - 1][task][metric] for task in tasks if since[task]}
    base = {task: _of_base(group, result, task, metric) for task in tasks} if group.base else {}
    return ForgettingMatrix(metric, tuple(tasks), tuple(names), scores, before, base)


def _of_base(group: Group, result: Result, task: str, metric: str) -> float:
    """The base model's score on the rows that the task was scored on before it was taught."""
    assert group.base is not None, "it is asked for where there is one"
    num_rows = len(result["rounds"][0]["scores"][task][metric])
    return float(np.mean(group.base[task][metric][:num_rows]))


def _told(group: Group, label: str) -> list[dict[str, Any]]:
    """Every run's matrices as plain values."""
    metrics = STREAMS[group.stream].metrics
    return [
        {
            "method": label,
            "order": result["order"],
            "seed": result["seed"],
            "settings": result["settings"],
            **{metric: matrix_of(group, result, metric).to_json() for metric in metrics},
            "every_round": [_means(each["scores"]) for each in result["rounds"]],
            "guard": [each["guard"] for each in result["rounds"]],
        }
        for result in group.results[label]
    ]


def show(group: Group, lines: Sequence[Line]) -> None:
    """The table of a group."""
    main, second = STREAMS[group.stream].metrics
    columns = (
        *("method", f"AA {main}", f"AA {second}", "gap closed", "over naive", "LA", "BWT"),
        *("forgetting", "FWT", "general ratio", "text ratio", "KL", "tokens"),
        *("kept MB", "runs"),
    )
    shared = group.common
    title = (
        f"{group.stream}, {shared['split']} rows: {shared['rows']} rows a task taught in "
        f"{shared['steps']} steps of {shared['batch_size']}, {shared['test_rows']} scored ("
        f"{shared['side_rows']} in other tasks' rounds), rate "
        f"{shared['learning_rate']:g}, {shared['model']}, {shared['dtype']}"
    )
    common.print_table(title, columns, [_cells(line) for line in lines])
    if group.base:
        base = {task: scores[main] for task, scores in _means(group.base).items()}
        print("\nbase model: " + ", ".join(f"{t} {value:.3f}" for t, value in base.items()))
    for label, each in default_over(group).items():
        print(f"{DEFAULT} over {label}: {_range(each)}")


def default_over(group: Group) -> dict[str, Estimate]:
    """How much better the default preset is than each other method."""
    others = (label for label in group.results if label != DEFAULT and not _is_joint(label))
    found = {label: over(group, DEFAULT, label) for label in others}
    return {label: each for label, each in found.items() if each is not None}


def _cells(line: Line) -> list[str | int]:
    told = line.summary
    plain = ("learned", "backward_transfer", "forgetting", "forward_transfer", "answers_ratio")
    kept = told["bytes_kept"]
    return [
        line.label,
        _range(line.average),
        _number(told["average_second"]),
        _range(line.closed, percent=True),
        _range(line.over_naive),
        *(_number(told.get(name)) for name in (*plain, "text_ratio", "answers_divergence")),
        _percent(told["extra_tokens"]),
        "-" if kept is None else f"{kept / 1e6:.2f}",
        line.num_runs,
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def _range(found: Estimate | None, *, percent: bool = False) -> str:
    """A value and its interval."""
    if found is None or not math.isfinite(found.value):
        return "-"
    shown = _percent if percent else _number
    if found.low is None:
        return shown(found.value)
    return f"{shown(found.value)} [{shown(found.low)}, {shown(found.high)}]"


def _courses(group: Group) -> dict[str, list[Course]]:
    return {
        label: [Course(matrix_of(group, each, group.metric), each) for each in results]
        for label, results in group.results.items()
        if not _is_joint(label)
    }


def _levels(lines: Sequence[Line]) -> dict[str, float]:
    return {line.label: line.average.value for line in lines if _is_joint(line.label)}


def _is_joint(label: str) -> bool:
    """Also under other settings."""
    return label.split()[0] == JOINT
