"""Settings of the data layer."""

from pathlib import Path

from pydantic import Field

from llama_factory.core.settings import Settings


class DataSettings(Settings):
    """Which rows are taught and which are kept back to test."""

    train_path: Path | None = None
    """File or folder to train on. A workspace takes its inbox instead."""
    eval_path: Path | None = None
    """File or folder of rows that are only tested. Empty: a share of the training rows."""
    held_out_fraction: float = Field(0.1, ge=0, le=0.5)
    """Share of the rows kept back to test, chosen by content, where no `NAME.test.jsonl` lies
    beside `NAME.jsonl`. Higher measures better and teaches less."""
    max_tokens: int = Field(1024, ge=16)
    """Longest row in tokens; longer answers lose their end. Higher needs more memory."""
