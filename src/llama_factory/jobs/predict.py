"""Batch prediction: a model's answers to all rows of a file or of a run's held-out set, and scores.

Answers are written as they come, so that a killed run goes on where it was.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from llama_factory.core import files
from llama_factory.core.errors import ConfigError, DataError
from llama_factory.core.progress import Progress
from llama_factory.core.types import Example
from llama_factory.data.intake import convert
from llama_factory.data.readers import Refused
from llama_factory.data.reading import read_examples
from llama_factory.data.sources.files import DataSource
from llama_factory.data.sources.named import gather_tests
from llama_factory.evaluation.answering import DecodedAnswer, greedy_answers
from llama_factory.evaluation.metrics import METRICS, Metric, ModelMetric, require_fits
from llama_factory.evaluation.scoring import estimate
from llama_factory.evaluation.settings import EvaluationSettings
from llama_factory.evaluation.statistics import Estimate
from llama_factory.evaluation.task_rows import AnsweredRow, ScoredRow, TaskRow
from llama_factory.inference.decoding import ROWS_AT_ONCE
from llama_factory.model.adapted import AdaptedModel
from llama_factory.model.chat.encoding import Unfit, encode_options, prompt_ids
from llama_factory.model.saved import SavedModel, find_adapters, of_version
from llama_factory.rounds.settings import LearningConfig

ANSWERS = "generated_predictions.jsonl"
SCORES = "predict_results.json"
ROWS_AT_A_TIME = 4 * ROWS_AT_ONCE
"""Rows between two writes: answered shortest first, so that little is padded."""
USUAL = ("bleu-4", "rouge-1", "rouge-2", "rouge-l")
"""Metrics that people expect of a batch prediction, beside those of the settings."""


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
        return {name: each.value for name, each in self.estimates.items()}

    def to_json(self) -> dict[str, Any]:
        """Plain values, named as LLaMA-Factory names them, with counts and intervals beside."""
        intervals = {f"predict_{name}": each.to_json() for name, each in self.estimates.items()}
        return {
            **{name: each["value"] for name, each in intervals.items()},
            "predict_runtime": round(self.seconds, 4),
            "predict_samples_per_second": round(self.rows_per_second, 3),
            "num_rows": self.num_rows,
            "num_refused": self.num_refused,
            "num_open": self.num_open,
            "intervals": intervals,
        }


def predict_only(config: LearningConfig, output: Path, progress: Progress) -> dict[str, Any]:
    """Answer the test rows that the settings name with their adapters, or the base model alone.

    Returns:
        What predict_results.json holds.

    Raises:
        ConfigError: no rows are named.
        DataError: none can be read, or the answers are there already.
    """
    rows: list[Example] = []
    for source in gather_tests(config.data):
        rows += _read_tests(source, config.data.mix.max_samples, progress)
    require_answerable(rows, config)
    paths = config.model.adapter_paths
    names, base = ",".join(map(str, paths)), config.model.base_model
    saved = find_adapters(names, base, config.model) if paths else of_version(config.model, (), "")
    model = saved.open(encode_options(config.data))
    return predict_rows(model, rows, config, output, progress=progress, name=saved.identity())


def predict_rows(
    model: AdaptedModel,
    rows: Sequence[Example],
    config: LearningConfig,
    output: Path,
    *,
    progress: Progress,
    name: str = "",
) -> dict[str, Any]:
    """Answer rows and write every answer, and the scores, into a folder.

    Args:
        model: with its adapter on.
        rows: with the expected answers; those without one are answered and not judged.
        config: metrics and limits.
        output: the folder.
        progress: shows how far it is.
        name: identifies the model, so that an interrupted run never goes on with another one.

    Returns:
        What predict_results.json holds.

    Raises:
        FactoryError: see `predict`.
    """
    settings = config.evaluation
    options = PredictOptions(
        usual_metrics(settings),
        settings.max_new_tokens,
        name or model.fingerprint,
        settings.batch_tokens,
    )
    report = predict(model, rows, output / ANSWERS, options=options, progress=progress).to_json()
    files.write_json(output / SCORES, report)
    return report


def usual_metrics(settings: EvaluationSettings) -> list[Metric]:
    """The settings' metrics, then those of USUAL that are not among them."""
    named = {metric.label for metric in settings.metrics}
    return [*settings.metrics, *(METRICS.parse(name) for name in USUAL if name not in named)]


def predict_file(
    saved: SavedModel,
    path: Path,
    output: Path,
    config: LearningConfig,
    *,
    metrics: Sequence[Metric],
    progress: Progress,
) -> PredictReport:
    """Answer every row of a file with a saved model, see `predict`."""
    rows, settings = read_rows(path, progress, may_lack_answer=True), config.evaluation
    name, limit = saved.identity(), settings.max_new_tokens
    options = PredictOptions(metrics, limit, name, settings.batch_tokens)
    model = saved.open(encode_options(config.data))
    return predict(model, rows, output, options=options, progress=progress)


