"""What flat keys come to: native settings, each with its key, and all problems and remarks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llama_factory.config import schema
from llama_factory.config.dialects.keys import KEYS


@dataclass
class Translation:
    """Native settings as they are found, key by key.

    Attributes:
        values: read values of the flat keys, defaults included.
        given: the keys that a person gave.
        base: native settings of the file that the keys are added to; empty for a flat file.
        num_processes: that train together.
        settings: native path -> value.
        sources: native path -> the flat key that it comes from.
        problems: each with its flat key.
        notes: what a person should know about a key that works differently here.
        ignored: keys that change nothing here, each with the reason.
    """

    values: Mapping[str, Any]
    given: frozenset[str]
    base: Mapping[str, Any]
    num_processes: int = 1
    settings: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    def put(self, path: str, value: Any, key: str) -> None:
        """Set a native setting, or refuse the key where there is no such setting."""
        types = {owner: self._type_of(owner) for owner in schema.PARTS}
        if path.endswith(".type"):
            types[path.removesuffix(".type")] = value
        if schema.has(path, types):
            self.settings[path] = value
            self.sources[path] = key
        elif value not in KEYS[key].off:
            about = KEYS[key].about
            self.refuse(key, f"known, but not supported yet. {about}".rstrip())

    def refuse(self, key: str, message: str) -> None:
        """Remember a problem."""
        self.problems.append((key, message))

    def note(self, key: str, message: str) -> None:
        """Remember what a person should know, if the key was given by one."""
        if key in self.given:
            self.notes.append(f"{key}: {message}")

    def is_on(self, key: str) -> bool:
        """Whether a boolean key is on."""
        return bool(self.values.get(key))

    def native(self, path: str) -> Any:
        """A setting of the native file that the keys are added to; None where it has none."""
        value: Any = self.base
        for step in path.split("."):
            value = value.get(step) if isinstance(value, Mapping) else None
        return value

    def _type_of(self, owner: str) -> Any:
        chosen = self.settings.get(f"{owner}.type")
        base = self.native(owner)
        return chosen or (base.get("type") if isinstance(base, Mapping) else base)
