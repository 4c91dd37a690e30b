"""A model's answers to all rows of a file, written as they come; a killed run goes on."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from llama_factory.core import files
from llama_factory.core.errors import DataError
from llama_factory.core.progress import Progress
from llama_factory.core.types import Example
from llama_factory.evaluation.answered import Answered, Scored, TaskRow
from llama_factory.evaluation.answers import ROWS_AT_ONCE, Answer, answers
from llama_factory.evaluation.marks import estimate
from llama_factory.evaluation.metrics import METRICS, Metric, ModelMetric, require_fits
from llama_factory.evaluation.settings import EvaluationSettings
from llama_factory.evaluation.statistics import Estimate
from llama_factory.model.chat.masks import Unfit, prompt_ids
from llama_factory.model.load import AdaptedModel

ROWS_AT_A_TIME = 4 * ROWS_AT_ONCE
"""Rows between two writes: answered shortest first, so that little is padded."""


USUAL = ("bleu-4", "rouge-1", "rouge-2", "rouge-l")
"""Metrics that people expect of a batch prediction, beside those of the settings."""


def usual_metrics(settings: EvaluationSettings) -> list[Metric]:
    """The settings' metrics, then those of USUAL that are not among them."""
    named = {metric.label for metric in settings.metrics}
    return [*settings.metrics, *(METRICS.parse(name) for name in USUAL if name not in named)]


@dataclass(frozen=True)
class PredictOptions:
    """How rows are answered and judged.

    Attributes:
        metrics: how answers are judged.
        max_new_tokens: longest answer.
        model_id: identifies the model, so that an interrupted run never goes on with another one.
        batch_tokens: most tokens that go through the model at once for metrics that look into it.
    """

    metrics: Sequence[Metric]
    max_new_tokens: int
    model_id: str
    batch_tokens: int = 2048

    def to_json(self) -> dict[str, Any]:
        """What the answers depend on."""
        return {"model": self.model_id, "max_new_tokens": self.max_new_tokens}


@dataclass(frozen=True)
class PredictReport:
    """How well the answers fit.

    Attributes:
        num_rows: rows answered, those of an earlier run among them.
        num_refused: of these, how many the chat template refuses; their answers are empty.
        num_open: of these, how many expect no answer, so that theirs is not judged.
        estimates: by metric, x 100 where it lies between 0 and 1, with 95 % intervals.
        seconds: time that this run took.
        rows_per_second: of this run.
    """

    num_rows: int
    num_refused: int
    estimates: Mapping[str, Estimate]
    seconds: float
    rows_per_second: float
    num_open: int = 0

    @property
    def scores(self) -> dict[str, float]:
        """By metric, without intervals; NaN where no row could be judged."""
        return {name: found.value for name, found in self.estimates.items()}

    def to_json(self) -> dict[str, Any]:
        """Plain values, named as LLaMA-Factory names them, with counts and intervals beside."""
        found = {f"predict_{name}": each.to_json() for name, each in self.estimates.items()}
        return {
            **{name: each["value"] for name, each in found.items()},
            "predict_runtime": round(self.seconds, 4),
            "predict_samples_per_second": round(self.rows_per_second, 3),
            "num_rows": self.num_rows,
            "num_refused": self.num_refused,
            "num_open": self.num_open,
            "intervals": found,
        }


def predict(
    model: AdaptedModel,
    rows: Sequence[Example],
    output: Path,
    *,
    options: PredictOptions,
    progress: Progress,
) -> PredictReport:
    """Answer every row greedily and write one `{prompt, predict, label, is_cut}` a line.

    Args:
        model: with its adapter on.
        rows: in the order in which they are written.
        output: a new file; until the last row is written it has `.part` at its end.
        options: how they are answered and judged.
        progress: shows how far it is.

    Raises:
        DataError: there is no row, the file exists, or a metric does not fit the rows.
        ConfigError: a metric cannot be used here.
    """
    _require_new(output, rows)
    require_judgeable(rows, options.metrics)
    output.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    model.network.eval()
    part = output.with_name(output.name + ".part")
    record = output.with_name(output.name + ".part.json")
    asked = options.to_json() | {"prompts": repr(model.options)}
    if not _is_same_run(part, record, asked, progress):
        part.unlink(missing_ok=True)
        files.write_json(record, asked)
    num_kept = _keep_written(part, rows, model, progress)
    _answer(model, rows, part, num_kept=num_kept, limit=options.max_new_tokens, progress=progress)
    seconds = time.perf_counter() - started
    answered, num_refused = _read(part, rows)
    judged = [each for each in answered if has_answer(each.row.example)]
    metrics = options.metrics if judged else ()
    found = {each.label: _judge(each, model, judged, options) for each in metrics}
    part.replace(output)  # not before: a judge that fails must not cost the answers
    record.unlink()
    per_second = (len(rows) - num_kept) / seconds
    num_open = len(rows) - len(judged)
    return PredictReport(len(rows), num_refused, found, seconds, per_second, num_open)


