"""Settings of the inference room: how a model answers, whoever asks."""

from typing import Literal

from pydantic import Field

from llama_factory.core.settings import Settings

Weights = Literal["auto", "float32", "bfloat16", "int8"]


class InferenceSettings(Settings):
    """How models compute their answers."""

    weights: Weights = "auto"
    """Number format of the weights of linear layers while answering. `auto`: the format they were
    loaded in. `int8`, on x86 processors: a quarter of the memory of float32 and faster the fewer
    answers run at once; answers differ, so run the gate with it."""
    merged_versions: int = Field(2, ge=0, le=16)
    """Versions that have weights of their own in memory, into which their LoRA adapter is merged:
    faster while one version alone answers, and as much memory as the base model for each. All are
    read with their matrices beside the base where memory is short, and with `int8`. 0 merges none.
    """
    max_rows: int = Field(64, ge=1, le=1024)
    """Answers that are computed together. More give more tokens a second in all and fewer to each;
    others wait."""
    chunk_tokens: int = Field(256, ge=1)
    """Tokens of prompts that are read between two tokens of the answers in progress. More answer a
    long prompt sooner and let the others wait longer."""
    cache_gb: float | None = Field(None, gt=0)
    """Memory for keys and values of answers in progress, in GB (1e9 bytes); answers that do not fit
    wait. Empty: a fifth of the machine's memory, of a GPU's a half of what is free."""
    prefix_gb: float = Field(0.25, ge=0)
    """Memory for keys and values of prompts that may come again, such as instructions and earlier
    turns of a chat, so that they are not read again. 0 keeps none."""
    max_drafts: int = Field(4, ge=0, le=16)
    """Most tokens that are guessed ahead from what prompt and answer hold, and then checked in one
    pass; answers stay the same. Higher pays where answers quote their prompts. 0 guesses none."""
