"""One run of the continual benchmark: its rounds one by one, each written as it finishes.

A run is killed and begun again at will: rounds that were trained lie in a folder beside its results
until the last one is scored; a round that was cut off begins anew.
"""

import itertools
import shutil
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import common
from continual_data import Place, Task, load_guard_rows, load_tasks, options_for
from continual_methods import BASE, JOINT, hash_of, plain
from continual_scores import Scores, score_guard, score_rows
from continual_tiers import Stream

from llama_factory.core import files
from llama_factory.core.progress import Progress
from llama_factory.core.types import Example
from llama_factory.model.adapted import AdaptedModel, adapt
from llama_factory.rounds.settings import LearningConfig
from llama_factory.training.loop import Protection, TrainedModel, TrainingFolders, train
from llama_factory.versions import memory

ALL = 0
"""Number of the order of runs that have none: the base model, and joint training."""


@dataclass(frozen=True)
class Run:
    """One method on one order.

    Attributes:
        common: what all runs of a table share, as plain values.
        stream: name of the stream.
        order: number of the order, or ALL.
        rounds: the tasks of each round.
        method: name of the method.
        changes: `key=value` of `--set`.
        config: the settings that both give.
    """

    common: Mapping[str, Any]
    stream: str
    order: int
    rounds: tuple[tuple[str, ...], ...]
    method: str
    changes: tuple[str, ...]
    config: LearningConfig

    @property
    def name(self) -> str:
        """Of its files."""
        seed, kind = self.config.training.seed, hash_of([self.common, plain(self.config)])
        return f"{self.stream}-{self.order}-{self.method}-{kind}-s{seed}"

    @property
    def label(self) -> str:
        """Of its line in the table."""
        return " ".join([self.method, *self.changes])

    def to_json(self) -> dict[str, Any]:
        """Plain values that the results begin with."""
        return {
            "stream": self.stream,
            "order": self.order,
            "rounds_of_tasks": self.rounds,
            "method": self.method,
            "label": self.label,
            "seed": self.config.training.seed,
            "common": self.common,
            "settings": plain(self.config),
        }


@dataclass
class Clock:
    """How far a process is, in task-rounds."""

    total: int = 0
    done: int = 0
    started: float = field(default_factory=time.perf_counter)

    def advance(self, cost: int) -> str:
        """What to say once `cost` more are done."""
        self.done += cost
        each = (time.perf_counter() - self.started) / self.done
        eta = each * (self.total - self.done) / 60
        return f"{self.done}/{self.total}, ETA {eta:.0f} min"


@dataclass
class Bench:
    """Where runs are made, and on which rows.

    Attributes:
        out: results folder, shared by any number of processes.
        stream: the tasks.
        place: tier, tokenizer, and which rows are scored.
        data: folder of the stream's files.
        general: folder of the guard's files.
        progress: what people see.
        clock: how far this process is.
    """

    out: Path
    stream: Stream
    place: Place
    data: Path
    general: Path | None
    progress: Progress
    tasks: dict[str, Task] = field(default_factory=dict)
    guard: dict[str, list[Example]] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)

    def load(self) -> None:
        """Read the rows."""
        self.tasks = load_tasks(self.stream, self.data, self.place)
        self.guard = load_guard_rows(self.general, self.place)

    def result(self, run: Run) -> Path:
        """The file of a run's results."""
        return self.out / "runs" / f"{run.name}.json"

    def cost_left(self, run: Run) -> int:
        """Task-rounds of a run that are not scored yet; scoring the base model counts as one."""
        path = self.result(run)
        done = len(files.read_json(path)["rounds"]) if path.exists() else 0
        return sum(map(len, run.rounds[done:])) if run.rounds else 1 - done


def perform(bench: Bench, run: Run) -> None:
    """Train and score what is left of a run."""
    path, num_rounds = bench.result(run), max(1, len(run.rounds))
    work = bench.out / "work" / run.name
    found = files.read_json(path) if path.exists() else {**run.to_json(), "rounds": []}
    found["machine"] = common.machine()
    for number in range(len(found["rounds"]), num_rounds):
        found["rounds"].append(_round(bench, run, number, work / f"round-{number}"))
        files.write_json(path, found)
        told = bench.clock.advance(len(run.rounds[number]) if run.rounds else 1)
        where = f"order {run.order}, round {number + 1} of {num_rounds}"
        bench.progress.say(f"{told}: {run.label}, {where} is done")
    shutil.rmtree(work, ignore_errors=True)


