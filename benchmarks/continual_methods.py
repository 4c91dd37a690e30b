"""The methods that the continual benchmark compares, and the settings of a run."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from continual_tiers import Tier

from llama_factory.config.changes import apply, read_changes
from llama_factory.continual.presets import PRESETS
from llama_factory.rounds.settings import LearningConfig
from llama_factory.training.settings import WITHOUT_EFFECT

BASE, NAIVE, JOINT = "base", "naive", "joint"
ALONE: Mapping[str, Sequence[Any]] = {
    "replay": ["replay"],
    "anchor": ["anchor"],
    "ewc": ["ewc"],
    "olora": ["olora"],
    # it looks at the rows of replay, and does nothing without them
    "distill": ["replay", {"type": "distill", "rows": ["replay"]}],
    "freeze": ["freeze"],
    # the first alpha, 1, merges nothing: lower ones are the gate's choice
    "merge": [{"type": "merge", "alphas": [0.75]}],
    "agem": ["agem"],
}
"""Each strategy by itself, with its defaults."""
RANK = 16
LEARNING_RATE = 2e-3
"""What `init` writes for a model of the embedded one's size; best for the default on order 1."""

Presets = Mapping[str, Sequence[Any]]
"""Strategies by the name of a method."""


def presets(own: Sequence[str]) -> dict[str, Sequence[Any]]:
    """All methods, those of `--preset NAME=[strategies]` among them."""
    known: dict[str, Sequence[Any]] = {NAIVE: [], JOINT: [], BASE: [], **ALONE}
    known |= {name: preset.strategies for name, preset in PRESETS.items()}
    for text in own:
        name, _, written = text.partition("=")
        known[name] = yaml.safe_load(written)
    return known


def settings(
    strategies: Sequence[Any],
    training: Mapping[str, Any],
    changes: Sequence[str],
    *,
    base_model: str,
    num_rounds: int,
    dtype: str = "auto",
) -> LearningConfig:
    """The settings of a method.

    Args:
        strategies: of the method.
        training: what all methods share.
        changes: `key=value` of `--set`.
        base_model: name or folder.
        num_rounds: of the stream; olora shares the ranks out between them.
        dtype: number format, as the settings have it.
    """
    written: list[dict[str, Any]] = [
        {"type": s} if isinstance(s, str) else dict(s) for s in strategies
    ]
    for strategy in written:
        if strategy["type"] == "olora":
            strategy.setdefault("rank", max(1, RANK // num_rounds))
    values: dict[str, Any] = {
        "model": {
            "base_model": base_model,
            "adapter": {"type": "lora", "rank": RANK},
            "dtype": dtype,
        },
        "training": {"report_to": [], **training},
        "strategies": written,
    }
    for change in read_changes(changes):
        apply(values, change)
    return LearningConfig.model_validate(values)


def training(tier: Tier, learning_rate: float, seed: int) -> dict[str, Any]:
    """What is the same for all methods: rows a step, steps a round, rate, seed."""
    return {
        "batch_size": tier.batch_size,
        "max_steps": tier.steps,
        "micro_batch_tokens": 2048,  # the same results, sooner: more rows begin alike
        "learning_rate": learning_rate,
        "seed": seed,
    }


def plain(config: LearningConfig) -> dict[str, Any]:
    """The settings that change results; seed and number format are told beside them."""
    dumped = config.model_dump(mode="json", include={"model", "training", "strategies"})
    without = WITHOUT_EFFECT | {"seed"}
    kept = {name: value for name, value in dumped["training"].items() if name not in without}
    model = {name: value for name, value in dumped["model"].items() if name != "dtype"}
    return {**dumped, "model": model, "training": kept}


def hash_of(values: Any) -> str:
    """A short name for plain values."""
    text = json.dumps(values, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
