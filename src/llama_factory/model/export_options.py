"""How an exported model is written. Loads no heavy library."""

import re
from dataclasses import dataclass

from llama_factory.core.errors import ConfigError, suggest

EXPORT_DTYPES = ("float32", "bfloat16", "float16")
SHARD_SIZE = re.compile(r"\d+(\.\d+)?[KMG]i?B")


@dataclass(frozen=True)
class ExportOptions:
    """How the merged model is written.

    Attributes:
        dtype: number format of the weights; None keeps that of the base model.
        shard_size: largest weight file, such as `5GB`.
        enable_thinking: what its chat template takes for granted, if nothing was written down
            beside the weights.
    """

    dtype: str | None = None
    shard_size: str = "5GB"
    enable_thinking: bool | None = None

    def check(self) -> None:
        """Refuse options that cannot be followed.

        Raises:
            ConfigError: the message names the option.
        """
        if self.dtype is not None and self.dtype not in EXPORT_DTYPES:
            raise ConfigError(
                f"--dtype: '{self.dtype}' is no number format to export to."
                f"{suggest(self.dtype, EXPORT_DTYPES)} Known: {', '.join(EXPORT_DTYPES)}."
            )
        if not SHARD_SIZE.fullmatch(self.shard_size):
            raise ConfigError(
                f"--shard-size: '{self.shard_size}' is no size. Write a number and KB, MB or GB, "
                "such as 5GB."
            )
