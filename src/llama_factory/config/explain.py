"""Resolved settings as YAML that loads again, each value that was set with where it came from."""

from collections.abc import Iterator
from typing import Any

from llama_factory.config.loading import Resolved
from llama_factory.config.minimal import inline
from llama_factory.config.origins import Location, Origins
from llama_factory.config.schema import RunConfig
from llama_factory.training.strategy import STRATEGIES

COLUMN = 44
"""Where the remarks begin, unless a value is longer."""


def explain(resolved: Resolved) -> str:
    """All settings as a native file; those without a remark are defaults."""
    return "\n".join([*_head(resolved), *_body(resolved)]) + "\n"


def _head(resolved: Resolved) -> Iterator[str]:
    yield "# The settings of this run; those without a remark are defaults."
    for note in resolved.notes:
        yield f"# {note}"
    for remark in resolved.origins.translation.ignored:
        yield f"# {remark} (changes nothing)"
    if obstacles := _trunk_obstacles(resolved.config):
        yield (
            f"# training.trunk_cache: states of the frozen layers are not kept, because of "
            f"{' and '.join(obstacles)}."
        )


def _trunk_obstacles(config: RunConfig) -> list[str]:
    """Settings for which frozen layers are computed in every update; none where none is frozen."""
    model, training = config.model, config.training
    is_frozen = model.freeze_layers or any(
        STRATEGIES.name_of(s) == "freeze" for s in config.strategies
    )
    if not is_frozen or training.trunk_cache is False:
        return []
    dropout = ["model.adapter.dropout"] if getattr(model.adapter, "dropout", 0) else []
    tokens = ["model.new_special_tokens"] if model.new_special_tokens else []
    return [*training.trunk_obstacles(), *dropout, *tokens]


def _body(resolved: Resolved) -> Iterator[str]:
    values = resolved.config.model_dump(mode="json")
    for name, value in values.items():
        yield from _lines((name,), value, resolved.origins)


def _lines(location: Location, value: Any, origins: Origins) -> Iterator[str]:
    indent = "  " * (len(location) - 1)
    name = f"{indent}{inline(location[-1])}:"
    if isinstance(value, dict) and value:
        yield name
        for key, inner in value.items():
            yield from _lines((*location, key), inner, origins)
        return
    origin = origins.of(location)
    line = f"{name} {inline(value)}"
    yield f"{line:<{COLUMN}}  # {origin.label}" if origin else line