def read_rows(path: Path, progress: Progress, *, may_lack_answer: bool = False) -> list[Example]:
    """The usable rows of a file; the refused ones are reported.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        read = list(read_examples(path, may_lack_answer=may_lack_answer))
    except DataError as error:
        raise DataError(f"{path} {error}") from error
    for each in read:
        if not isinstance(each, Example):
            progress.say(f"Left out: {each}")
    return [each for each in read if isinstance(each, Example)]


def require_answerable(rows: Sequence[Example], config: LearningConfig) -> None:
    """Check before a model is read what would stop the answering or its judging.

    Raises:
        ConfigError: there are no rows, or a metric cannot be used here.
        DataError: a metric does not fit the rows.
    """
    if not len(rows):
        raise ConfigError(
            "do_predict: there is no held-out row to answer. Give data.eval_path or "
            "data.eval_dataset, or raise data.held_out_fraction."
        )
    _require_judgeable(rows, usual_metrics(config.evaluation))


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
    _require_judgeable(rows, options.metrics)
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
    answered, num_refused = _read_answers(part, rows)
    judged = [each for each in answered if _has_answer(each.row.example)]
    metrics = options.metrics if judged else ()
    estimates = {each.label: _judge(each, model, judged, options) for each in metrics}
    part.replace(output)  # not before: a judge that fails must not cost the answers
    record.unlink()
    per_second = (len(rows) - num_kept) / seconds
    num_open = len(rows) - len(judged)
    return PredictReport(len(rows), num_refused, estimates, seconds, per_second, num_open)


def _read_tests(source: DataSource, limit: int | None, progress: Progress) -> list[Example]:
    """The first rows of a set; the refused ones are reported."""
    rows: list[Example] = []
    for raw in source.open_rows():
        row = raw if isinstance(raw, Refused) else convert(raw, source, may_lack_answer=True)
        if isinstance(row, Refused):
            progress.say(f"Left out: {row}")
        elif row.is_desirable is not False:
            rows.append(row)
        if len(rows) == limit:
            break
    return rows


def _require_new(output: Path, rows: Sequence[Example]) -> None:
    if output.exists():
        raise DataError(f"{output} exists already. Give a new file's name, or remove it first.")
    if not rows:
        raise DataError(f"{output}: there is no row to answer.")


def _require_judgeable(rows: Sequence[Example], metrics: Sequence[Metric]) -> None:
    """Refuse before hours of answering, not after them, a metric that cannot judge the rows.

    Rows that expect no answer are not judged.
    """
    asked = [TaskRow(row) for row in rows if _has_answer(row)]
    for metric in metrics if asked else ():
        require_fits(metric, asked, "predict")


def _has_answer(row: Example) -> bool:
    """Whether a row expects an answer, by which the model's may be judged."""
    return bool(row.answer or row.messages[-1].tool_calls)


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
            given = greedy_answers(model, chosen, max_new_tokens=limit, bar=bar)
            pairs = zip(chosen, given, strict=True)
            file.writelines(_line(_prompt_text(row, model), answer, row) for row, answer in pairs)
            file.flush()
    files.sync(part)


def _is_same_run(part: Path, record: Path, asked: dict[str, Any], progress: Progress) -> bool:
    if not (part.exists() and record.exists()):
        return False
    if files.read_json(record) == asked:
        return True
    progress.say(f"{part} was written by another model or asked otherwise: beginning anew.")
    return False


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
    asked = {"prompt": _prompt_text(row, model), "label": row.answer}
    return isinstance(written, dict) and "is_cut" in written and {**written, **asked} == written


def _prompt_text(row: Example, model: AdaptedModel) -> str:
    """What the model is asked, with the chat template's marks; empty where the template refuses."""
    ids = prompt_ids(row, model.tokenizer, model.options)
    return "" if isinstance(ids, Unfit) else str(model.tokenizer.decode(ids))


def _line(prompt: str, answer: DecodedAnswer, row: Example) -> bytes:
    values = {
        "prompt": prompt,
        "predict": answer.text,
        "label": row.answer,
        "is_cut": answer.is_cut,
    }
    return json.dumps(values, ensure_ascii=False).encode() + b"\n"


def _read_answers(path: Path, rows: Sequence[Example]) -> tuple[list[AnsweredRow], int]:
    """The answers, and how many prompts the chat template refused."""
    lines = list(files.read_jsonl(path))
    answered = [
        AnsweredRow(TaskRow(row), line["predict"], is_cut=line["is_cut"])
        for row, line in zip(rows, lines, strict=True)
    ]
    return answered, sum(not line["prompt"] for line in lines)


def _judge(
    metric: Metric, model: AdaptedModel, answered: Sequence[AnsweredRow], options: PredictOptions
) -> Estimate:
    """The score of all rows with its interval, x 100 where it lies between 0 and 1."""
    score = estimate(metric, _score(metric, model, answered, options.batch_tokens))
    factor = 100 if metric.highest == 1.0 else 1
    low, high = (None if end is None else round(factor * end, 4) for end in (score.low, score.high))
    return replace(score, value=round(factor * score.value, 4), low=low, high=high)


def _score(
    metric: Metric, model: AdaptedModel, answered: Sequence[AnsweredRow], batch_tokens: int
) -> list[ScoredRow]:
    if isinstance(metric, ModelMetric):
        rows = [each.row for each in answered]
        return metric.measure(model, rows, batch_tokens=batch_tokens)
    return metric.score_rows(answered)
