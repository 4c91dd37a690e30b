"""A model answers the rows of a task; predictions go to disk in pieces, so a killed run resumes."""

import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from llama_factory.core import files
from llama_factory.core.progress import Bar
from llama_factory.core.types import Example
from llama_factory.evaluation.likelihood import row_likelihoods
from llama_factory.evaluation.metrics import ModelMetric
from llama_factory.evaluation.task_rows import Prediction, TaskRow
from llama_factory.evaluation.tasks import EvalTask
from llama_factory.inference.decoding import ROWS_AT_ONCE, decode
from llama_factory.inference.packed import context_tokens
from llama_factory.inference.places import end_tokens as declared_ends
from llama_factory.model.adapted import AdaptedModel
from llama_factory.model.chat.channels import final_text
from llama_factory.model.chat.encoding import Unfit, prompt_ids

ROWS_PER_WRITE = 4 * ROWS_AT_ONCE
"""Rows between two writes: answered together, so that little is padded."""
MAX_CHARACTERS = 2000
"""Of a prompt or text in a prediction; the rows themselves are kept elsewhere."""

EMPTY_THOUGHT = re.compile(r"\s*<(think|\w+:think|thinking)>\s*</\1>")
OPENED = re.compile(r"<(think|\w+:think|thinking)>\s*\Z")
OPENING_TOKENS = 12
"""Last tokens of a prompt, in which an opened thought is looked for."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DecodedAnswer:
    """What a model answered.

    Attributes:
        text: without special tokens and outer white space.
        num_tokens: generated tokens, the end token included.
        is_cut: whether the length limit came before the end token.
    """

    text: str
    num_tokens: int
    is_cut: bool


NO_ANSWER = DecodedAnswer("", 0, is_cut=False)


def predict_task(model: AdaptedModel, task: EvalTask, bar: Bar) -> list[Prediction]:
    """Answer every row, writing nothing to disk."""
    return [each for part in _pieces(task.rows) for each in _predict(model, task, part, bar)]


def predict_resumable(
    model: AdaptedModel, task: EvalTask, path: Path, *, model_id: str, bar: Bar
) -> list[Prediction]:
    """Answer every row and write one JSON line a row; rows of an interrupted run are kept.

    Args:
        model: with its adapter on.
        task: rows, metrics and limits.
        path: of the predictions; what they depend on is written beside it.
        model_id: identifies the weights, so that a run never resumes with another model.
        bar: shows how far it is.
    """
    record = path.with_suffix(".run.json")
    wanted = task.record(model_id) | {"prompts": repr(model.options)}
    if not record.exists() or files.read_json(record) != wanted:
        path.unlink(missing_ok=True)
        files.write_json(record, wanted)
    done = _keep_whole_lines(path, task.rows)
    if done:
        bar.advance(len(done))
    if len(done) == len(task.rows):
        return done
    with path.open("ab") as file:
        for part in _pieces(task.rows[len(done) :]):
            predictions = _predict(model, task, part, bar)
            file.writelines(_line(each) for each in predictions)
            file.flush()
            done += predictions
    files.sync(path)
    return done


def greedy_answers(
    model: AdaptedModel,
    rows: Sequence[Example],
    *,
    max_new_tokens: int,
    bar: Bar,
    batch_tokens: int = 2048,
) -> list[DecodedAnswer]:
    """The greedy answer to each row's prompt, in the order of the rows; see `answer_rows`."""
    answers: dict[int, DecodedAnswer] = {}
    for number, answer in answer_rows(
        model, rows, max_new_tokens=max_new_tokens, batch_tokens=batch_tokens
    ):
        answers[number] = answer
        bar.advance()
    return [answers[number] for number in range(len(rows))]


def answer_rows(
    model: AdaptedModel,
    rows: Sequence[Example],
    *,
    max_new_tokens: int,
    batch_tokens: int = 2048,
) -> Iterator[tuple[int, DecodedAnswer]]:
    """The number of each row with its greedy answer, as soon as the answer has ended.

    Greedy is the token with the highest probability every time: penalties in a model's own
    generation settings are ignored. The answer is empty where the chat template refuses the prompt
    or the prompt fills the whole context.

    Args:
        model: in eval mode.
        rows: those with similar lengths are answered together.
        max_new_tokens: longest answer.
        batch_tokens: most prompt tokens that go through the model at once; keys and values are held
            of eight times as many.
    """
    prompts = _prompts(model, rows)
    for refused in set(range(len(rows))).difference(prompts):
        yield refused, NO_ANSWER
    numbers = list(prompts)
    ends, asked = end_tokens(model), list(prompts.values())
    for decoded in decode(model.network, asked, ends, max_new_tokens, batch_tokens=batch_tokens):
        number = numbers[decoded.number]
        text = final_text(decoded.ids, model.tokenizer).strip()
        if not EMPTY_THOUGHT.match(rows[number].answer):
            end = prompts[number][-OPENING_TOKENS:]
            text = without_empty_thought(text, prompt_end=str(model.tokenizer.decode(end)))
        yield number, DecodedAnswer(text, len(decoded.ids), decoded.is_cut)


