"""The base model that was taught nothing, beside one that was."""

from collections.abc import Iterator
from contextlib import contextmanager

from llama_factory.evaluation.drift import RowDrift
from llama_factory.evaluation.evaluator import BUILT_IN_GUARD, load_guard
from llama_factory.evaluation.likelihood import drift_from_base
from llama_factory.model.adapted import AdaptedModel
from llama_factory.model.saved import of_version
from llama_factory.model.settings import ModelSettings
from llama_factory.model.wrapping import without_adapter
from llama_factory.rounds.settings import LearningConfig


@contextmanager
def untouched(model: AdaptedModel, settings: ModelSettings) -> Iterator[AdaptedModel]:
    """The base model for a while.

    It is the same network with its adapter switched off; where earlier updates were consolidated
    into the weights, it is read anew.
    """
    if model.merged:
        yield of_version(settings, (), "").open(model.options)
        return
    with without_adapter(model.network):
        yield model


def general_drift(model: AdaptedModel, config: LearningConfig) -> list[RowDrift]:
    """How far a model has moved from its base on the general rows."""
    settings = config.evaluation
    rows = load_guard(settings.guard or BUILT_IN_GUARD)
    base = of_version(config.model, (), "").open(model.options).network if model.merged else None
    return drift_from_base(model, rows, batch_tokens=settings.batch_tokens, base=base)
