"""What a single run will need, before it begins: its rows are read, its weights are not."""

import tempfile
from pathlib import Path

from llama_factory.core import files
from llama_factory.core.progress import Progress
from llama_factory.jobs.train import prepare_rows
from llama_factory.model.chat.encoding import encode_options
from llama_factory.model.outline import outline
from llama_factory.model.source import resolve_outline
from llama_factory.rounds.settings import LearningConfig
from llama_factory.training.forecast import Forecast, forecast


def forecast_run(config: LearningConfig, progress: Progress) -> Forecast:
    """Read and clean the rows as the run would, and work out memory and time.

    What was read and made tokens is kept in the cache, so the run has it then.

    Args:
        config: of the run.
        progress: shows how far it is.

    Raises:
        FactoryError: the message says what is wrong with model or rows.
    """
    folder = resolve_outline(config.model.base_model)
    about = outline(config.model, folder, encode_options(config.data))
    with tempfile.TemporaryDirectory() as rows:
        data = prepare_rows(config, Path(rows) / "rows", progress)
        return forecast(
            about,
            data.train,
            config.training,
            tokens=files.cache_folder() / "tokens",
            progress=progress,
        )