def _round(bench: Bench, run: Run, number: int, folder: Path) -> dict[str, Any]:
    """What a round came to, trained unless it was; the base model is only scored."""
    is_base, is_last = run.method == BASE, number + 1 >= len(run.rounds)
    whole = bench.tasks if is_last else run.rounds[number]
    told = {} if is_base else _teach(bench, run, number, folder)
    model = _open(bench, run, None if is_base else folder)
    started, cpu = time.perf_counter(), time.process_time()
    return {
        **told,
        "scores": _score(bench, model, whole),
        "guard": score_guard(model, bench.guard, is_last=is_last),
        "scoring_seconds": time.perf_counter() - started,
        "scoring_cpu_seconds": time.process_time() - cpu,
    }


def _open(bench: Bench, run: Run, folder: Path | None) -> AdaptedModel:
    """The model with the adapter of a folder, or with a fresh one."""
    model = adapt(
        run.config.model,
        folder / "adapter" if folder else None,
        options=options_for(bench.place.tier),
        seed=run.config.training.seed,
    )
    model.network.eval()
    return model


def _teach(bench: Bench, run: Run, number: int, folder: Path) -> dict[str, Any]:
    """Train a round unless it was, and what it cost."""
    if (folder / "told.json").exists():
        return dict(files.read_json(folder / "told.json"))
    shutil.rmtree(folder, ignore_errors=True)  # a round that was cut off: its seconds are compared
    before = folder.with_name(f"round-{number - 1}") if number else None
    model = _open(bench, run, before)
    kept = memory.load(before / "memory" if before else folder / "none")
    started, cpu = time.perf_counter(), time.process_time()
    trained = train(
        model,
        _rows(bench, run, number),
        run.config.training,
        Protection(tuple(run.config.strategies), kept),
        folders=_folders(folder),
        progress=bench.progress,
    )
    seconds = {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
    }
    return _keep(trained, folder, {"tasks": run.rounds[number], **seconds})


def _folders(folder: Path) -> TrainingFolders:
    return TrainingFolders(
        folder / "checkpoints", folder / "metrics.jsonl", folder / "events", folder / "tokens"
    )


def _rows(bench: Bench, run: Run, number: int) -> Sequence[Example]:
    """The rows of a round; where it has several tasks, each has as many as the largest."""
    taught = [bench.tasks[name].train for name in run.rounds[number]]
    most = max(map(len, taught))
    return [row for rows in taught for row in itertools.islice(itertools.cycle(rows), most)]


def _keep(trained: TrainedModel, folder: Path, told: dict[str, Any]) -> dict[str, Any]:
    """Write what the next round goes on from, and what the round came to."""
    trained.model.save(folder / "adapter")
    memory.save(trained.memory, folder / "memory")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    kept = sum(path.stat().st_size for path in (folder / "memory").rglob("*") if path.is_file())
    told |= {
        "steps": trained.position.step,
        "tokens": trained.num_tokens,
        "loss": trained.position.loss,
        "loop_seconds": trained.seconds,
        "bytes_kept": kept,
        "numbers": dict(trained.memory.numbers),
    }
    files.write_json(folder / "told.json", told)
    return told


def _score(bench: Bench, model: AdaptedModel, whole: Container[str]) -> dict[str, Scores]:
    """Every task; those that are not named in `whole` on their first rows only."""
    tier = bench.place.tier
    scores = {}
    with bench.progress.bar("scoring", len(bench.tasks)) as bar:
        for name, task in bench.tasks.items():
            rows = task.scored if name in whole else task.scored[: tier.side_rows]
            scores[name] = score_rows(model, rows, max_new_tokens=tier.max_new_tokens)
            bar.advance(1, name)
    return scores


def rounds_of(method: str, order: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The tasks of each round of a method on an order."""
    if method == BASE:
        return ()
    return (tuple(sorted(order)),) if method == JOINT else tuple((task,) for task in order)
