"""Cross-validation: every row of a small set is tested once, by a model that was taught the rest.

Stone 1974, https://doi.org/10.1111/j.2517-6161.1974.tb00994.x. Differs: rows that ask the same stay
in one fold, and every fold gets its share of each group.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import stdev
from typing import Any

from llama_factory.core import files
from llama_factory.core.errors import ConfigError, DataError
from llama_factory.core.progress import Progress
from llama_factory.core.types import Example
from llama_factory.data.prepare import DataFolders, prepare
from llama_factory.data.sources.named import gather
from llama_factory.evaluation.answering import predict_resumable
from llama_factory.evaluation.scoring import ScoredTask, TaskResult, score_task
from llama_factory.evaluation.task_rows import Prediction
from llama_factory.evaluation.tasks import EvalTask
from llama_factory.jobs.train import fit
from llama_factory.model.chat.encoding import encode_options
from llama_factory.model.provenance import ADAPTER_FILE
from llama_factory.model.saved import find_adapters
from llama_factory.rounds.settings import LearningConfig

RESULTS = "cross_validation.json"
NOTHING_HELD_OUT: dict[str, Any] = {
    "held_out_fraction": 0.0,
    "eval_path": None,
    "eval_dataset": [],
    "dataset": [],
}


@dataclass(frozen=True)
class Fold:
    """One part of the rows to test on, and all others to teach."""

    number: int
    train: tuple[Example, ...]
    test: tuple[Example, ...]


@dataclass(frozen=True)
class CrossValidation:
    """The scores of all folds.

    Attributes:
        result: scores over all rows together, with intervals over rows.
        folds: scores of each fold.
        spread: standard deviation between the folds by metric: what another choice of rows to
            teach would change.
    """

    result: TaskResult
    folds: tuple[TaskResult, ...]
    spread: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        folds = [each.to_json() for each in self.folds]
        return {"all": self.result.to_json(), "folds": folds, "spread": self.spread}


def cross_validate(
    config: LearningConfig, num_folds: int, output: Path, progress: Progress
) -> CrossValidation:
    """Teach and test every fold; one that an earlier run has finished is not taught again.

    Args:
        config: settings of a single run; what they would hold out is taught and tested like all
            other rows.
        num_folds: how many parts the rows are cut into.
        output: a folder a fold, and the results.
        progress: shows how far it is.

    Raises:
        FactoryError: the message says what is wrong.
    """
    rows = _rows(config, output, progress)
    evaluation = config.evaluation
    task = EvalTask(
        name="all folds",
        rows=(),
        metrics=tuple(evaluation.metrics),
        max_new_tokens=evaluation.max_new_tokens,
        batch_tokens=evaluation.batch_tokens,
    )

    def answer(fold: Fold, asked: EvalTask) -> list[Prediction]:
        progress.say(f"Fold {fold.number} of {num_folds}")
        return _answer(config, fold, asked, output / f"fold-{fold.number}", progress)

    result = score_folds(make_folds(rows, num_folds, seed=config.training.seed), task, answer)
    files.write_json(output / RESULTS, result.to_json())
    return result


def make_folds(rows: Sequence[Example], count: int, *, seed: int = 0) -> list[Fold]:
    """Cut rows into folds by their content: the same rows and seed give the same folds.

    Args:
        rows: all of them.
        count: how many folds.
        seed: another one deals the rows differently.

    Raises:
        DataError: there are fewer different prompts than folds.
    """
    prompts = _ranked(rows, seed)
    if not 2 <= count <= len(prompts):
        raise DataError(
            f"--folds {count}: the rows have {len(prompts)} different prompts. Give from 2 "
            f"to {max(2, len(prompts))}."
        )
    fold_of = {key: place % count for place, key in enumerate(prompts)}
    return [
        Fold(
            number + 1,
            tuple(row for row in rows if fold_of[row.prompt_key] != number),
            tuple(row for row in rows if fold_of[row.prompt_key] == number),
        )
        for number in range(count)
    ]


def _ranked(rows: Sequence[Example], seed: int) -> list[str]:
    """Keys of all prompts, each once: by group, and in a group in an order that the seed draws."""
    by_group: dict[str, set[str]] = {}
    for row in rows:
        by_group.setdefault(row.group, set()).add(row.prompt_key)
    keys = (key for group in sorted(by_group) for key in sorted(by_group[group], key=_rank(seed)))
    return list(dict.fromkeys(keys))


def score_folds(
    folds: Iterable[Fold], task: EvalTask, answer: Callable[[Fold, EvalTask], list[Prediction]]
) -> CrossValidation:
    """Test every fold and put the results together.

    Args:
        folds: of the rows.
        task: metrics and limits; its own rows are ignored.
        answer: teaches a fold's rows to a fresh model and answers the task, whose rows are those
            that the fold tests.
    """
    scored = []
    for fold in folds:
        asked = task.with_rows(f"fold {fold.number}", fold.test)
        asked.check()
        scored.append(score_task(asked, answer(fold, asked)))
    results = tuple(each.result for each in scored)
    return CrossValidation(_pool(task, scored), results, _spread(results))


def _rank(seed: int) -> Callable[[str], str]:
    def rank(key: str) -> str:
        return hashlib.blake2b(f"{seed} {key}".encode(), digest_size=8).hexdigest()

    return rank


def _pool(task: EvalTask, scored: Sequence[ScoredTask]) -> TaskResult:
    """Scores over the rows of all folds as if they were one test."""
    rows = tuple(row for each in scored for row in each.task.rows)
    predictions = [p for each in scored for p in each.predictions]
    return score_task(replace(task, rows=rows), predictions).result


def _spread(results: Sequence[TaskResult]) -> dict[str, float]:
    names = dict.fromkeys(name for each in results for name in each.scores)
    values = {n: [r.scores[n].value for r in results if n in r.scores] for n in names}
    return {name: stdev(of_folds) for name, of_folds in values.items() if len(of_folds) > 1}


def _rows(config: LearningConfig, output: Path, progress: Progress) -> Sequence[Example]:
    """All usable rows, cleaned as for training."""
    nothing = {"held_out_fraction": 0.0, "held_out_rows": None}
    settings = config.data.model_copy(update=nothing)
    folders = DataFolders(output / "rows", files.cache_folder() / "data")
    data = prepare(gather(settings), settings, folders, progress=progress)
    return [*data.train, *data.held_out]


def _answer(
    config: LearningConfig, fold: Fold, task: EvalTask, folder: Path, progress: Progress
) -> list[Prediction]:
    _require_same(config, fold, folder / "fold.json")
    model_folder = folder / "model"
    if not any(model_folder.glob("*.safetensors")):
        _teach(config, fold, folder, progress)
    is_adapter = (model_folder / ADAPTER_FILE).exists()
    base = config.model.base_model if is_adapter else None
    saved = find_adapters(str(model_folder), base, config.model)
    model = saved.open(encode_options(config.data))
    with progress.bar(f"testing fold {fold.number}", len(task.rows)) as bar:
        path = folder / "predictions.jsonl"
        return predict_resumable(model, task, path, model_id=saved.identity(), bar=bar)


def _require_same(config: LearningConfig, fold: Fold, record: Path) -> None:
    """Refuse to go on with what was begun on other rows or with other settings."""
    begun = {"train": [row.key for row in fold.train], "settings": config.model_dump(mode="json")}
    if record.exists() and files.read_json(record) != begun:
        raise ConfigError(
            f"--output: {record.parent} was begun with other rows, settings or number of folds. "
            "Give another folder, or remove this one first; nothing was changed."
        )
    files.write_json(record, begun)


def _teach(config: LearningConfig, fold: Fold, folder: Path, progress: Progress) -> None:
    train_path = folder / "train.jsonl"
    files.write_jsonl(train_path, (row.to_json() for row in fold.train))
    changes: dict[str, Any] = {"train_path": train_path, **NOTHING_HELD_OUT}
    data = config.data.model_copy(update=changes)
    fit(config.model_copy(update={"data": data}), folder / "model", progress)
