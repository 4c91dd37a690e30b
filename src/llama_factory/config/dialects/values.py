"""What a flat key is: how its value is read, and the native setting it becomes."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from llama_factory.core.errors import ModelError, suggest
from llama_factory.model.chat.templates import find
from llama_factory.model.chat.templates.tool_formats import require_known

Converter = Callable[[Any], Any]
Kind = Literal["setting", "part", "ignored", "noted", "limited"]


@dataclass(frozen=True)
class Key:
    """One flat key.

    Attributes:
        kind: `setting` sets `target`; `part` is read by a rule together with others; `ignored`
            needs nothing from us; `noted` is accepted, and what differs is said; `limited` takes
            only the values that `convert` lets through.
        convert: reads the value; raises ValueError with what it must be.
        example: a value that is accepted.
        target: the native settings, for `setting` the one that is set.
        about: what differs, or why it is ignored or limited.
        off: values that ask for nothing, accepted even where the native setting is missing.
    """

    kind: Kind
    convert: Converter
    example: Any
    target: str = ""
    about: str = ""
    off: tuple[Any, ...] = (False,)


def setting(
    target: str,
    convert: Converter,
    example: Any,
    *,
    about: str = "",
    off: tuple[Any, ...] = (False,),
) -> Key:
    """A key that is one native setting under another name."""
    return Key("setting", convert, example, target, about, off)


def part(
    target: str,
    convert: Converter,
    example: Any,
    *,
    about: str = "",
    off: tuple[Any, ...] = (False,),
) -> Key:
    """A key that becomes native settings only together with others; see `rules.py`."""
    return Key("part", convert, example, target, about, off)


def ignored(why: str, convert: Converter, example: Any) -> Key:
    """A key that is right in any case and changes nothing here."""
    return Key("ignored", convert, example, about=why)


def noted(note: str, default: Any) -> Key:
    """A key that is accepted and works differently here, which is said unless it is the default."""
    return Key("noted", anything, default, about=note, off=(default,))


def limited(values: tuple[Any, ...], advice: str) -> Key:
    """A key that is known and supported for some values only, its default among them.

    Args:
        values: what is accepted and changes nothing; the first is the example.
        advice: what to do for other values.
    """
    return Key("limited", _among(values, advice), values[0], about=advice, off=values)


def missing(advice: str, default: Any = False) -> Key:
    """A key that is known and not supported: only its default is accepted."""
    return limited((default,), advice)


def anything(value: Any) -> Any:
    """Any value at all."""
    return value


def text(value: Any) -> str:
    """Any single value as text."""
    if isinstance(value, list | dict | bool):
        raise ValueError(f"must be text; it is {value!r}.")
    return str(value)


def chat_template(value: Any) -> str:
    """The name of a chat template."""
    try:
        return find(text(value)).name
    except ModelError as error:
        raise ValueError(str(error).removeprefix("model.template: ")) from None


def tool_way(value: Any) -> str:
    """The family in whose way tools are listed and called."""
    try:
        return require_known(text(value))
    except ModelError as error:
        raise ValueError(f"{error}") from None


def settings_text(value: Any) -> dict[str, Any]:
    """Names with values: a mapping, or JSON text of one."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, dict):
        raise ValueError(f"must be names with values, as in {{num_cycles: 2}}; it is {value!r}.")
    return value


def text_or_boolean(value: Any) -> str | bool:
    """True, false, or any other text."""
    word = str(value).lower()
    return word == "true" if word in ("true", "false") else text(value)


def number(value: Any) -> float:
    """A number, also as `1e-4`, which YAML takes for text."""
    try:
        if not isinstance(value, bool):
            return float(value)
    except (TypeError, ValueError):
        pass
    raise ValueError(f"must be a number; it is {value!r}.")


def count(value: Any) -> int:
    """A whole number."""
    found = number(value)
    if not found.is_integer():
        raise ValueError(f"must be a whole number; it is {value!r}.")
    return int(found)


def boolean(value: Any) -> bool:
    """True or false, also in the spellings of flags."""
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    word = str(value).lower()
    if word not in known:
        raise ValueError(f"must be true or false; it is {value!r}.")
    return known[word]


def names(value: Any) -> list[str]:
    """`a,b` or a list."""
    items = value if isinstance(value, list) else text(value).split(",")
    return [text(item).strip() for item in items]


def one_of(*known: str) -> Converter:
    """One of some words."""

    def convert(value: Any) -> str:
        if value is False and "no" in known:
            return "no"  # YAML reads a bare `no` so
        if value not in known:
            raise ValueError(
                f"must be one of {', '.join(known)}; it is {value!r}.{suggest(str(value), known)}"
            )
        return str(value)

    return convert


def _among(values: tuple[Any, ...], advice: str) -> Converter:
    def convert(value: Any) -> Any:
        if any(is_same(value, each) for each in values):
            return value
        raise ValueError(f"{value!r} is not supported: {advice}")

    return convert


def is_same(value: Any, known: Any) -> bool:
    """Whether values are equal, with flags' spellings of numbers and truth allowed."""
    if isinstance(value, bool) != isinstance(known, bool):
        return isinstance(known, bool) and str(value).lower() in (
            str(known).lower(),
            str(int(known)),
        )
    if isinstance(known, float | int) and not isinstance(known, bool):
        try:
            return float(value) == known
        except (TypeError, ValueError):
            return False
    return bool(value == known)