def has_answer(row: Example) -> bool:
    """Whether a row expects an answer, by which the model's may be judged."""
    return bool(row.answer or row.messages[-1].tool_calls)


def require_judgeable(rows: Sequence[Example], metrics: Sequence[Metric]) -> None:
    """Tell what would stop the judging before hours of answering, and not after them.

    Rows that expect no answer are not judged.

    Raises:
        DataError: a metric does not fit the rows.
        ConfigError: a metric cannot be used here.
    """
    asked = [TaskRow(row) for row in rows if has_answer(row)]
    for metric in metrics if asked else ():
        require_fits(metric, asked, "predict")


def _answer(
    model: AdaptedModel,
    rows: Sequence[Example],
    part: Path,
    *,
    num_kept: int,
    limit: int,
    progress: Progress,
) -> None:
    left = iter(rows[num_kept:])
    with progress.bar("predicting", len(rows), num_kept) as bar, part.open("ab") as file:
        while chosen := list(islice(left, ROWS_AT_A_TIME)):
            given = answers(model, chosen, max_new_tokens=limit, bar=bar)
            pairs = zip(chosen, given, strict=True)
            file.writelines(_line(prompt_text(row, model), answer, row) for row, answer in pairs)
            file.flush()
    files.sync(part)


def _is_same_run(part: Path, record: Path, asked: dict[str, Any], progress: Progress) -> bool:
    if not (part.exists() and record.exists()):
        return False
    if files.read_json(record) == asked:
        return True
    progress.say(f"{part} was written by another model or asked otherwise: beginning anew.")
    return False


def prompt_text(row: Example, model: AdaptedModel) -> str:
    """What the model is asked, with the chat template's marks; empty where the template refuses."""
    ids = prompt_ids(row, model.tokenizer, model.options)
    return "" if isinstance(ids, Unfit) else str(model.tokenizer.decode(ids))


def _require_new(output: Path, rows: Sequence[Example]) -> None:
    if output.exists():
        raise DataError(f"{output} exists already. Give a new file's name, or remove it first.")
    if not rows:
        raise DataError(f"{output}: there is no row to answer.")


def _keep_written(
    part: Path, rows: Sequence[Example], model: AdaptedModel, progress: Progress
) -> int:
    """How many rows an earlier run has answered; whatever comes after them is cut off."""
    if not part.exists():
        return 0
    num_kept = num_bytes = 0
    with part.open("rb") as file:
        for line, row in zip(file, rows, strict=False):
            if not _is_answer_to(line, row, model):
                break
            num_kept, num_bytes = num_kept + 1, num_bytes + len(line)
    with part.open("rb+") as file:
        file.truncate(num_bytes)
    progress.say(f"{part}: going on after {num_kept} rows that an earlier run answered.")
    return num_kept


def _is_answer_to(line: bytes, row: Example, model: AdaptedModel) -> bool:
    """Whether a line is whole and was written for this row."""
    if not line.endswith(b"\n"):
        return False
    try:
        written = json.loads(line)
    except ValueError:
        return False
    asked = {"prompt": prompt_text(row, model), "label": row.answer}
    return isinstance(written, dict) and "is_cut" in written and {**written, **asked} == written


def _line(prompt: str, answer: Answer, row: Example) -> bytes:
    said = {"prompt": prompt, "predict": answer.text, "label": row.answer}
    values = {**said, "is_cut": answer.is_cut}
    return json.dumps(values, ensure_ascii=False).encode() + b"\n"


def _read(path: Path, rows: Sequence[Example]) -> tuple[list[Answered], int]:
    """The answers, and how many prompts the chat template refused."""
    lines = list(files.read_jsonl(path))
    answered = [
        Answered(TaskRow(row), line["predict"], is_cut=line["is_cut"])
        for row, line in zip(rows, lines, strict=True)
    ]
    return answered, sum(not line["prompt"] for line in lines)


def _judge(
    metric: Metric, model: AdaptedModel, answered: Sequence[Answered], options: PredictOptions
) -> Estimate:
    """The score of all rows with its interval, x 100 where it lies between 0 and 1."""
    found = estimate(metric, _score(metric, model, answered, options.batch_tokens))
    factor = 100 if metric.highest == 1.0 else 1
    low, high = (None if end is None else round(factor * end, 4) for end in (found.low, found.high))
    return replace(found, value=round(factor * found.value, 4), low=low, high=high)


def _score(
    metric: Metric, model: AdaptedModel, answered: Sequence[Answered], batch_tokens: int
) -> list[Scored]:
    if isinstance(metric, ModelMetric):
        rows = [each.row for each in answered]
        return metric.measure(model, rows, batch_tokens=batch_tokens)
    return metric.score_rows(answered)
