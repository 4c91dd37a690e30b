"""Single settings given beside the file: `--set`, flags, words, the environment, from Python."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

import yaml
from pydantic import ValidationError

from llama_factory.config import schema
from llama_factory.config.dialects.translate import is_flat
from llama_factory.config.schema import RunConfig
from llama_factory.core.errors import ConfigError, suggest

PARTS = frozenset({"adapter", "engine", "objective", "optimizer", "schedule"})
"""Settings that may be given by the name of a part alone."""
LISTS = frozenset({("strategies",), ("data", "cleaning"), ("evaluation", "metrics")})
"""Lists of parts, which may be left to a default or given by the name of a preset."""
VARIABLES = {
    "API_HOST": "serving.host",
    "API_PORT": "serving.port",
    "API_MODEL_NAME": "serving.model_name",
    "MAX_CONCURRENT": "serving.max_running",
}
"""Environment variables that are settings; flags go before them, and they before the file."""


@dataclass(frozen=True)
class Change:
    """One setting given beside the file.

    Attributes:
        name: `training.learning_rate`, or a flat key.
        value: as YAML reads it.
        source: how it was given, for messages.
    """

    name: str
    value: Any
    source: str


Changes = Sequence[str | Change] | Mapping[str, Any]
"""`["training.epochs=3"]`, `{"training.epochs": 3}` or `{"training": {"epochs": 3}}`."""


def read_changes(changes: Changes) -> list[Change]:
    """Changes as written `section.key=value`, or as a mapping from names to values.

    In a mapping the settings of a section may be a mapping too; those that it does not name stay as
    they are. A part (an adapter, an objective ...) is set as a whole.

    Raises:
        ConfigError: one is written in another way.
    """
    if isinstance(changes, Mapping):
        return list(_from_mapping(changes))
    return [each if isinstance(each, Change) else _read(each) for each in changes]


def _from_mapping(values: Mapping[str, Any], section: str = "") -> Iterator[Change]:
    for key, value in values.items():
        name = f"{section}{key}"
        if isinstance(value, Mapping) and schema.is_section(name):
            yield from _from_mapping(value, f"{name}.")
        else:
            yield Change(name, as_in_yaml(value), f"{name}={value!r}")


def as_in_yaml(value: Any) -> Any:
    """A value of Python as a YAML file would hold it: a copy, with paths as text."""
    if isinstance(value, Mapping):
        return {key: as_in_yaml(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [as_in_yaml(inner) for inner in value]
    return str(value) if isinstance(value, PurePath) else value


def from_environment(environment: Mapping[str, str]) -> list[Change]:
    """Settings that the environment holds."""
    return [
        Change(path, environment[name], f"environment {name}={environment[name]}")
        for name, path in VARIABLES.items()
        if environment.get(name)
    ]


def _read(written: str) -> Change:
    name, sign, text = written.partition("=")
    name = name.strip()
    if not sign or not name or name.endswith("."):
        raise ConfigError(f"--set {written}: write it as section.key=value.")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(f"--set {written}: the value is not valid YAML.") from None
    flag = f"--{name} {text}".rstrip()
    return Change(name, value, flag if is_flat(name) else f"--set {written}")


def apply(values: dict[str, Any], change: Change) -> Change:
    """Set one value in the settings of a native file.

    In a list of parts a part is named by its type, as in `strategies.replay.fraction`.

    Returns:
        The change with the numbers of parts for their names, as messages about settings have them.

    Raises:
        ConfigError: what it is to be set in is no section, or a list has no such part.
    """
    *sections, key = change.name.split(".")
    inner: Any = values
    taken: list[str] = []
    for section in sections:
        name, inner = _inner(inner, section, taken, change)
        taken.append(name)
    if isinstance(inner, list):
        raise ConfigError(
            f"{change.source}: what of '{key}' to set is missing. Name it: {key}.KEY."
        )
    inner[key] = change.value
    return replace(change, name=".".join([*taken, key]))


def _inner(
    values: Any, section: str, before: Sequence[str], change: Change
) -> tuple[str, dict[str, Any] | list[Any]]:
    """A section and its name; it is made where there is none.

    A part given by its name alone gets room for more, and so does a list of parts that is a
    preset or left to its default.
    """
    if isinstance(values, list):
        number = _number_of(values, section, before, change)
        return str(number), values[number]
    inner = values.get(section)
    if (*before, section) in LISTS and (inner is None or isinstance(inner, str)):
        written = {} if inner is None else {section: inner}
        inner = values[section] = _written_out((*before, section), written, change)
    if section in PARTS and isinstance(inner, str):
        inner = values[section] = {"type": inner}
    if inner is None:
        inner = values[section] = {}
    if not isinstance(inner, dict | list):
        raise ConfigError(f"{change.source}: '{section}' holds no keys to set.")
    return section, inner


def _number_of(parts: list[Any], name: str, before: Sequence[str], change: Change) -> int:
    """Where a part stands in a list; given by its name alone it gets room for more."""
    types = [part.get("type") if isinstance(part, Mapping) else part for part in parts]
    if name not in types:
        where, known = ".".join(before), ", ".join(map(str, types))
        raise ConfigError(
            f"{change.source}: {where} has no '{name}'.{suggest(name, map(str, types))} It has: "
            f"{known or 'nothing'}. To add it give the whole list: {where}=[...]."
        )
    number = types.index(name)
    if not isinstance(parts[number], Mapping):
        parts[number] = {"type": name}
    return number


def _written_out(path: Sequence[str], values: dict[str, Any], change: Change) -> Any:
    """A list of parts as it would be without changes, given `values` of the section it is in."""
    for section in reversed(path[:-1]):
        values = {section: values}
    try:
        found = RunConfig.model_validate(values).model_dump(mode="json")
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise ConfigError(f"{change.source}: {'.'.join(path)}: {problem}") from None
    for section in path:
        found = found[section]
    return found
