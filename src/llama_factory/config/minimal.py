"""Settings as short as they can be written: what differs from the defaults, and nothing else."""

from collections.abc import Iterator, Mapping
from typing import Any, get_args

import yaml
from pydantic.fields import FieldInfo

from llama_factory.config.schema import RunConfig
from llama_factory.continual.presets import PRESETS, default_strategies, expand
from llama_factory.core.settings import OneOf, Registry, Settings
from llama_factory.training.strategy import STRATEGIES


def minimal(config: RunConfig) -> dict[str, Any]:
    """What a settings file needs to say to come to these settings."""
    # which strategies there are by default depends on the model
    usual = {"strategies": default_strategies(config.model)}
    return _differing(config, RunConfig().model_copy(update=usual))


def _differing(settings: Settings, usual: Settings) -> dict[str, Any]:
    written = settings.model_dump(mode="json")
    found = {}
    for name, field in type(settings).model_fields.items():
        value, default = getattr(settings, name), getattr(usual, name)
        if value == default:
            continue
        key, registry = field.alias or name, registry_of(field)
        if registry is not None:
            found[key] = _parts(value, registry, name)
        elif isinstance(value, Settings):
            found[key] = _differing(value, default)
        else:
            found[key] = written[key if key in written else name]
    return found


def _parts(value: Any, registry: Registry[Any], name: str) -> Any:
    if not isinstance(value, list):
        return _part(value, registry)
    if name == "strategies":
        for preset in PRESETS:
            if value == [STRATEGIES.parse(each) for each in expand(preset)]:
                return preset
    return [_part(each, registry) for each in value]


def _part(part: Settings, registry: Registry[Any]) -> Any:
    """The name of a part, with those of its settings that are not its defaults."""
    written = part.model_dump(mode="json")
    changed = {}
    for name, field in type(part).model_fields.items():
        usual = field.get_default(call_default_factory=True, validated_data={})
        if field.is_required() or getattr(part, name) != usual:
            key = field.alias or name
            changed[key] = written[key if key in written else name]
    kind = registry.name_of(part)
    return {"type": kind} | changed if changed else kind


def registry_of(field: FieldInfo) -> Registry[Any] | None:
    """The parts of which a field takes one, or a list; None where it takes something else."""
    inner = [mark for each in get_args(field.annotation) for mark in _marks(each)]
    marks = [mark for mark in [*field.metadata, *inner] if isinstance(mark, OneOf)]
    return marks[0].registry if marks else None


def _marks(annotation: Any) -> tuple[Any, ...]:
    return getattr(annotation, "__metadata__", ())


def to_yaml(values: Mapping[str, Any]) -> str:
    """Settings as a person would write them, a line each; nothing for none."""
    lines = []
    for name, value in values.items():
        if _is_section(value):
            lines.append(f"{name}:")
            lines += [f"  {inline(key)}: {inline(inner)}" for key, inner in value.items()]
        else:
            lines.append(f"{name}: {inline(value)}")
    return "".join(f"{line}\n" for line in lines)


def _is_section(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and "type" not in value


def as_changes(values: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """The same settings as words of a command line: `training.epochs=5`."""
    for key, value in values.items():
        if not before and _is_section(value):
            yield from as_changes(value, f"{key}.")
        else:
            yield f"{before}{key}={inline(value)}"


def inline(value: Any) -> str:
    """A value in one line of YAML."""
    if isinstance(value, float):
        return repr(value)  # YAML's own form of 1e-05 is text to other readers
    text = yaml.safe_dump(
        value, default_flow_style=True, allow_unicode=True, width=10**6, sort_keys=False
    )
    return str(text).removesuffix("\n").removesuffix("\n...")
