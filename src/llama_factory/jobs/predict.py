"""Answers to held-out rows as a run's output: what was asked, said and expected, and the scores."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama_factory.continual.encoding import encode_options
from llama_factory.core import files
from llama_factory.core.errors import ConfigError
from llama_factory.core.progress import Progress
from llama_factory.core.types import Example
from llama_factory.data.intake import convert
from llama_factory.data.readers import Refused
from llama_factory.data.sources.files import DataSource
from llama_factory.data.sources.gather import gather_tests
from llama_factory.evaluation.predict import (
    PredictOptions,
    predict,
    require_judgeable,
    usual_metrics,
)
from llama_factory.model.load import AdaptedModel
from llama_factory.model.saved import SavedModel
from llama_factory.rounds.settings import RoundConfig

ANSWERS = "generated_predictions.jsonl"
SCORES = "predict_results.json"


def predict_only(
    config: RoundConfig, saved: SavedModel, output: Path, progress: Progress
) -> dict[str, Any]:
    """Answer the test rows with a saved model, without training.

    Returns:
        What predict_results.json holds.

    Raises:
        ConfigError: no rows are named.
        DataError: none can be read, or the answers are there already.
    """
    rows: list[Example] = []
    for source in gather_tests(config.data):
        rows += _rows(source, config.data.mix.max_samples, progress)
    require_answerable(rows, config)
    model = saved.open(encode_options(config.data))
    return predict_rows(model, rows, config, output, progress=progress, name=saved.identity())


def require_answerable(rows: Sequence[Example], config: RoundConfig) -> None:
    """Tell before a model is read what would stop the answering or its judging.

    Raises:
        ConfigError: there are no rows, or a metric cannot be used here.
        DataError: a metric does not fit the rows.
    """
    if not len(rows):
        raise ConfigError(
            "do_predict: there is no held-out row to answer. Give data.eval_path or "
            "data.eval_dataset, or raise data.held_out_fraction."
        )
    require_judgeable(rows, usual_metrics(config.evaluation))


def predict_rows(
    model: AdaptedModel,
    rows: Sequence[Example],
    config: RoundConfig,
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
    """
    require_answerable(rows, config)
    settings = config.evaluation
    options = PredictOptions(
        usual_metrics(settings),
        settings.max_new_tokens,
        name or model.fingerprint,
        settings.batch_tokens,
    )
    report = predict(model, rows, output / ANSWERS, options=options, progress=progress)
    files.write_json(output / SCORES, report.to_json())
    return report.to_json()


def _rows(source: DataSource, most: int | None, progress: Progress) -> list[Example]:
    """The first rows of a set; bad ones are told."""
    rows: list[Example] = []
    for raw in source.open_rows():
        row = raw if isinstance(raw, Refused) else convert(raw, source, may_lack_answer=True)
        if isinstance(row, Refused):
            progress.say(f"Left out: {row}")
        elif row.is_desirable is not False:
            rows.append(row)
        if len(rows) == most:
            break
    return rows
