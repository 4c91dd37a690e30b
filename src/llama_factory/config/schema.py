"""Which native settings there are, by their dotted names."""

from collections.abc import Mapping
from typing import Any, get_args

from llama_factory.config.run import RunConfig
from llama_factory.core.settings import OneOf, Registry, Settings
from llama_factory.model.adapters import ADAPTERS
from llama_factory.training.objectives import OBJECTIVES
from llama_factory.training.optimizers import OPTIMIZERS

PARTS: Mapping[str, Registry[Any]] = {
    "model.adapter": ADAPTERS,
    "training.objective": OBJECTIVES,
    "training.optimizer": OPTIMIZERS,
}
"""Settings whose own settings depend on their `type`."""


def has(path: str, types: Mapping[str, Any]) -> bool:
    """Whether there is a setting.

    Args:
        path: `training.epochs`, `model.adapter.rank`.
        types: the `type` of each part in `PARTS`.
    """
    owner, _, name = path.rpartition(".")
    if owner not in PARTS:
        return _has_field(RunConfig, path.split("."))
    known = PARTS[owner].parts
    chosen = types.get(owner)
    return chosen in known and (name == "type" or name in known[chosen].model_fields)


def is_anywhere(path: str) -> bool:
    """Whether there is a setting of that name, whatever the types of parts are."""
    owner, _, _ = path.rpartition(".")
    names = PARTS[owner].parts if owner in PARTS else ("",)
    return any(has(path, {owner: name}) for name in names)


def choices(path: str) -> tuple[Any, ...]:
    """What a setting with a fixed choice may be: values, or the names of parts."""
    *sections, name = path.split(".")
    settings: type[Settings] = RunConfig
    for section in sections:
        found = settings.model_fields[section].annotation
        assert isinstance(found, type)
        settings = found
    field = settings.model_fields[name]
    parts = next((mark.registry.parts for mark in field.metadata if isinstance(mark, OneOf)), None)
    return tuple(parts) if parts is not None else get_args(field.annotation)


def _has_field(settings: type[Settings], steps: list[str]) -> bool:
    field = settings.model_fields.get(steps[0])
    if field is None:
        return False
    if len(steps) == 1:
        return True
    kind = field.annotation
    if isinstance(kind, type) and issubclass(kind, Settings):
        return _has_field(kind, steps[1:])
    return False