def without_empty_thought(text: str, *, prompt_end: str) -> str:
    """An answer without the empty thought that reasoning templates make a model begin with.

    Args:
        text: the model's answer.
        prompt_end: the end of its prompt, in which the thought may begin.
    """
    opened = OPENED.search(prompt_end)
    whole = text if opened is None else f"{opened[0]}{text}"
    thought = EMPTY_THOUGHT.match(whole)
    return whole[thought.end() :].strip() if thought else text


def end_tokens(model: AdaptedModel) -> frozenset[int]:
    """The tokens that end an answer: as the model was taught, and all that it declares."""
    own = model.options.format.end_id(model.tokenizer)
    declared = declared_ends(model.network, model.tokenizer)
    return declared if own is None else declared | {own}


def _prompts(model: AdaptedModel, rows: Sequence[Example]) -> dict[int, list[int]]:
    """Token ids of the prompts that can be answered, by the number of their row."""
    encoded = [prompt_ids(row, model.tokenizer, model.options) for row in rows]
    fitting = {i: ids for i, ids in enumerate(encoded) if ids and not isinstance(ids, Unfit)}
    most = context_tokens(model.network)
    short = {i: ids for i, ids in fitting.items() if len(ids) < most}
    if len(short) < len(fitting):
        logger.warning(
            "%d of %d prompts fill all %d tokens that the model can read: their answers are empty.",
            len(fitting) - len(short),
            len(rows),
            most,
        )
    return short


def _pieces(rows: Sequence[TaskRow]) -> Iterator[list[TaskRow]]:
    left = iter(rows)
    while part := list(islice(left, ROWS_PER_WRITE)):
        yield part


def _predict(
    model: AdaptedModel, task: EvalTask, rows: Sequence[TaskRow], bar: Bar
) -> list[Prediction]:
    examples = [row.example for row in rows]
    answers = _answers(model, task, examples, bar)
    likelihoods = row_likelihoods(model, examples, batch_tokens=task.batch_tokens)
    measured = _measured(model, task, rows)
    if num_texts := sum(row.is_text for row in examples):
        bar.advance(num_texts)
    return [
        Prediction(
            task=task.name,
            prompt=row.example.prompt[-1].content[:MAX_CHARACTERS],
            expected="" if row.example.is_text else row.expected,
            answer=answers[number].text,
            nats=likelihoods[number].nats,
            tokens=likelihoods[number].tokens,
            num_tokens=answers[number].num_tokens,
            is_cut=answers[number].is_cut,
            measured={name: values[number] for name, values in measured.items()},
            key=row.example.key,
        )
        for number, row in enumerate(rows)
    ]


def _answers(
    model: AdaptedModel, task: EvalTask, rows: Sequence[Example], bar: Bar
) -> list[DecodedAnswer]:
    """One a row; plain text gets none, as it asks nothing."""
    given = iter(
        greedy_answers(
            model,
            [row for row in rows if not row.is_text],
            max_new_tokens=task.max_new_tokens,
            bar=bar,
            batch_tokens=task.batch_tokens,
        )
    )
    return [NO_ANSWER if row.is_text else next(given) for row in rows]


def _measured(
    model: AdaptedModel, task: EvalTask, rows: Sequence[TaskRow]
) -> dict[str, list[tuple[str, float, float]]]:
    """Answer, score and weight of every row, by metric that needs the model itself."""
    measured = {}
    for metric in task.metrics:
        if isinstance(metric, ModelMetric):
            scored = metric.measure(model, rows, batch_tokens=task.batch_tokens)
            measured[metric.label] = [(each.answer, each.score, each.weight) for each in scored]
    return measured


def _line(prediction: Prediction) -> bytes:
    return json.dumps(prediction.to_json(), ensure_ascii=False).encode() + b"\n"


def _keep_whole_lines(path: Path, rows: Sequence[TaskRow]) -> list[Prediction]:
    """The stored predictions of the first rows; the file is cut where they end."""
    if not path.exists():
        return []
    kept: list[Prediction] = []
    num_bytes = 0
    with path.open("rb") as file:
        for line, row in zip(file, rows, strict=False):
            prediction = _read_line(line)
            if prediction is None or prediction.key != row.example.key:
                break
            kept.append(prediction)
            num_bytes += len(line)
    with path.open("rb+") as file:
        file.truncate(num_bytes)
    return kept


def _read_line(line: bytes) -> Prediction | None:
    """None for a line that was still being written."""
    if not line.endswith(b"\n"):
        return None
    try:
        return Prediction.from_json(json.loads(line))
    except (ValueError, TypeError):
        return None
