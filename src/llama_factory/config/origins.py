"""Where each setting came from: a line of the file, a flag, the environment, their default."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from llama_factory.config.changes import Change
from llama_factory.config.dialects.translate import ARTICLE_NAMES
from llama_factory.config.dialects.translation import Translation

Location = tuple[str | int, ...]

THEIR_DEFAULT = "LLaMA-Factory's default"


@dataclass(frozen=True)
class Origin:
    """Where a setting came from.

    Attributes:
        line: of the file; 0 for what is given beside it.
        label: `line 3`, `line 3: lora_rank`, `--set training.epochs=3`.
    """

    line: int
    label: str


@dataclass(frozen=True)
class Origins:
    """All that settings can come from.

    Attributes:
        tree: the file.
        changes: what was given beside it, the last of a name being the one that holds.
        translation: what flat keys came to.
        is_flat: whether the file has flat keys.
    """

    tree: yaml.Node | None
    changes: Sequence[Change]
    translation: Translation
    is_flat: bool

    def of(self, location: Location) -> Origin | None:
        """The origin of a native setting; None where it is our default."""
        name = ".".join(map(str, location))
        values = {change.name: change.value for change in self.changes}
        path = _setter(".".join(map(str, ARTICLE_NAMES.get(location, ()))), values)
        path = path or _setter(name, values)
        if path is not None:
            return Origin(0, {change.name: change.source for change in self.changes}[path])
        path = _setter(name, self.translation.settings)
        if path is not None:
            return self.of_key(self.translation.sources[path])
        return None if self.is_flat else self._in_file(location)

    def of_key(self, key: str) -> Origin:
        """The origin of a flat key; the empty key stands for defaults that have none."""
        given = {change.name: change.source for change in self.changes}
        if key in given:
            return Origin(0, given[key])
        line, depth = find(self.tree, (key,))
        return Origin(line, f"line {line}: {key}") if depth else Origin(0, _default_of(key))

    def _in_file(self, location: Location) -> Origin | None:
        for known in (location, ARTICLE_NAMES.get(location, ())):
            line, depth = find(self.tree, known)
            is_name_of_part = known[-1:] == ("type",) and depth == len(known) - 1
            if known and (depth == len(known) or (is_name_of_part and self._is_word(known[:-1]))):
                return Origin(line, f"line {line}")
        return None

    def _is_word(self, location: Location) -> bool:
        """Whether the file has a single word there, such as `adapter: lora`."""
        node = self.tree
        for step in location:
            found = _child(node, step)
            node = found[1] if found else None
        return isinstance(node, yaml.ScalarNode)


def find(node: yaml.Node | None, location: Location) -> tuple[int, int]:
    """1-based line of the deepest part of `location` that is in the file, and how deep it is."""
    line = 1
    for depth, step in enumerate(location):
        found = _child(node, step)
        if found is None:
            return line, depth
        mark, node = found
        line = mark.start_mark.line + 1
    return line, len(location)


def _child(node: yaml.Node | None, step: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    """A key, or an item of a list, where it begins; and its value."""
    if isinstance(node, yaml.MappingNode):
        return next(((key, value) for key, value in node.value if key.value == step), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step], node.value[step]
    return None


def _setter(name: str, given: Mapping[str, Any]) -> str | None:
    """The name under which `name` was given: itself, or the nearest whole whose value has it."""
    steps = name.split(".")
    for depth in range(len(steps), 0, -1):
        whole = ".".join(steps[:depth])
        if whole in given and _holds(given[whole], steps[depth:]):
            return whole
    return None


def _holds(value: Any, steps: Sequence[str]) -> bool:
    """Whether a value has something at `steps`; `lora` alone has the type of the part."""
    for step in steps:
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return isinstance(value, str) and step == "type"
    return True


def _default_of(key: str) -> str:
    return f"{THEIR_DEFAULT} of {key}" if key else THEIR_DEFAULT
