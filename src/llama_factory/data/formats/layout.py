"""How the rows of a named dataset are laid out, with the meaning `dataset_info.json` gives it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from llama_factory.core.errors import DataError, suggest

FORMATTINGS = ("alpaca", "sharegpt", "openai")


@dataclass(frozen=True)
class Columns:
    """Which field of a row holds what; None where none does. Without `columns`, these hold."""

    prompt: str | None = "instruction"
    query: str | None = "input"
    response: str | None = "output"
    history: str | None = None
    messages: str | None = "conversations"
    system: str | None = None
    tools: str | None = None
    images: str | None = None
    videos: str | None = None
    audios: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    kto_tag: str | None = None
    group: str | None = None
    weight: str | None = None

    @staticmethod
    def only(**named: str) -> "Columns":
        """These columns and no others."""
        return Columns(**{each.name: named.get(each.name) for each in fields(Columns)})


@dataclass(frozen=True)
class Tags:
    """How turns name who speaks and what is said. Without `tags`, these hold."""

    role_tag: str | None = "from"
    content_tag: str | None = "value"
    user_tag: str | None = "human"
    assistant_tag: str | None = "gpt"
    observation_tag: str | None = "observation"
    function_tag: str | None = "function_call"
    system_tag: str | None = "system"

    @staticmethod
    def only(**named: str) -> "Tags":
        """These tags and no others."""
        return Tags(**{each.name: named.get(each.name) for each in fields(Tags)})


@dataclass(frozen=True)
class Layout:
    """How rows are laid out.

    Attributes:
        formatting: one question and answer a row (alpaca), or a list of turns.
        ranking: whether rows are pairs of a better and a worse answer.
        columns: which field holds what.
        tags: how turns are written; None finds it by the first turn of a row.
        is_found: whether nobody named the columns: they are taken for what they are called.
    """

    formatting: Literal["alpaca", "sharegpt", "openai"] = "alpaca"
    ranking: bool = False
    columns: Columns = field(default_factory=Columns)
    tags: Tags | None = field(default_factory=Tags)
    is_found: bool = False

    @staticmethod
    def of(entry: Mapping[str, Any]) -> "Layout":
        """The layout of an entry of `dataset_info.json`.

        Giving `columns` or `tags` at all sets each that is not listed to none.

        Raises:
            DataError: a value is not one of those known.
        """
        formatting = entry.get("formatting", "alpaca")
        if formatting not in FORMATTINGS:
            hint = suggest(str(formatting), FORMATTINGS)
            raise DataError(
                f"formatting '{formatting}' is unknown.{hint} Known: {', '.join(FORMATTINGS)}."
            )
        ranking = entry.get("ranking", False)
        if not isinstance(ranking, bool):
            raise DataError(f"ranking must be true or false, not {ranking!r}.")
        columns = _named(entry, "columns", Columns)
        tags = _named(entry, "tags", Tags)
        return Layout(
            formatting,
            ranking,
            Columns() if columns is None else Columns.only(**columns),
            Tags() if tags is None else Tags.only(**tags),
        )


def _named(
    entry: Mapping[str, Any], part: str, kind: type[Columns] | type[Tags]
) -> dict[str, str] | None:
    given = entry.get(part)
    if given is None:
        return None
    if not isinstance(given, dict):
        raise DataError(f"{part} must be an object.")
    known = [each.name for each in fields(kind)]
    for name, value in given.items():
        if name not in known:
            hint = suggest(name, known)
            raise DataError(f"{part}: '{name}' is unknown.{hint} Known: {', '.join(known)}.")
        if value is not None and not isinstance(value, str):
            raise DataError(f"{part}: '{name}' must be text.")
    return {name: value for name, value in given.items() if value is not None}
