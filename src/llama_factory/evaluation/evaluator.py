"""Scores a model on all tasks of its lineage and on the general guard, for a round's report."""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from llama_factory.core.errors import ConfigError
from llama_factory.core.progress import Bar, Progress
from llama_factory.core.types import EvalReport, Example, Task, TaskScores
from llama_factory.data.reading import read_examples
from llama_factory.evaluation.answering import predict_resumable, predict_task
from llama_factory.evaluation.likelihood import perplexity
from llama_factory.evaluation.metrics import METRICS
from llama_factory.evaluation.scoring import ScoredTask, score_task
from llama_factory.evaluation.settings import EvaluationSettings
from llama_factory.evaluation.task_rows import Prediction
from llama_factory.evaluation.tasks import EvalTask, file_name
from llama_factory.model.adapted import AdaptedModel

BUILT_IN_GUARD = Path(__file__).parent / "guard.jsonl"
SCORING = 1
"""Raised when this program changes how it scores: older measurements are measured again."""


def evaluate(
    model: AdaptedModel,
    tasks: Sequence[Task],
    settings: EvaluationSettings,
    *,
    title: str,
    progress: Progress,
    folder: Path | None = None,
) -> tuple[EvalReport, list[Prediction]]:
    """Score a model on every task and on the guard.

    Rows of plain text are scored by their likelihood alone: their tasks have a perplexity and no
    other score.

    Args:
        model: with its adapter on.
        tasks: held-out rows; at most `max_rows` of each are scored, always the same ones.
        settings: metrics and limits.
        title: shown beside the progress bar.
        progress: shows how far it is.
        folder: where predictions are written as they come, so that an interrupted evaluation
            resumes while the weights are the same; None keeps them in memory.

    Raises:
        DataError: a metric cannot score the rows.
    """
    started = time.perf_counter()
    model.network.eval()
    guard_rows = load_guard(settings.guard or BUILT_IN_GUARD)
    eval_tasks = [EvalTask.from_task(task, settings) for task in tasks]
    for task in eval_tasks:
        task.check()
    total = sum(len(task.rows) for task in eval_tasks) + len(guard_rows)
    with progress.bar(title, total) as bar:
        scored = [score_task(*pair) for pair in _predict(model, eval_tasks, folder, bar)]
        guard = perplexity(model, guard_rows, batch_tokens=settings.batch_tokens)
        bar.advance(len(guard_rows))
    report = EvalReport(_scores(scored), guard, time.perf_counter() - started)
    return report, [prediction for each in scored for prediction in each.predictions]


def answer_tasks(
    model: AdaptedModel,
    tasks: Sequence[Task],
    settings: EvaluationSettings,
    *,
    title: str,
    progress: Progress,
    folder: Path | None = None,
) -> list[Prediction]:
    """Answer tasks and score each answer, as `evaluate` does, without the guard."""
    model.network.eval()
    eval_tasks = [EvalTask.from_task(task, settings) for task in tasks]
    with progress.bar(title, sum(len(task.rows) for task in eval_tasks)) as bar:
        scored = [score_task(*pair) for pair in _predict(model, eval_tasks, folder, bar)]
    return [prediction for each in scored for prediction in each.predictions]


def load_guard(path: Path) -> list[Example]:
    """The general rows.

    Raises:
        ConfigError: the file is missing or holds no usable row.
    """
    if not path.is_file():
        raise ConfigError(f"evaluation.guard: {path} does not exist.")
    rows = [row for row in read_examples(path) if isinstance(row, Example)]
    if not rows:
        raise ConfigError(f"evaluation.guard: {path} holds no usable row.")
    return rows


def conditions_of(model: AdaptedModel, settings: EvaluationSettings) -> dict[str, Any]:
    """What scores depend on besides the weights and the rows, as plain values.

    Saved with the scores: scores that were measured under other conditions are never compared.

    Raises:
        ConfigError: the guard's file is missing or holds no usable row.
    """
    guard = load_guard(settings.guard or BUILT_IN_GUARD)
    chat_format = model.options.format.filled(model.tokenizer)
    chat_format = replace(chat_format, template=_digest(str(chat_format.template)))
    metrics = settings.metrics
    conditions = {
        "scoring": SCORING,
        "metrics": {m.label: [METRICS.name_of(m), m.model_dump(mode="json")] for m in metrics},
        "max_rows": settings.max_rows,
        "max_new_tokens": settings.max_new_tokens,
        "guard": _digest(*(row.key for row in guard)),
        "prompts": asdict(replace(model.options, format=chat_format)),
        "dtype": str(next(model.network.parameters()).dtype).removeprefix("torch."),
    }
    plain: dict[str, Any] = json.loads(json.dumps(conditions))  # as it is read again
    return plain


def differences(saved: Mapping[str, Any] | None, now: Mapping[str, Any]) -> list[str]:
    """Names of the conditions that have changed; all of them where nothing was saved.

    A metric that is no longer wanted is no difference.
    """
    if not saved:
        return list(now)
    wanted = now["metrics"]
    known = {label: how for label, how in saved.get("metrics", {}).items() if label in wanted}
    before = {**saved, "metrics": known}
    return [name for name, value in now.items() if before.get(name) != value]


def _predict(
    model: AdaptedModel, tasks: Sequence[EvalTask], folder: Path | None, bar: Bar
) -> Iterator[tuple[EvalTask, list[Prediction]]]:
    model_id = _identity(model) if folder else ""
    for task in tasks:
        if folder is None:
            yield task, predict_task(model, task, bar)
        else:
            path = folder / file_name(task.name)
            yield task, predict_resumable(model, task, path, model_id=model_id, bar=bar)


def _identity(model: AdaptedModel) -> str:
    """A hash of the weights in memory: an evaluation resumes only with the same ones."""
    digest = hashlib.blake2b(model.fingerprint.encode(), digest_size=16)
    for name, weight in sorted(model.trainable().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _scores(scored: Sequence[ScoredTask]) -> dict[str, TaskScores]:
    results = (each.result for each in scored)
    return {
        r.task: TaskScores(r.task, r.count, {name: s.value for name, s in r.scores.items()})
        for r in results
    }


def _digest(*texts: str) -> str:
    joined = "\n".join(texts).encode(errors="surrogatepass")
    return hashlib.blake2b(joined, digest_size=16).hexdigest()
