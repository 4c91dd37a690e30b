"""Rows that are prepared once, as tokens, in a folder from which any number of runs are trained."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_factory.core import files
from llama_factory.core.errors import ConfigError
from llama_factory.core.progress import Progress
from llama_factory.data.prepare import PreparedData, load
from llama_factory.jobs.starting import prepare_rows, start_of
from llama_factory.model.adapted import tokens_of
from llama_factory.model.chat.encoding import encode_options
from llama_factory.model.chat.token_cache import encode_rows
from llama_factory.rounds.settings import LearningConfig
from llama_factory.training.items import split_fitting

RECORD = "tokenized.json"


@dataclass(frozen=True)
class TokenizedRows:
    """Such a folder.

    Attributes:
        folder: where it is, or is to be.
    """

    folder: Path

    @property
    def rows(self) -> Path:
        """The rows as text, cleaned and split."""
        return self.folder / "rows"

    @property
    def tokens(self) -> Path:
        """Their tokens, found by content."""
        return self.folder / "tokens"

    @property
    def is_written(self) -> bool:
        """Whether the folder is there and whole.

        Raises:
            ConfigError: something else lies there.
        """
        if (self.folder / RECORD).is_file():
            return True
        if self.folder.exists() and any(self.folder.iterdir()):
            raise ConfigError(
                f"data.tokenized_path: {self.folder} holds something else than rows that this "
                "program wrote as tokens. Name a new folder, or leave the key out: tokens are kept "
                "in a cache in any case."
            )
        return False

    def load(self) -> PreparedData:
        """The rows that are there, whatever the settings of data say now."""
        return load(self.rows)

    def write(self, config: LearningConfig, progress: Progress) -> dict[str, Any]:
        """Prepare the rows of a run and keep them with their tokens; nothing is trained.

        Args:
            config: of the run.
            progress: shows how far it is.

        Returns:
            Where they are and how many; the folder is whole or absent.

        Raises:
            DataError: there is no usable row.
            ModelError: the model's tokenizer cannot be read.
        """
        making = TokenizedRows(files.temporary_beside(self.folder))
        data = prepare_rows(config, making.rows, progress)
        objective, model = config.training.objective, config.model
        start = start_of(model)
        tokenizer, _, options = tokens_of(
            start.settings, start.parent, options=encode_options(config.data), merged=start.merged
        )
        rows, _ = split_fitting(data.train, objective)
        encoded, unfit = encode_rows(
            objective.rows(rows),
            tokenizer,
            options,
            cache=making.tokens,
            progress=progress,
            encoding=objective.encoding,
        )
        record = {"rows": len(encoded), "unfit": len(unfit), "base_model": model.base_model}
        files.write_json(making.folder / RECORD, record)
        files.publish(making.folder, self.folder)
        progress.say(
            f"{len(encoded)} rows are in {self.folder} as tokens, and nothing was trained. Run the "
            "same again to train on them."
        )
        return record | {"tokenized_path": str(self.folder)}
