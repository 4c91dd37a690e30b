"""Exams put to a model in pieces that go to disk at once, so that a killed run goes on."""

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from llama_factory.core import files
from llama_factory.core.progress import Bar
from llama_factory.evaluation.answered import Answered, TaskRow
from llama_factory.evaluation.answers import ROWS_AT_ONCE, Answer, answer_rows
from llama_factory.evaluation.exam import Exam
from llama_factory.evaluation.likelihood import row_likelihoods
from llama_factory.evaluation.metrics import ModelMetric
from llama_factory.evaluation.prediction import Prediction
from llama_factory.model.adapted import AdaptedModel

ROWS_AT_A_TIME = 4 * ROWS_AT_ONCE
"""Rows between two writes: answered together, so that little is padded."""
MOST_CHARACTERS = 2000
"""Of a prompt or text in a prediction; the rows themselves are kept elsewhere."""


def put(model: AdaptedModel, exam: Exam, bar: Bar) -> list[Prediction]:
    """Answer every row, keeping nothing on disk."""
    return [each for part in _pieces(exam.rows) for each in _predict(model, exam, part, bar)]


def put_resumable(
    model: AdaptedModel, exam: Exam, path: Path, *, model_id: str, bar: Bar
) -> list[Prediction]:
    """The same, one JSON line a row in `path`; rows that an earlier run answered are kept.

    Args:
        model: with its adapter on.
        exam: what is asked.
        path: of the predictions; what they depend on lies beside it.
        model_id: identifies the weights, so that a run never goes on with another model.
        bar: shows how far it is.
    """
    record = path.with_suffix(".run.json")
    asked = exam.record(model_id) | {"prompts": repr(model.options)}
    if not record.exists() or files.read_json(record) != asked:
        path.unlink(missing_ok=True)
        files.write_json(record, asked)
    done = _keep_whole(path, exam.rows)
    if done:
        bar.advance(len(done))
    if len(done) == len(exam.rows):
        return done
    with path.open("ab") as file:
        for part in _pieces(exam.rows[len(done) :]):
            made = _predict(model, exam, part, bar)
            file.writelines(_line(each) for each in made)
            file.flush()
            done += made
    files.sync(path)
    return done


def _pieces(rows: Sequence[TaskRow]) -> Iterator[list[TaskRow]]:
    left = iter(rows)
    while part := list(islice(left, ROWS_AT_A_TIME)):
        yield part


def _predict(
    model: AdaptedModel, exam: Exam, rows: Sequence[TaskRow], bar: Bar
) -> list[Prediction]:
    given = iter(_ask(model, exam, [row for row in rows if not row.example.is_text], bar))
    examples = [row.example for row in rows]
    likely = row_likelihoods(model, examples, batch_tokens=exam.batch_tokens)
    measured = _measured(model, exam, rows)
    if num_texts := sum(row.is_text for row in examples):
        bar.advance(num_texts)
    made = []
    for number, (row, found) in enumerate(zip(rows, likely, strict=True)):
        answer = Answered(row, "") if row.example.is_text else next(given)
        made.append(
            Prediction(
                task=exam.name,
                prompt=row.example.prompt[-1].content[:MOST_CHARACTERS],
                expected="" if row.example.is_text else row.expected,
                answer=answer.text,
                nats=found.nats,
                tokens=found.tokens,
                num_tokens=answer.num_tokens,
                is_cut=answer.is_cut,
                measured={name: values[number] for name, values in measured.items()},
                key=row.example.key,
            )
        )
    return made


def _ask(model: AdaptedModel, exam: Exam, rows: Sequence[TaskRow], bar: Bar) -> list[Answered]:
    examples = [row.example for row in rows]
    given: dict[int, Answer] = {}
    answers = answer_rows(
        model, examples, max_new_tokens=exam.max_new_tokens, batch_tokens=exam.batch_tokens
    )
    for number, answer in answers:
        given[number] = answer
        bar.advance()
    found = ((row, given[number]) for number, row in enumerate(rows))
    return [Answered(row, each.text, each.num_tokens, each.is_cut) for row, each in found]


def _measured(
    model: AdaptedModel, exam: Exam, rows: Sequence[TaskRow]
) -> dict[str, list[tuple[str, float, float]]]:
    """What each metric that looks into the model itself finds, row by row."""
    found = {}
    for metric in exam.metrics:
        if isinstance(metric, ModelMetric):
            scored = metric.measure(model, rows, batch_tokens=exam.batch_tokens)
            found[metric.label] = [(each.answer, each.score, each.weight) for each in scored]
    return found


def _line(prediction: Prediction) -> bytes:
    return json.dumps(prediction.to_json(), ensure_ascii=False).encode() + b"\n"


def _keep_whole(path: Path, rows: Sequence[TaskRow]) -> list[Prediction]:
    """The rows that were answered; a line that was being written when it ended is cut off."""
    if not path.exists():
        return []
    kept: list[Prediction] = []
    num_bytes = 0
    with path.open("rb") as file:
        for line, row in zip(file, rows, strict=False):
            found = _read(line)
            if found is None or found.key != row.example.key:
                break
            kept.append(found)
            num_bytes += len(line)
    with path.open("rb+") as file:
        file.truncate(num_bytes)
    return kept


def _read(line: bytes) -> Prediction | None:
    if not line.endswith(b"\n"):
        return None
    try:
        return Prediction.from_json(json.loads(line))
    except (ValueError, TypeError):
        return None
