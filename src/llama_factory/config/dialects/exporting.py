"""LLaMA-Factory's file for an export (`llamafactory-cli export merge.yaml`) as our arguments."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from llama_factory.config.changes import Changes, read_changes
from llama_factory.config.dialects.keys import KEYS
from llama_factory.config.dialects.values import Key, count, limited, one_of, part, text
from llama_factory.config.origins import find
from llama_factory.core.errors import ConfigError, suggest

PICKLED = "weights are always safetensors; the older format is pickled, and reading it runs code."

OWN: dict[str, Key] = {
    "export_dir": part("output", text, "outputs/merged"),
    "export_size": part("shard size in GB", count, 5),
    "export_device": limited(
        ("cpu", "auto"), "use cpu; the engine takes a GPU where there is one."
    ),
    "export_legacy_format": limited((False,), PICKLED),
    "infer_dtype": part("dtype", one_of("auto", "float16", "bfloat16", "float32"), "auto"),
    "quantization_bit": limited(
        (None,), "merging into rounded weights loses what was learned. Leave it out."
    ),
}
"""Keys that mean something else here than in a training, or nothing there."""


FOLLOWED = ("template", "trust_remote_code", "rope_scaling")
"""Keys of the model that are settings of the same name."""


@dataclass(frozen=True)
class ExportRequest:
    """What `llama-factory export` is asked for.

    Attributes:
        source: adapter folders with commas between them, or the folder of a whole model.
        output: the new folder.
        base: the base model; None takes the one that the adapter names.
        dtype: number format of the weights; None keeps the base model's.
        shard_size: largest weight file.
        changes: settings, as `--set` takes them.
    """

    source: str
    output: str
    base: str | None
    dtype: str | None
    shard_size: str
    changes: tuple[str, ...]


def read_export_request(path: Path | None, changes: Changes = ()) -> ExportRequest:
    """Read the file of an export.

    Args:
        path: None where all keys are among the changes.
        changes: flat keys that go before the file's.

    Raises:
        ConfigError: it cannot be read, or its keys cannot be followed.
    """
    given = {each.name: each.value for each in read_changes(changes)}
    return export_request((read_flat(path) if path else {}) | given, KeyPlaces(path, set(given)))


@dataclass(frozen=True)
class KeyPlaces:
    """Where flat keys were given, for messages.

    Attributes:
        path: of a file; None where there is none.
        changed: keys that were given beside the file, and hold before its own.
    """

    path: Path | None
    changed: Collection[str] = ()

    def of(self, name: str) -> str:
        """File and line, or that it is a change."""
        if self.path is None or name in self.changed:
            return f"settings: {name}"
        line, depth = find(yaml.compose(self.path.read_text(encoding="utf-8")), (name,))
        return f"{self.path}, line {line}: {name}" if depth else f"{self.path}: {name}"


def read_flat(path: Path) -> dict[str, Any]:
    """The keys of a flat YAML file.

    Raises:
        ConfigError: it cannot be read, or holds none.
    """
    try:
        flat = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: no YAML can be read here: {error}") from error
    if not isinstance(flat, dict):
        raise ConfigError(f"{path}: holds no `key: value` lines, so it asks for no export.")
    return flat


def export_request(flat: Mapping[str, Any], places: KeyPlaces) -> ExportRequest:
    """Read the flat keys of an export; those of a training are checked and change nothing.

    Args:
        flat: keys as given; an empty value (null) is a key that is not given.
        places: where they were given.

    Raises:
        ConfigError: all problems found, one a line of text.
    """
    problems: list[tuple[str, str]] = []
    values = _read({name: value for name, value in flat.items() if value is not None}, problems)
    for name in ("model_name_or_path", "export_dir"):
        if name not in flat:
            problems.append((name, "not given. An export needs it."))
    if problems:
        raise ConfigError("\n".join(f"{places.of(name)}: {told}" for name, told in problems))
    adapters, model = values.get("adapter_name_or_path"), values["model_name_or_path"]
    dtype = values.get("infer_dtype", "auto")
    changed = {name: values.get(name) for name in FOLLOWED}
    return ExportRequest(
        source=",".join(adapters) if adapters else model,
        output=values["export_dir"],
        base=model if adapters else None,
        dtype=None if dtype == "auto" else dtype,
        shard_size=f"{values.get('export_size', 5)}GB",
        changes=tuple(f"model.{name}={value}" for name, value in changed.items() if value),
    )


def _read(given: Mapping[str, Any], problems: list[tuple[str, str]]) -> dict[str, Any]:
    known, values = KEYS | OWN, {}
    for name, value in given.items():
        if name not in known:
            problems.append((name, f"no such key.{suggest(name, known)}"))
            continue
        try:
            values[name] = known[name].convert(value)
        except ValueError as error:
            problems.append((name, str(error)))
    return values
