"""Cross-validation of a single run's settings: trained anew for every fold, tested on the fold."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama_factory.continual.encoding import encode_options
from llama_factory.core import files
from llama_factory.core.errors import ConfigError
from llama_factory.core.progress import Progress
from llama_factory.core.types import Example
from llama_factory.data.prepare import DataFolders, prepare
from llama_factory.data.seen import Seen
from llama_factory.data.sources.gather import gather
from llama_factory.evaluation.asking import put_resumable
from llama_factory.evaluation.exam import Exam
from llama_factory.evaluation.prediction import Prediction
from llama_factory.jobs import cross_validation as folding
from llama_factory.jobs.cross_validation import CrossValidation, Fold, make_folds
from llama_factory.jobs.train import fit
from llama_factory.model.lineage import ADAPTER_FILE
from llama_factory.model.saved import find_adapters
from llama_factory.rounds.settings import RoundConfig

RESULTS = "cross_validation.json"
NOTHING_HELD_OUT: dict[str, Any] = {
    "held_out_fraction": 0.0,
    "eval_path": None,
    "eval_dataset": [],
    "dataset": [],
}


def cross_validate(
    config: RoundConfig, num_folds: int, output: Path, progress: Progress
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
    exam = Exam(
        name="all folds",
        rows=(),
        metrics=tuple(evaluation.metrics),
        max_new_tokens=evaluation.max_new_tokens,
        batch_tokens=evaluation.batch_tokens,
    )

    def answer(fold: Fold, asked: Exam) -> list[Prediction]:
        progress.say(f"Fold {fold.number} of {num_folds}")
        return _answer(config, fold, asked, output / f"fold-{fold.number}", progress)

    folds = make_folds(rows, num_folds, seed=config.training.seed)
    found = folding.cross_validate(folds, exam, answer)
    files.write_json(output / RESULTS, found.to_json())
    return found


def _rows(config: RoundConfig, output: Path, progress: Progress) -> Sequence[Example]:
    """All usable rows, cleaned as for training."""
    settings = config.data.model_copy(update={"held_out_fraction": 0.0})
    folders = DataFolders(output / "rows", files.cache_folder() / "data")
    data = prepare(gather(settings), Seen(), settings, folders, progress=progress)
    return [*data.train, *data.held_out]


def _answer(
    config: RoundConfig, fold: Fold, exam: Exam, folder: Path, progress: Progress
) -> list[Prediction]:
    _require_same(config, fold, folder / "fold.json")
    model_folder = folder / "model"
    if not any(model_folder.glob("*.safetensors")):
        _teach(config, fold, folder, progress)
    is_adapter = (model_folder / ADAPTER_FILE).exists()
    base = config.model.base_model if is_adapter else None
    saved = find_adapters(str(model_folder), base, config.model)
    model = saved.open(encode_options(config.data))
    with progress.bar(f"testing fold {fold.number}", len(exam.rows)) as bar:
        path = folder / "predictions.jsonl"
        return put_resumable(model, exam, path, model_id=saved.identity(), bar=bar)


def _require_same(config: RoundConfig, fold: Fold, record: Path) -> None:
    """Refuse to go on with what was begun on other rows or with other settings."""
    begun = {"train": [row.key for row in fold.train], "settings": config.model_dump(mode="json")}
    if record.exists() and files.read_json(record) != begun:
        raise ConfigError(
            f"--output: {record.parent} was begun with other rows, settings or number of folds. "
            "Give another folder, or remove this one first; nothing was changed."
        )
    files.write_json(record, begun)


def _teach(config: RoundConfig, fold: Fold, folder: Path, progress: Progress) -> None:
    train_path = folder / "train.jsonl"
    files.write_jsonl(train_path, (row.to_json() for row in fold.train))
    changes: dict[str, Any] = {"train_path": train_path, **NOTHING_HELD_OUT}
    data = config.data.model_copy(update=changes)
    fit(config.model_copy(update={"data": data}), folder / "model", progress)
