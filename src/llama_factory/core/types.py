"""The values that flow between layers. Frozen, small, and free of torch at import."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

BASE_VERSION = "v0000"
"""The untouched base model: every lineage starts there, so no code asks whether a parent exists."""


TEXT = "text"
"""Role of the only turn of a row of plain text (pretraining): all of it is trained."""


@dataclass(frozen=True)
class ToolCall:
    """A function that the assistant asks to be called; `arguments` is a JSON object as text."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: system, user, assistant, tool, or TEXT.
        content: its text; may be empty where there are tool calls.
        weight: factor on the loss of this turn's tokens; 0 leaves it untrained.
        tool_calls: functions that an assistant turn calls.
    """

    role: str
    content: str
    weight: float = 1.0
    tool_calls: tuple[ToolCall, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """An OpenAI message, with `weight` where it is not 1."""
        turn: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            turn["tool_calls"] = [
                {"type": "function", "function": {"name": c.name, "arguments": c.arguments}}
                for c in self.tool_calls
            ]
        return turn if self.weight == 1.0 else turn | {"weight": self.weight}

    @staticmethod
    def from_json(turn: Mapping[str, Any]) -> Message:
        """The inverse of `to_json`."""
        called = (call["function"] for call in turn.get("tool_calls", ()))
        calls = tuple(ToolCall(call["name"], call["arguments"]) for call in called)
        return Message(turn["role"], turn["content"], turn.get("weight", 1.0), calls)


@dataclass(frozen=True)
class Example:
    """One row: a conversation that ends with the assistant's answer, or a plain text.

    Attributes:
        messages: the turns, oldest first; a single TEXT turn for plain text.
        group: the task that the row belongs to; forgetting is measured by group.
        file: name of the file it came from.
        line: 1-based line (jsonl, csv, txt) or row number (json, parquet) in that file.
        weight: factor on the row's loss.
        tools: JSON list of the tools the assistant may call, as text; empty for none.
        rejected: the worse answer of a preference pair, whose better one ends `messages`.
        is_desirable: whether people liked the answer (KTO); None where it was not asked.
        images: paths of the pictures that `<image>` marks in the turns stand for.
        augmented_by: the method that made this row from another one; such rows are never held out.
    """

    messages: tuple[Message, ...]
    group: str
    file: str
    line: int
    weight: float = 1.0
    tools: str = ""
    rejected: Message | None = None
    is_desirable: bool | None = None
    images: tuple[str, ...] = ()
    augmented_by: str = ""

    @property
    def is_text(self) -> bool:
        """Whether this is plain text and not a conversation."""
        return self.messages[0].role == TEXT

    @property
    def prompt(self) -> tuple[Message, ...]:
        """All turns before the last answer; plain text is its own prompt."""
        return self.messages if self.is_text else self.messages[:-1]

    @property
    def answer(self) -> str:
        """The last assistant turn, or the plain text."""
        return self.messages[-1].content

    @cached_property
    def key(self) -> str:
        """Content hash of all that is taught: equal keys are exact duplicates."""
        extra = (self.tools, self.rejected, self.is_desirable, self.images)
        if extra == ("", None, None, ()):
            return content_key(self.messages)
        rejected = _identity(self.rejected) if self.rejected else ()
        turns = [part for turn in self.messages for part in _identity(turn)]
        return _digest([*turns, self.tools, *rejected, str(self.is_desirable), *self.images])

    @cached_property
    def prompt_key(self) -> str:
        """Content hash of the prompt alone: decides on which side of a split a row falls."""
        return content_key(self.prompt)

    def with_texts(self, change: Callable[[str], str]) -> Example:
        """A copy whose every turn, and rejected answer, went through `change`.

        Returns:
            This very row where `change` left every text as it was.
        """
        turns = tuple(_with_text(turn, change) for turn in self.messages)
        rejected = self.rejected and _with_text(self.rejected, change)
        pairs = zip((*turns, rejected), (*self.messages, self.rejected), strict=True)
        if all(new is old for new, old in pairs):
            return self
        return replace(self, messages=turns, rejected=rejected)

    def to_json(self) -> dict[str, Any]:
        """Plain values for one JSON line; what is not set is left out."""
        row: dict[str, Any] = {
            "messages": [turn.to_json() for turn in self.messages],
            "group": self.group,
            "file": self.file,
            "line": self.line,
        }
        for name, plain in _OPTIONAL.items():
            value = getattr(self, name)
            if value != plain:
                row[name] = value.to_json() if isinstance(value, Message) else value
        return row

    @staticmethod
    def from_json(row: Mapping[str, Any]) -> Example:
        """The inverse of `to_json`."""
        turns = tuple(map(Message.from_json, row["messages"]))
        extra = {name: row[name] for name in _OPTIONAL if name in row}
        if "rejected" in extra:
            extra["rejected"] = Message.from_json(extra["rejected"])
        if "images" in extra:
            extra["images"] = tuple(extra["images"])
        return Example(turns, row["group"], row["file"], row["line"], **extra)


_OPTIONAL: dict[str, Any] = {
    "weight": 1.0,
    "tools": "",
    "rejected": None,
    "is_desirable": None,
    "images": (),
    "augmented_by": "",
}
"""Fields of an Example that its JSON leaves out while they have these values."""


def content_key(messages: tuple[Message, ...]) -> str:
    """128-bit hash of roles, contents and tool calls, as 32 hex digits."""
    return _digest([part for turn in messages for part in _identity(turn)])


def _identity(turn: Message) -> list[str]:
    calls = [part for call in turn.tool_calls for part in (call.name, call.arguments)]
    return [turn.role, turn.content, str(len(calls)), *calls]


def _digest(parts: list[str]) -> str:
    """Each part with its length before it, so that no two lists give the same text."""
    text = "".join([f"{len(part)}:{part}" for part in parts])
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def _with_text(turn: Message, change: Callable[[str], str]) -> Message:
    text = change(turn.content)
    return turn if text == turn.content else replace(turn, content=text)


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
    """The held-out rows of a round as one task a group, in order of first appearance.

    Answers that people did not like are nothing to be judged by, and are left out.
    """
    groups: dict[str, list[Example]] = {}
    for row in rows:
        if row.is_desirable is not False:
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

    def without(self, prefix: str) -> Memory:
        """The same without tensors and numbers whose names begin so; rows stay."""
        tensors = {k: tensor for k, tensor in self.tensors.items() if not k.startswith(prefix)}
        numbers = {k: number for k, number in self.numbers.items() if not k.startswith(prefix)}
        return Memory(self.rows, tensors, numbers)

    def tensors_under(self, prefix: str) -> dict[str, Tensor]:
        """Tensors whose names begin so, by the rest of their names."""
        kept = self.tensors.items()
        return {k.removeprefix(prefix): tensor for k, tensor in kept if k.startswith(prefix)}

    def with_kept(
        self, strategy: str, tensors: Mapping[str, Tensor], numbers: Mapping[str, float]
    ) -> Memory:
        """The same where a strategy keeps these tensors in place of its earlier ones.

        Args:
            strategy: its name.
            tensors: by name without the strategy's.
            numbers: likewise; earlier ones of other names stay.
        """
        others = {k: t for k, t in self.tensors.items() if not k.startswith(f"{strategy}.")}
        own = {f"{strategy}.{name}": tensor for name, tensor in tensors.items()}
        counted = {f"{strategy}.{name}": float(number) for name, number in numbers.items()}
        return Memory(self.rows, {**others, **own}, {**self.numbers, **counted})


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
