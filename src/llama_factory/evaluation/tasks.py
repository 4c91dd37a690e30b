"""What is asked of a model: tasks from held-out rows of a round or from a file of a suite."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llama_factory.core.errors import ConfigError, DataError, suggest
from llama_factory.core.types import Example, Message, Task
from llama_factory.data.reading import RawRow, Refused, group_of, read_rows, to_example
from llama_factory.evaluation.labels import same
from llama_factory.evaluation.metrics import Metric, ModelMetric, require_fits
from llama_factory.evaluation.settings import EvaluationSettings
from llama_factory.evaluation.task_rows import TaskRow

ANSWER_FIELDS = ("output", "answer", "response", "label", "target", "completion")
"""Fields in which the expected answer is looked for where none is named."""
_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class EvalTask:
    """The rows of one task, the limits of the answers, and the metrics that score them.

    Attributes:
        name: of the task.
        rows: in a fixed order. Of plain text only the likelihood is measured.
        metrics: that score the answers.
        max_new_tokens: longest answer.
        batch_tokens: most tokens that go through the model at once.
        takes_text: whether rows of plain text are left to their likelihood; otherwise a metric
            that scores answers does not fit them.
    """

    name: str
    rows: tuple[TaskRow, ...]
    metrics: tuple[Metric, ...]
    max_new_tokens: int
    batch_tokens: int
    takes_text: bool = True

    @staticmethod
    def from_task(task: Task, settings: EvaluationSettings) -> "EvalTask":
        """A round's held-out rows, at most `max_rows` of them, with the metrics of the settings."""
        return EvalTask(
            name=task.name,
            rows=tuple(map(TaskRow, task.rows[: settings.max_rows])),
            metrics=tuple(settings.metrics),
            max_new_tokens=settings.max_new_tokens,
            batch_tokens=settings.batch_tokens,
        )

    def with_rows(self, name: str, rows: Iterable[Example]) -> "EvalTask":
        """The same metrics and limits for other rows."""
        return replace(self, name=name, rows=tuple(map(TaskRow, rows)))

    def check(self) -> None:
        """Refuse metrics that cannot score these rows.

        Raises:
            DataError: with the metric, the row and the reason.
        """
        rows = self.rows
        if self.takes_text:
            rows = tuple(row for row in rows if not row.example.is_text)
        for metric in self.metrics:
            if rows or isinstance(metric, ModelMetric):
                require_fits(metric, rows or self.rows, self.name)

    def record(self, model_id: str) -> dict[str, Any]:
        """What the predictions depend on; scores of answers are computed anew each time."""
        parts = [part for row in self.rows for part in (row.example.key, *row.options)]
        digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
        measured = [m.label for m in self.metrics if isinstance(m, ModelMetric)]
        return {
            "model": model_id,
            "rows": digest,
            "max_new_tokens": self.max_new_tokens,
            "measured": measured,
        }


def file_name(task: str) -> str:
    """A file name for a task's predictions: valid everywhere, and different for every task."""
    plain = re.sub(r"\W+", "-", task).strip("-")[:60]
    if plain == task:
        return f"{plain}.jsonl"
    return f"{plain}-{hashlib.blake2b(task.encode(), digest_size=3).hexdigest()}.jsonl"


@dataclass(frozen=True)
class RowSource:
    """How the rows of a file become rows of a task.

    Attributes:
        prompt: template with the fields of a row in braces; empty for the row's own prompt.
        answer: field of the expected answer; empty to look for it in ANSWER_FIELDS.
        options: answers to choose from, or the field that lists them.
        number: most rows.
    """

    prompt: str
    answer: str
    options: Sequence[str] | str
    number: int


