"""Settings of learning, in a round or a single run: model, data, training, strategies, gate."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from llama_factory.continual.combinations import problems, rows_kept_by
from llama_factory.continual.presets import default_strategies, expand
from llama_factory.core.errors import ModelError
from llama_factory.core.sentences import kind_of_sentence
from llama_factory.core.settings import OneOf, Settings
from llama_factory.data.settings import DataSettings
from llama_factory.evaluation.settings import EvaluationSettings
from llama_factory.model.chat.templates.tool_formats import require_known
from llama_factory.model.settings import ModelSettings
from llama_factory.training.settings import TrainingSettings
from llama_factory.training.strategy import STRATEGIES, Strategy

WhenUnsure = Literal["hold", "promote_behind_canary", "point_estimate"]


NOT_ROUNDED = kind_of_sentence(
    "settings.not_rounded",
    "model.quantization_aware: {rounding} excludes {others}: nobody has shown that the packed "
    "model is right then. Leave one of them out.",
)


class GateSettings(Settings):
    """When a new version is released."""

    metric: str = "token_f1"
    """The metric that decides, one of `evaluation.metrics`."""
    max_drop: float = Field(0.1, ge=0, le=1)
    """How far the metric may fall on any task. Lower refuses more; small test sets are noisy."""
    limits: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
    """How far the metric may fall on the tasks of single groups, by group, where it is not
    `max_drop`: `{contracts: 0.02}`."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """How sure a check has to be that a limit is held, or broken, to count as decided. Higher calls
    more of them undecided."""
    when_unsure: WhenUnsure = "point_estimate"
    """What becomes of a version where the rows of a check are too few to tell: `hold` leaves it to
    a person; `promote_behind_canary` makes it the candidate that a server tries on a few callers,
    if the measured scores are within the limits; `point_estimate` goes by the measured scores.
    `hold` is for test sets of some 100 rows a task: with 10 it would hold every version."""
    max_guard_ratio: float = Field(1.15, gt=0)
    """How far general perplexity may rise above the base model's, as a ratio. Lower keeps more of
    the general ability and refuses more."""
    min_complaints: float | None = Field(None, ge=0, le=1)
    """Fraction of the complaints of users (`POST /v1/feedback` with a correction) that must be
    answered rightly. Higher refuses more. These answers were taught, so they show that they were
    learned and no more; a round with nothing else to show is released on them where this is set,
    and held for a person where it is empty."""
    retry_safe: bool = False
    """Where a version is refused because something was lost, train once more with the preset `safe`
    in place of `strategies`. It takes the time of another round, and what this second version comes
    to is remembered as well."""
    release: Literal["at_once", "canary"] = "at_once"
    """What becomes of a version that passes: `at_once` releases it; `canary` makes it the
    candidate, which a server tries on a few callers and then releases or takes back
    (`serving.canary`)."""


class LearningConfig(Settings):
    """Everything that a round or a single run needs; a single run has no gate."""

    model: ModelSettings = ModelSettings()
    """The base model and its adapter."""
    data: DataSettings = DataSettings()
    """Which rows are taught and which are kept back to test."""
    training: TrainingSettings = TrainingSettings()
    """Length, speed and shape of training."""
    strategies: list[Annotated[Strategy, OneOf(STRATEGIES)]] = Field(
        default_factory=lambda known: default_strategies(known.get("model"))
    )
    """How old knowledge is protected: a list of strategies, or the name of a preset. `default`
    mixes in old rows, and general ones on which it stays near to the base model, freezes the lowest
    layers and goes most of the way to the new version (where the base model's own weights train,
    general rows are taught, and nothing is frozen or moved); `safe` also stays near to the earlier
    model's answers, forgets less and learns less; `no-data` teaches no old rows; `article` is a
    replay buffer of 1000 rows and ewc with lambda 0.1; `naive`, or an empty list, protects nothing.
    """
    evaluation: EvaluationSettings = EvaluationSettings()
    """What is measured after training."""
    gate: GateSettings = GateSettings()
    """When a new version is released."""
    plugins: list[Path] = []
    """Python files of your own that register strategies, metrics, objectives and other parts; see
    python.md. Paths go by the folder of the settings file. They are run when settings are read."""

    @field_validator("strategies", mode="before")
    @classmethod
    def _of_preset(cls, written: Any) -> Any:
        return expand(written)

    @field_validator("strategies")
    @classmethod
    def _make_sense(cls, strategies: list[Strategy], info: ValidationInfo) -> list[Strategy]:
        model = info.data.get("model")
        reasons = list(problems(strategies, model.adapter if model else None))
        if reasons:
            raise ValueError(" ".join(reasons))
        return strategies

    @model_validator(mode="after")
    def _knows_tool_format(self) -> Self:
        try:
            if self.data.tool_format is not None:
                require_known(self.data.tool_format)
        except ModelError as error:
            raise ValueError(f"data.tool_format: {error}") from None
        return self

    @model_validator(mode="after")
    def _can_share(self) -> Self:
        training, model = self.training, self.model
        reasons = list(training.parallel.conflicts(model.adapter, model.dtype, training))
        if reasons:
            raise ValueError(" ".join(reasons))
        return self

    @model_validator(mode="after")
    def _can_round(self) -> Self:
        kind, training = self.model.quantization_aware, self.training
        names = ["training.compile"] if training.compile else []
        names += ["training.parallel: fsdp"] if training.parallel.shards else []
        if not training.objective.teaches_answers:
            names.append("training.objective: reward")
        if kind != "none" and names:
            raise ValueError(NOT_ROUNDED(rounding=kind, others=", ".join(names)))
        return self

    @model_validator(mode="after")
    def _keep_no_rows(self) -> Self:
        """Also where nobody wrote strategies down: those of the default preset keep rows."""
        reasons = [] if self.data.keep_rows else list(rows_kept_by(self.strategies))
        if reasons:
            raise ValueError(" ".join(reasons))
        return self
