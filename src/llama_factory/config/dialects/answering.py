"""LLaMA-Factory's keys for `chat` and `api` (a YAML, key=value, flags) as a model and settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_factory.config.changes import Changes, read_changes
from llama_factory.config.dialects.exporting import KeyPlaces, read_flat
from llama_factory.config.dialects.translate import translate
from llama_factory.core.errors import ConfigError

ANSWERING = ("data.default_system", "data.enable_thinking", "data.tool_format")
"""Settings that shape answers, besides those of the model."""
TRAINED = ("model.adapter", "model.adapter_paths", "model.base_model", "model.create_new_adapter")
"""Settings of the model that are for training, or are told by its name."""


@dataclass(frozen=True)
class ModelRequest:
    """Which model is to answer.

    Attributes:
        source: adapter folders with commas between them; a base model's name or folder.
        base: the base model of adapters; None where the source is the whole model.
        changes: settings, as `--set` takes them.
        notes: what works differently here.
    """

    source: str
    base: str | None
    changes: tuple[str, ...]
    notes: tuple[str, ...]


def answer_request(path: Path | None, changes: Changes) -> ModelRequest:
    """Read the keys of a chat or of an API; those of a training are checked and change nothing.

    Args:
        path: a YAML file of flat keys; None where they are all among the changes.
        changes: flat keys, which go before the file's, and native settings.

    Raises:
        ConfigError: all problems found, one a line of text.
    """
    read = read_changes(changes)
    native = [each for each in read if "." in each.name]
    flat = {each.name: each.value for each in read if "." not in each.name}
    given = (read_flat(path) if path else {}) | flat
    done = translate(given)
    if done.problems:
        places = KeyPlaces(path, set(flat))
        raise ConfigError("\n".join(f"{places.of(name)}: {told}" for name, told in done.problems))
    adapters, model = done.values.get("adapter_name_or_path"), done.values["model_name_or_path"]
    chosen = [f"{name}={value}" for name, value in _settings(done.settings).items()]
    return ModelRequest(
        source=",".join(adapters) if adapters else model,
        base=model if adapters else None,
        changes=(*chosen, *(f"{each.name}={each.value}" for each in native)),
        notes=tuple(done.notes),
    )


def _settings(found: Mapping[str, Any]) -> dict[str, Any]:
    """What of the settings shapes answers."""
    return {
        name: value
        for name, value in found.items()
        if name in ANSWERING or (name.startswith("model.") and not name.startswith(TRAINED))
    }
