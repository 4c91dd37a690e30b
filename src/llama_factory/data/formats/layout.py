"""How rows and their turns are laid out; columns and tags mean what `dataset_info.json` defines."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, Literal

from llama_factory.core.errors import DataError, suggest
from llama_factory.data import entry_sentences

SYSTEM, USER, ASSISTANT, TOOL, FUNCTION = "system", "user", "assistant", "tool", "function_call"
FORMATTINGS = ("alpaca", "sharegpt", "openai")


@dataclass(frozen=True)
class Columns:
    """Which field of a row holds what; None where none does. These hold without `columns`."""

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
    """Names of the fields and roles of turns. These hold without `tags`."""

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
        tags: names in turns; None infers them from the first turn of a row.
        is_inferred: whether the columns were inferred from their names, as nobody listed them.
    """

    formatting: Literal["alpaca", "sharegpt", "openai"] = "alpaca"
    ranking: bool = False
    columns: Columns = field(default_factory=Columns)
    tags: Tags | None = field(default_factory=Tags)
    is_inferred: bool = False

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
            known = ", ".join(FORMATTINGS)
            raise DataError(
                entry_sentences.UNKNOWN_FORMATTING(name=formatting, hint=hint, known=known)
            )
        ranking = entry.get("ranking", False)
        if not isinstance(ranking, bool):
            raise DataError(entry_sentences.NO_SWITCH(value=repr(ranking)))
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
        raise DataError(entry_sentences.PART_NO_OBJECT(part=part))
    known = [each.name for each in fields(kind)]
    for name, value in given.items():
        if name not in known:
            hint, names = suggest(name, known), ", ".join(known)
            why = entry_sentences.UNKNOWN(name=name, hint=hint, known=names)
            raise DataError(entry_sentences.OF_PART(part=part, why=why))
        if value is not None and not isinstance(value, str):
            why = entry_sentences.NO_TEXT(name=name)
            raise DataError(entry_sentences.OF_PART(part=part, why=why))
    return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class TurnStyle:
    """How turns are written.

    Attributes:
        role_field: field that names the speaker.
        content_field: field that holds the text.
        roles: role by the name of a speaker.
        has_many_results: whether several tool results in a row may answer one turn.
        has_weights: whether `weight` and `loss` of a turn set how much it is taught.
        is_inferred: whether the style was inferred from a turn; speakers then match in any case.
    """

    role_field: str
    content_field: str
    roles: Mapping[str, str]
    has_many_results: bool
    has_weights: bool = True
    is_inferred: bool = True

    def role_of(self, speaker: Any) -> str | None:
        """The role of a speaker as the row names it; None where it is unknown."""
        if not isinstance(speaker, str):
            return None
        role = self.roles.get(speaker)
        return role or (self.roles.get(speaker.strip().lower()) if self.is_inferred else None)

    def speaker_of(self, role: str) -> str:
        """How turns in this style name a role."""
        return next((name for name, meant in self.roles.items() if meant == role), role)

    def turn(self, role: str, content: str) -> dict[str, str]:
        """A turn in this style."""
        return {self.role_field: self.speaker_of(role), self.content_field: content}


OPENAI = TurnStyle(
    "role",
    "content",
    {
        "system": SYSTEM,
        "developer": SYSTEM,
        "user": USER,
        "assistant": ASSISTANT,
        "tool": TOOL,
        "function": TOOL,
        "human": USER,
        "gpt": ASSISTANT,
        "observation": TOOL,
        "function_call": FUNCTION,
    },
    has_many_results=True,
)
SHAREGPT = TurnStyle(
    "from",
    "value",
    {
        "system": SYSTEM,
        "human": USER,
        "gpt": ASSISTANT,
        "observation": TOOL,
        "function_call": FUNCTION,
        "user": USER,
        "assistant": ASSISTANT,
        "chatgpt": ASSISTANT,
        "tool": TOOL,
    },
    has_many_results=False,
)


@lru_cache(maxsize=64)
def style_of_tags(tags: Tags, *, is_openai: bool) -> TurnStyle:
    """The style that a dataset's tags describe; only OpenAI's turns have weights."""
    named = {
        tags.system_tag: SYSTEM,
        tags.user_tag: USER,
        tags.assistant_tag: ASSISTANT,
        tags.observation_tag: TOOL,
        tags.function_tag: FUNCTION,
    }
    roles = {name: role for name, role in named.items() if name}
    return TurnStyle(
        tags.role_tag or "",
        tags.content_tag or "",
        roles,
        has_many_results=is_openai,
        has_weights=is_openai,
        is_inferred=False,
    )


def infer_style(turns: list[Any]) -> TurnStyle:
    """The style of turns without tags: that of the first turn."""
    first = turns[0] if turns and isinstance(turns[0], dict) else {}
    return _style_of_fields(tuple(name for name, value in first.items() if value is not None))


@lru_cache(maxsize=256)
def _style_of_fields(fields: tuple[str, ...]) -> TurnStyle:
    """The style of a turn with these fields; role and content may be named by different styles."""
    small = {name.strip().lower(): name for name in fields}
    style = SHAREGPT if "from" in small else OPENAI
    role, content = style.role_field, "value" if "value" in small else "content"
    return replace(
        style, role_field=small.get(role, role), content_field=small.get(content, content)
    )


def style_for(layout: Layout, listed: list[Any]) -> TurnStyle:
    """The style of the turns of a row: from its layout's tags, else inferred."""
    if layout.tags is None:
        return infer_style(listed)
    return style_of_tags(layout.tags, is_openai=layout.formatting == "openai")
