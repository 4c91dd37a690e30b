"""Tools in the way of another family, whatever the chat template does. Loads no heavy library."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from llama_factory.core.errors import ModelError, suggest
from llama_factory.core.sentences import kind_of_sentence
from llama_factory.model.chat import templates
from llama_factory.model.chat.templates.format import ChatFormat, default_system, tools_as

FILE = Path(__file__).parent / "tool_formats.yaml"


NO_TOOL_FORMAT = kind_of_sentence(
    "settings.no_tool_format",
    "'{name}' is no way to write tools that is known here.{hint} Leave it out where the chat "
    "template writes them itself, or take one of: {known}.",
)


@cache
def names() -> tuple[str, ...]:
    """Every name that `data.tool_format` may have."""
    families = (name for name in templates.names() if _has_tools(name))
    return tuple(sorted({*_table(), *families}))


def require_known(name: str) -> str:
    """The name itself.

    Raises:
        ModelError: there is no such way.
    """
    if name not in names():
        raise ModelError(
            NO_TOOL_FORMAT(name=name, hint=suggest(name, names()), known=", ".join(names()))
        )
    return name


@cache
def with_tools_as(name: str, template: str) -> str:
    """A chat template that lists tools in its system turn and writes calls in the way of a family.

    Args:
        name: of that way.
        template: the tokenizer's own, or a named one.
    """
    own, macros = templates.default_system_of(template), _table().get(name, {}).get("macros")
    head = (default_system(own) if own else "") + (templates.text_of(macros) if macros else "")
    return head + tools_as(_format(name)) + template


def _format(name: str) -> ChatFormat:
    values = dict(_table().get(name, {"like": name}))
    values.pop("macros", None)
    other = values.get("like")
    if other is None:
        return ChatFormat.read(values | {"user": "", "answer": ["", "{content}", ""], "tokens": ""})
    return templates.format_of(other)


def _has_tools(name: str) -> bool:
    if templates.has_file(name):
        return False
    form = templates.format_of(name)
    return form.tools is not None and form.calls is not None


@cache
def _table() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return found
