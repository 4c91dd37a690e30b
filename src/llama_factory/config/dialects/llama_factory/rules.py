"""All rules for flat keys that mean something only together, in their order."""

from collections.abc import Callable

from llama_factory.config.dialects.llama_factory import (
    continual_rules,
    data_rules,
    model_rules,
    output_rules,
    training_rules,
)
from llama_factory.config.dialects.llama_factory.translation import Translation

RULES: tuple[Callable[[Translation], None], ...] = (
    model_rules.adapter,
    model_rules.precision,
    model_rules.programs,
    data_rules.held_out,
    data_rules.rows,
    training_rules.objective,
    training_rules.packing,
    training_rules.batch,
    training_rules.course,
    training_rules.optimizer,
    output_rules.checkpoints,
    output_rules.verbs,
    output_rules.reports,
    output_rules.evaluation,
    continual_rules.strategies,
)
"""Each reads the keys it knows and leaves the others alone."""
