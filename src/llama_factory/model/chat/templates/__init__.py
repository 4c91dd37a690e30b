"""Named chat templates for tokenizers that have none: families.yaml. Loads no heavy library."""

from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml

from llama_factory.core.errors import ModelError, suggest
from llama_factory.core.sentences import kind_of_sentence
from llama_factory.model.chat.templates.format import ChatFormat, jinja

FILE = Path(__file__).parent / "families.yaml"
NO_THOUGHTS = "_nothink"
"""Ends the name of a template for the models of a family that do not think."""


NO_TEMPLATE = kind_of_sentence(
    "settings.no_template",
    "'{name}' is no template known here.{hint} Leave it out where the model's tokenizer has a "
    "template of its own, or take one of: {known}.",
)


@dataclass(frozen=True)
class NamedTemplate:
    """A chat format.

    Attributes:
        name: as `model.template` has it.
        jinja: the template; it marks the assistant's tokens.
        tokens: pieces that should be single tokens; `eos_token` stands for the tokenizer's own. The
            last one ends an answer.
    """

    name: str
    jinja: str
    tokens: tuple[str, ...]


def names() -> list[str]:
    """Every name that `model.template` may have."""
    return sorted(_table())


def is_named(template: object) -> bool:
    """Whether a template is one of ours, and not a tokenizer's own."""
    return isinstance(template, str) and template in _all_jinja()


def default_system_of(template: str) -> str:
    """The system prompt that one of ours gives to conversations without one; else nothing."""
    name = _all_jinja().get(template)
    return "" if name is None or has_file(name) else format_of(name).default_system


def has_file(name: str) -> bool:
    """Whether a name has a template that no `ChatFormat` describes."""
    return "files" in _fields(name)


def find(name: str) -> NamedTemplate:
    """The template of a name.

    Raises:
        ModelError: there is none.
    """
    if name not in _table():
        problem = NO_TEMPLATE(name=name, hint=suggest(name, names()), known=", ".join(names()))
        raise ModelError(f"model.template: {problem}")
    values = _fields(name)
    own = values.get("files")
    text = _of_files(name, own.split()) if own else jinja(name, format_of(name))
    return NamedTemplate(name, text, tuple(values["tokens"].split()))


def _of_files(name: str, files: list[str]) -> str:
    """A template of several pieces, which knows its name as `family`."""
    head = f"{{#- {name} -#}}\n{{%- set family = '{name}' -%}}\n"
    return head + "".join(text_of(each) for each in files)


def text_of(file: str) -> str:
    """A piece of a template that no `ChatFormat` describes."""
    return FILE.with_name(file).read_text(encoding="utf-8")


@cache
def format_of(name: str) -> ChatFormat:
    """The format of a name in the table that has no file of its own."""
    return ChatFormat.read(_fields(name))


def _fields(name: str) -> dict[str, Any]:
    own = dict(_table()[name])
    other = own.pop("like", None)
    return (_fields(other) if other else {}) | own


@lru_cache(maxsize=1)
def _table() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return found


@lru_cache(maxsize=1)
def _all_jinja() -> dict[str, str]:
    """Template -> its name."""
    return {find(name).jinja: name for name in names()}