def read_task_rows(path: Path, source: RowSource, *, task: str) -> list[TaskRow]:
    """The rows of a task; where there are more than `source.number`, always the same ones.

    Raises:
        ConfigError: the file does not exist, or settings exclude each other.
        DataError: it holds no row, or one that cannot be asked.
    """
    where = f"task '{task}': rows: {path}"
    if not path.is_file():
        near = [each.name for each in path.parent.glob("*")] if path.parent.is_dir() else []
        raise ConfigError(f"{where} does not exist.{suggest(path.name, near)}")
    if source.answer and not source.prompt:
        raise ConfigError(
            f"task '{task}': answer names the field '{source.answer}', which only a `prompt` of "
            "your own makes use of. Give a prompt, or leave answer out."
        )
    try:
        rows = list(_read(path, source, task))
    except DataError as error:
        raise DataError(
            str(error) if str(error).startswith("task ") else f"{where} {error}"
        ) from error
    if not rows:
        raise DataError(f"{where} holds no row that can be asked.")
    return _chosen(rows, source.number)


def _read(path: Path, source: RowSource, task: str) -> Iterator[TaskRow]:
    refused = None
    num_rows = 0
    for raw in read_rows(path):
        row = raw if isinstance(raw, Refused) else _row(raw, path, source, task)
        if isinstance(row, Refused):
            refused = refused or row
            continue
        num_rows += 1
        _require_option(row, task)
        yield row
    if refused and not num_rows:
        raise DataError(f"holds no row that can be asked. The first: {refused}")


def _row(raw: RawRow, path: Path, source: RowSource, task: str) -> TaskRow | Refused:
    options = _options(raw, source.options, task, path)
    if source.prompt:
        prompt = _filled(raw, source.prompt, options, f"task '{task}': prompt")
        answer = _answer(raw, source.answer, task)
        messages = Message("user", prompt), Message("assistant", answer)
        return TaskRow(Example(messages, group_of(path), path.name, raw.line), options)
    example = to_example(raw, group=group_of(path), file=path.name, layout=None, folder=path.parent)
    return example if isinstance(example, Refused) else TaskRow(example, options)


def _filled(raw: RawRow, template: str, options: Sequence[str], where: str) -> str:
    fields = _fields(raw)

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name in fields:
            return str(fields[name])
        if name == "options" and options:
            return ", ".join(options)
        raise _no_field(raw, name, where)

    return _FIELD.sub(value, template)


def _answer(raw: RawRow, name: str, task: str) -> str:
    fields = _fields(raw)
    names = [name] if name else [each for each in ANSWER_FIELDS if each in fields]
    if not names:
        raise DataError(
            f"task '{task}': line {raw.line} has no field with an expected answer among "
            f"{', '.join(fields)}. Name it with `answer:`."
        )
    if names[0] not in fields:
        raise _no_field(raw, names[0], f"task '{task}': answer")
    return str(fields[names[0]])


def _options(raw: RawRow, options: Sequence[str] | str, task: str, path: Path) -> tuple[str, ...]:
    if not isinstance(options, str):
        return tuple(options)
    fields = _fields(raw)
    if options not in fields:
        raise _no_field(raw, options, f"task '{task}': options")
    listed = fields[options]
    if not isinstance(listed, list) or not listed:
        raise DataError(
            f"task '{task}': {path.name}:{raw.line}: '{options}' must be a list of options; it is "
            f"{listed!r}."
        )
    return tuple(map(str, listed))


def _fields(raw: RawRow) -> Mapping[str, Any]:
    return raw.value if isinstance(raw.value, Mapping) else {"text": raw.value}


def _no_field(raw: RawRow, name: str, where: str) -> DataError:
    known = _fields(raw)
    return DataError(
        f"{where}: line {raw.line} has no field '{name}'.{suggest(name, known)} "
        f"Fields: {', '.join(map(str, known))}."
    )


def _require_option(row: TaskRow, task: str) -> None:
    if row.options and not any(same(row.expected, option) for option in row.options):
        raise DataError(
            f"task '{task}': {row.place} expects '{row.expected}', which is not among its options "
            f"({', '.join(row.options)}).{suggest(row.expected, row.options)} Mend the row, or "
            "add the option."
        )


def _chosen(rows: list[TaskRow], number: int) -> list[TaskRow]:
    """The rows with the smallest content hashes, in the order of the file."""
    if len(rows) <= number:
        return rows
    ranked = sorted(range(len(rows)), key=lambda i: (rows[i].example.key, i))
    return [rows[i] for i in sorted(ranked[:number])]
