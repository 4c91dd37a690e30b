"""The plan of training a model on accelerators, from its config alone."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from llama_factory.core.errors import ConfigError
from llama_factory.jobs.planning.accelerators import Cluster
from llama_factory.jobs.planning.speed import Speed, speed_of
from llama_factory.jobs.planning.ways import (
    FittingChange,
    ShapeOf,
    Way,
    Wish,
    best,
    changes,
    fewest,
    ways,
)
from llama_factory.model.adapters import ADAPTERS
from llama_factory.model.known_configs import config_of
from llama_factory.model.settings import ModelSettings
from llama_factory.model.shape import require_size, shape_of
from llama_factory.training.memory import NAMES, Load, shown_bytes
from llama_factory.training.settings import TrainingSettings

SHOWN_TOKENS = 1_000_000
"""Trained tokens that time and cost are shown for, where none are named."""


@dataclass(frozen=True)
class PlanQuestion:
    """What is to be planned.

    Attributes:
        model: which model, adapter and number format.
        training: optimizer, recomputation, how processes share.
        cluster: the accelerators.
        tokens: that each of them computes at once: the longest row, or a micro-batch.
        trained_tokens: of the whole run; None for a million.
    """

    model: ModelSettings
    training: TrainingSettings
    cluster: Cluster
    tokens: int
    trained_tokens: int | None = None


@dataclass(frozen=True)
class ModelPlan:
    """What training a model needs, and what to change where that is too much.

    Attributes:
        question: what was asked.
        ways: that are open, the usually fastest first.
        chosen: the first that fits, else the one that needs least.
        fewest: with the fewest accelerators of the kind; None where no number of them fits.
        changes: that would make it fit, the smallest first; none where it fits.
        speed: of the chosen way; None where nothing is known of the accelerator's speed.
    """

    question: PlanQuestion
    ways: list[Way]
    chosen: Way
    fewest: Way | None
    changes: list[FittingChange]
    speed: Speed | None

    @property
    def fits(self) -> bool:
        """Whether the chosen way surely fits."""
        return self.chosen.fit == "fits"

    @property
    def trained_tokens(self) -> int:
        """That time and cost are shown for."""
        return self.question.trained_tokens or SHOWN_TOKENS

    @property
    def _sharers(self) -> str:
        """Words for how many compute those tokens together; none where each does alone."""
        context = self.chosen.sharing.context
        return f" group of {context}" if context > 1 else ""

    def to_json(self) -> dict[str, Any]:
        """Plain values; bytes, seconds, dollars."""
        asked, shape = self.question, self.chosen.shape
        cluster = asked.cluster
        return {
            "model": asked.model.base_model,
            "num_weights": shape.num_weights,
            "num_trained": shape.num_trained,
            "accelerator": cluster.name,
            "count": cluster.count,
            "room": cluster.each.num_bytes,
            "tokens": asked.tokens,
            "fits": self.fits,
            "chosen": _way_to_json(self.chosen),
            "ways": [_way_to_json(way) for way in self.ways],
            "fewest": self.fewest and self.fewest.sharing.count,
            "changes": [{"what": c.what, "way": _way_to_json(c.way)} for c in self.changes],
            "run": self.speed and self.speed.to_json(self.trained_tokens),
        }

    def __str__(self) -> str:
        asked, way = self.question, self.chosen
        lines = [
            f"{asked.model.base_model}: {way.shape.num_weights / 1e9:.2f} billion weights, "
            f"{way.shape.num_trained / 1e6:.1f} million train ({way.adapter}); {asked.tokens} "
            f"tokens at once on each{self._sharers} of {asked.cluster}",
            *(f"  {'->' if each is way else '  '} {each}" for each in self.ways),
            f"  of which {_parts(way)}",
        ]
        if self.fits and self.fewest is not None:
            lines.append(f"Fewest that fit: {self.fewest.sharing.count} x {asked.cluster.name}.")
        lines += [f"It would fit with {change}" for change in self.changes]
        if not self.fits and not self.changes:
            lines.append("Nothing makes it fit on this kind: take larger ones.")
        if way.sharing.shards:
            lines.append(_how_to_share(way))
        if self.speed is not None:
            lines.append(self.speed.shown(self.trained_tokens))
        return "\n".join(lines)


def _setting(way: Way) -> str:
    more = {"context": way.sharing.context} if way.sharing.context > 1 else {}
    away = {"offload": "cpu"} if way.sharing.offloads else {}
    given = {"type": "fsdp", **away, **more}
    if len(given) == 1:
        return "training.parallel=fsdp"
    return " ".join(f"training.parallel.{name}={value}" for name, value in given.items())


def _how_to_share(way: Way) -> str:
    """What to set for a way that divides the model, and what is whole beside the training."""
    whole = shown_bytes(round(way.shape.weight_bytes.of(way.shape.num_layers)))
    return (
        f"Train it with {_setting(way)}. Before and after the training each process holds "
        f"the whole model once ({whole} of weights); with training.parallel.whole=false none does."
    )


def plan_model(question: PlanQuestion) -> ModelPlan:
    """Work out memory, time and cost of training, and what to change.

    Raises:
        ModelError: nothing is known of the model, or it cannot carry the adapter.
        ConfigError: the number of tokens is none, or that of accelerators cannot be divided so.
    """
    if question.tokens < 1:
        raise ConfigError(f"--tokens: {question.tokens} is no number of tokens. Give the longest.")
    wish, shapes = _wish(question), _shapes(question)
    found = ways(wish, shapes)
    chosen = best(found)
    fits = chosen.fit == "fits"
    return ModelPlan(
        question,
        found,
        chosen,
        fewest(wish, shapes) if fits else None,
        [] if fits else changes(wish, shapes),
        speed_of(chosen, question.cluster),
    )


def _wish(question: PlanQuestion) -> Wish:
    training, count = question.training, question.cluster.count
    parallel = training.parallel
    if count % parallel.context:
        raise ConfigError(
            f"training.parallel.context: {parallel.context} processes are to compute each row, and "
            f"--gpus names {count}. Give a multiple of {parallel.context}, or set context to a "
            "divisor of it."
        )
    load = Load(question.tokens, question.tokens, training.optimizer.bytes_per_weight)
    return Wish(
        ADAPTERS.name_of(question.model.adapter),
        load,
        training.gradient_checkpointing,
        "fsdp" if parallel.shards else None,
        question.cluster,
        parallel.context,
        parallel.offloads,
    )


def _shapes(question: PlanQuestion) -> ShapeOf:
    """The shape of the model with the adapter asked for, or with another kind of it."""
    settings = question.model
    if settings.dtype == "auto":
        dtype = "float16" if question.cluster.each.float16 else "bfloat16"
        settings = settings.model_copy(update={"dtype": dtype})
    config = config_of(settings.base_model, trust_remote_code=settings.trust_remote_code)
    require_size(config, settings.base_model)
    asked = ADAPTERS.name_of(settings.adapter)

    @cache
    def shape(adapter: str) -> Any:
        if adapter == asked:
            return shape_of(config, settings)
        like = {"rank": settings.adapter.rank} if hasattr(settings.adapter, "rank") else {}
        other = ADAPTERS.parts[adapter].model_validate(like)
        return shape_of(config, settings.model_copy(update={"adapter": other}))

    return shape


def _parts(way: Way) -> str:
    memory = way.memory
    parts = [f"{name} {shown_bytes(getattr(memory, name))}" for name in NAMES]
    return ", ".join(parts) + "; the rest is the program and what the allocator cannot use"


def _way_to_json(way: Way) -> dict[str, Any]:
    return {
        "adapter": way.adapter,
        "parallel": "fsdp" if way.sharing.shards else "ddp",
        "count": way.sharing.count,
        "offloads": way.sharing.offloads,
        "context": way.sharing.context,
        "recomputes": way.load.recomputes,
        "tokens": way.load.num_tokens,
        "memory": way.memory.to_json(),
        "fit": way.fit,
    }
