"""The reference of all settings, generated from the schema: docs/settings.md.

Write it anew with `python -m llama_factory.config.reference > docs/settings.md`.
"""

import sys
import typing
from collections.abc import Iterator
from typing import Any

from pydantic.fields import FieldInfo

from llama_factory.config.schema import RunConfig
from llama_factory.core.settings import OneOf, Settings
from llama_factory.data.cleaning import CLEANERS
from llama_factory.evaluation.metrics import METRICS
from llama_factory.knowledge.embedders import EMBEDDERS
from llama_factory.model.adapters import ADAPTERS
from llama_factory.rounds.notify import RECEIVERS
from llama_factory.rounds.triggers import TRIGGERS
from llama_factory.serving.engines import ENGINES
from llama_factory.training.objectives import OBJECTIVES
from llama_factory.training.optimizers import OPTIMIZERS
from llama_factory.training.parallel import PARALLELS
from llama_factory.training.reporters import REPORTERS
from llama_factory.training.schedules import SCHEDULES
from llama_factory.training.strategy import STRATEGIES

REGISTRIES = (
    CLEANERS,
    ADAPTERS,
    OBJECTIVES,
    OPTIMIZERS,
    PARALLELS,
    SCHEDULES,
    REPORTERS,
    STRATEGIES,
    METRICS,
    ENGINES,
    EMBEDDERS,
    TRIGGERS,
    RECEIVERS,
)
HEAD = """\
# Settings

Generated from the program's own schema. One YAML file holds these sections; every key is optional.
"""


def reference() -> str:
    """The whole document as Markdown."""
    return "\n".join([HEAD, *_sections(), *_parts()]) + "\n"


def _sections() -> Iterator[str]:
    fields = RunConfig.model_fields
    for name, field in fields.items():
        if _is_section(field):
            yield from _section(name, field)
    yield "## Top level\n"
    yield _rows({name: field for name, field in fields.items() if not _is_section(field)})


def _section(name: str, field: FieldInfo) -> Iterator[str]:
    """A section and the sections in it."""
    settings = typing.cast(type[Settings], field.annotation)
    yield f"## {name}\n\n{field.description}\n"
    yield _table(settings)
    for inner, each in settings.model_fields.items():
        if _is_section(each):
            yield from _section(f"{name}.{inner}", each)


def _is_section(field: FieldInfo) -> bool:
    """Whether a field holds settings of one kind, and not parts of which one is picked."""
    kind = field.annotation
    is_settings = isinstance(kind, type) and issubclass(kind, Settings)
    return is_settings and _registry(kind, field) is None


def _parts() -> Iterator[str]:
    for registry in REGISTRIES:
        for name, part in registry.parts.items():
            about = (part.__doc__ or "").strip().splitlines()[0]
            yield f"## {registry.kind}: {name}\n\n{about}\n"
            if part.model_fields:
                yield _table(part)


def _table(settings: type[Settings]) -> str:
    return _rows(settings.model_fields)


def _rows(fields: dict[str, FieldInfo]) -> str:
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for name, field in fields.items():
        meaning = " ".join((field.description or "").split())
        default = "none: it must be given" if field.is_required() else f"`{_default(field)}`"
        lines.append(f"| `{field.alias or name}` | {default} | {meaning} |")
    return "\n".join(lines) + "\n"


def _default(field: FieldInfo) -> str:
    """The default as one would write it in YAML."""
    return _shown(
        field.get_default(call_default_factory=True, validated_data={}),
        _registry(field.annotation, field),
    )


def _registry(annotation: Any, field: FieldInfo) -> OneOf | None:
    marks = [*field.metadata, *(m for a in typing.get_args(annotation) for m in _metadata(a))]
    return next((mark for mark in marks if isinstance(mark, OneOf)), None)


def _metadata(annotation: Any) -> tuple[Any, ...]:
    return getattr(annotation, "__metadata__", ())


def _shown(value: Any, parts: OneOf | None) -> str:
    if value is None:
        return "empty"
    if isinstance(value, list):
        return "[" + ", ".join(_shown(item, parts) for item in value) + "]"
    if parts is not None and isinstance(value, Settings):
        return parts.registry.name_of(value)
    if isinstance(value, Settings):
        return "see below"
    return str(value)


if __name__ == "__main__":
    sys.stdout.write(reference())
