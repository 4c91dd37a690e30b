"""Presets: strategies that belong together, under one name in the settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import llama_factory.continual.strategies  # noqa: F401  # registers all of them
from llama_factory.core.errors import suggest
from llama_factory.core.sentences import kind_of_sentence
from llama_factory.model.adapters import Adapter
from llama_factory.model.settings import ModelSettings
from llama_factory.training.strategy import STRATEGIES, Strategy

NO_PRESET_BUT_STRATEGY = kind_of_sentence(
    "settings.no_preset_but_strategy",
    "'{written}' is one strategy and no preset. Write a list: strategies: [{written}].",
)
NO_PRESET = kind_of_sentence(
    "settings.no_preset",
    "'{written}' is no preset.{hint} Known: {known}; or write a list of strategies.",
)


@dataclass(frozen=True)
class Preset:
    """A preset.

    Attributes:
        about: whom it is for.
        strategies: as they are written in the settings.
    """

    about: str
    strategies: tuple[Mapping[str, Any], ...]


OLD_ROWS: Mapping[str, Any] = {"type": "replay", "fraction": 0.25, "schedule": "rising"}
NEAR_TO_BASE: tuple[Mapping[str, Any], ...] = (
    {"type": "anchor", "fraction": 0.125, "weight": 0.02, "answer_tokens": 32},
    {"type": "distill", "beta": 3.0, "rows": ["anchor"], "min_tokens": 32},
)
"""General rows, of which hardly anything is learned: they hold the model near to the base."""

PRESETS: Mapping[str, Preset] = {
    "default": Preset(
        "old rows, most of them late in a round, general rows on which the model stays near to "
        "the base, the lowest layers frozen, and most of the way to the new version, or less where "
        "the gate refuses that",
        (
            OLD_ROWS,
            *NEAR_TO_BASE,
            {"type": "freeze", "layers": 0.3},
            {"type": "merge", "alphas": [0.85, 0.7, 0.5]},
        ),
    ),
    "naive": Preset("nothing is protected, to compare with", ()),
    "safe": Preset(
        "forgets less and learns less: more old rows, nearer to the earlier model, less of the "
        "way to the new one, the lowest third frozen",
        (
            {"type": "replay", "fraction": 0.5},
            {"type": "anchor", "fraction": 0.1875, "weight": 0.02},
            {"type": "distill", "beta": 4.5},
            {"type": "freeze", "layers": 1 / 3},
            {"type": "merge", "alphas": [0.7, 0.5]},
        ),
    ),
    "no-data": Preset(
        "for those who may not train on old rows again: only statistics of weights and earlier "
        "updates are used",
        (
            {"type": "ewc", "form": "delta"},
            {"type": "merge"},
            *NEAR_TO_BASE,
        ),
    ),
    "article": Preset(
        "a replay buffer of 1000 rows and elastic weight consolidation with lambda 0.1",
        ({"type": "replay", "buffer_size": 1000}, {"type": "ewc", "lambda": 0.1}),
    ),
}
"""Preset by name."""

WITHOUT_COPY = (OLD_ROWS, {"type": "anchor"})
"""What stands in for `default` where the base model's own weights train."""


def expand(written: Any) -> Any:
    """The strategies that a preset's name stands for; anything else as it is.

    Raises:
        ValueError: there is no such preset.
    """
    if not isinstance(written, str):
        return written
    if written in PRESETS:
        return [dict(strategy) for strategy in PRESETS[written].strategies]
    if written in STRATEGIES.parts:
        raise ValueError(NO_PRESET_BUT_STRATEGY(written=written))
    raise ValueError(
        NO_PRESET(written=written, hint=suggest(written, PRESETS), known=", ".join(PRESETS))
    )


def default_strategies(model: ModelSettings | None = None) -> list[Strategy]:
    """The strategies of the preset `default`, or those that stand in for it.

    Args:
        model: where it trains the base model's own weights, comparing with the base model would
            take a second copy of them.
    """
    own = model is not None and _trains_own_weights(model.adapter)
    written = WITHOUT_COPY if own else PRESETS["default"].strategies
    return [STRATEGIES.parse(strategy) for strategy in written]


def _trains_own_weights(adapter: Adapter) -> bool:
    return adapter.peft_type is None or bool(getattr(adapter, "modules_to_save", ()))
