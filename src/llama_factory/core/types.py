"""The values that flow between layers. Frozen, small, and free of torch at import."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

BASE_VERSION = "v0000"
"""The untouched base model: every lineage starts there, so no code asks whether a parent exists."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Example:
    """One row: a conversation that ends with the assistant's answer.

    Attributes:
        messages: the turns, oldest first.
        group: the task that the row belongs to; forgetting is measured by group.
        file: name of the file it came from.
        line: 1-based line (jsonl) or row number (json) in that file.
        weight: factor on the row's loss.
    """

    messages: tuple[Message, ...]
    group: str
    file: str
    line: int
    weight: float = 1.0

    @property
    def prompt(self) -> tuple[Message, ...]:
        """All turns before the last answer."""
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        """The last assistant turn."""
        return self.messages[-1].content

    @cached_property
    def key(self) -> str:
        """Content hash of the whole conversation: equal keys are exact duplicates."""
        return content_key(self.messages)

    @cached_property
    def prompt_key(self) -> str:
        """Content hash of the prompt alone: decides on which side of a split a row falls."""
        return content_key(self.prompt)

    def to_json(self) -> dict[str, Any]:
        """Plain values for one JSON line."""
        turns = [{"role": turn.role, "content": turn.content} for turn in self.messages]
        row = {"messages": turns, "group": self.group, "file": self.file, "line": self.line}
        return row if self.weight == 1.0 else row | {"weight": self.weight}

    @staticmethod
    def from_json(row: dict[str, Any]) -> Example:
        """The inverse of `to_json`."""
        turns = tuple(Message(turn["role"], turn["content"]) for turn in row["messages"])
        return Example(turns, row["group"], row["file"], row["line"], row.get("weight", 1.0))


def content_key(messages: tuple[Message, ...]) -> str:
    """128-bit hash of roles and contents, as 32 hex digits."""
    text = json.dumps([[turn.role, turn.content] for turn in messages], ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Task:
    """The held-out rows that one round brought for one group; its rows never change again."""

    round: str
    group: str
    rows: tuple[Example, ...]

    @property
    def name(self) -> str:
        """Unique in a lineage, as in `v0001 faq`."""
        return f"{self.round} {self.group}"


def tasks_by_group(round_id: str, rows: Iterable[Example]) -> tuple[Task, ...]:
    """The held-out rows of a round as one task a group, in order of first appearance."""
    groups: dict[str, list[Example]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return tuple(Task(round_id, group, tuple(listed)) for group, listed in groups.items())


@dataclass(frozen=True)
class Memory:
    """What strategies keep from round to round. Saved inside the version, rolled back with it.

    Attributes:
        rows: training rows by strategy name.
        tensors: tensors by `strategy.name`.
        numbers: counters and other scalars by `strategy.name`.
    """

    rows: Mapping[str, tuple[Example, ...]] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskScores:
    """How one model does on one task: `scores` by metric name, over `count` rows."""

    task: str
    count: int
    scores: Mapping[str, float]


@dataclass(frozen=True)
class EvalReport:
    """Scores of one model on all tasks of its lineage, and the general guard.

    Attributes:
        tasks: by task name, in order of learning.
        guard_perplexity: perplexity of general answers; rises when general ability is lost. None
            where it was not measured.
        seconds: time it took.
    """

    tasks: Mapping[str, TaskScores]
    guard_perplexity: float | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for report.json."""
        tasks = [{"task": t.task, "count": t.count, **t.scores} for t in self.tasks.values()]
        return {
            "tasks": tasks,
            "guard_perplexity": self.guard_perplexity,
            "seconds": self.seconds,
        }

    @staticmethod
    def from_json(values: dict[str, Any]) -> EvalReport:
        """The inverse of `to_json`."""
        tasks = {}
        for row in values["tasks"]:
            scores = {name: value for name, value in row.items() if name not in ("task", "count")}
            tasks[row["task"]] = TaskScores(row["task"], row["count"], scores)
        return EvalReport(tasks, values["guard_perplexity"], values["seconds"])
