"""LLaMA-Factory's keys for `chat` and `api` (a YAML, key=value, flags) as a model and settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama_factory.config.changes import Changes, read_changes
from llama_factory.config.dialects.exporting import KeyPlaces, read_flat
from llama_factory.config.dialects.translate import translate
from llama_factory.core.errors import ConfigError

ANSWERING = ("data.default_system", "data.enable_thinking", "data.tool_format")
"""Settings that shape answers, besides those of the model."""
SAMPLING = {
    "max_new_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "repetition_penalty": "repetition_penalty",
}
"""Key of how answers are drawn -> its name in a request."""
USUAL_TEMPERATURE = 0.95
"""Theirs, where a file says how to draw and not this."""
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
        sampling: how `chat` draws answers where the keys say so, as a request names it.
    """

    source: str
    base: str | None
    changes: tuple[str, ...]
    notes: tuple[str, ...]
    sampling: Mapping[str, Any] = field(default_factory=dict)


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
    sampling = _sampling({name: done.values[name] for name in given if name in done.values})
    if "max_tokens" in sampling:
        chosen.append(f"serving.max_tokens={sampling['max_tokens']}")
    return ModelRequest(
        source=",".join(adapters) if adapters else model,
        base=model if adapters else None,
        changes=(*chosen, *(f"{each.name}={each.value}" for each in native)),
        notes=tuple(done.notes),
        sampling=sampling,
    )


def _sampling(given: Mapping[str, Any]) -> dict[str, Any]:
    """How answers are drawn; nothing where that was not said: the likeliest ones."""
    found = {ours: given[theirs] for theirs, ours in SAMPLING.items() if theirs in given}
    if given.get("do_sample") is False:
        return found | {"temperature": 0.0}
    if given.get("do_sample") or {"top_p", "top_k"} & set(found):
        return {"temperature": USUAL_TEMPERATURE} | found
    return found


def _settings(found: Mapping[str, Any]) -> dict[str, Any]:
    """What of the settings shapes answers."""
    return {
        name: value
        for name, value in found.items()
        if name in ANSWERING or (name.startswith("model.") and not name.startswith(TRAINED))
    }
