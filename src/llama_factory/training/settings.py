"""Settings of the training layer."""

from typing import Annotated, Literal

from pydantic import Field

from llama_factory.core.settings import OneOf, Settings
from llama_factory.training.objectives import OBJECTIVES, Objective
from llama_factory.training.objectives.sft import Sft


class TrainingSettings(Settings):
    """Length, speed and shape of one training run."""

    objective: Annotated[Objective, OneOf(OBJECTIVES)] = Sft()
    """What is minimised."""
    batch_size: int = Field(8, ge=1)
    """Rows in one update. Higher is steadier; the learning rate may then rise too."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Most rows computed at once. Empty: no limit but `micro_batch_tokens`. Same results."""
    micro_batch_tokens: int | None = Field(None, ge=16)
    """Most tokens computed at once, padding included. Lower needs less memory; results are the
    same. Empty: 1024 on a CPU, 16384 on a GPU."""
    epochs: float = Field(3.0, gt=0)
    """Passes over the new rows."""
    max_steps: int | None = Field(None, ge=1)
    """Exact number of updates; overrides `epochs`."""
    learning_rate: float = Field(2e-4, gt=0, lt=1)
    """Peak rate. Higher learns more in a round and forgets more of the earlier ones."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Course of the learning rate after the warm-up."""
    warmup_fraction: float = Field(0.05, ge=0, lt=1)
    """Share of the steps in which the rate rises from 0 to its peak."""
    warmup_steps: int | None = Field(None, ge=0)
    """The same in steps; overrides `warmup_fraction`."""
    final_lr_fraction: float = Field(0.1, ge=0, le=1)
    """The rate at the last step, as a share of the peak."""
    weight_decay: float = Field(0.0, ge=0, lt=1)
    """Pull of the trained weights towards zero (AdamW)."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients longer than this are scaled down to it."""
    weighting: Literal["token", "row"] = "token"
    """Within new rows (and within each source of old ones): every token counts the same, or every
    row. `row` keeps long answers from drowning short ones."""
    checkpoint_steps: int = Field(50, ge=1)
    """Updates between two checkpoints. Lower loses less in a crash and writes more."""
    seed: int = Field(0, ge=0)
    """Same data, settings and seed give the same curve."""
