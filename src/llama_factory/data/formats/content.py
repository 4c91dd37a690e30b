"""What a row teaches: its turns, and beside them tools, pictures, a second answer, a verdict."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llama_factory.core.types import Message
from llama_factory.data import row_sentences as texts
from llama_factory.data.formats.layout import Layout
from llama_factory.data.formats.row_values import (
    BadRowError,
    checked,
    flag_of,
    is_missing,
    tools_of,
    type_name,
)

EXTRA_NAMES = {
    "tools": ("tools",),
    "images": ("images",),
    "videos": ("videos",),
    "audios": ("audios",),
    "kto_tag": ("kto_tag", "is_desirable"),
}
PAIR_NAMES = {"chosen": ("chosen",), "rejected": ("rejected",)}
VERDICT_NAMES = {"kto_tag": ("kto_tag", "is_desirable", "label")}
"""For layouts in which `label` may be a verdict on the answer."""
TRL_COLUMNS = ["prompt", "completion"]
IMAGE_MARK = "<image>"


@dataclass(frozen=True)
class Content:
    """What a row teaches; the fields are those of an Example.

    `group`, `file`, `line` and `augmented_by` are set only in rows that we wrote ourselves.
    """

    messages: tuple[Message, ...]
    tools: str = ""
    rejected: Message | None = None
    is_desirable: bool | None = None
    images: tuple[str, ...] = ()
    group: str = ""
    file: str = ""
    line: int = 0
    augmented_by: str = ""


def content_of(
    messages: tuple[Message, ...],
    row: Mapping[str, Any],
    layout: Layout,
    *,
    rejected: Message | None = None,
) -> Content:
    """The turns with everything else that the row holds.

    Raises:
        BadRowError: a value is wrong, or the two answers are the same.
    """
    columns = layout.columns
    if rejected is not None and rejected == messages[-1]:
        raise BadRowError(texts.SAME_ANSWERS())
    for name in (columns.videos, columns.audios):
        if name and not is_missing(row.get(name)):
            raise BadRowError(texts.NO_SOUND(name=name))
    verdict = verdict_of(row, layout)
    images = _images(row, columns.images) if columns.images else ()
    if images:
        _check_marks(messages, len(images))
    return Content(messages, tools_of(row, columns.tools), rejected, verdict, images)


def verdict_of(row: Mapping[str, Any], layout: Layout) -> bool | None:
    """Whether people liked the answer; None where the row has no verdict.

    An inferred `label` column is one beside `prompt` and `completion`, as TRL lays out such rows.
    Elsewhere it may be a class, and is a verdict only where it is true or false.

    Raises:
        BadRowError: the verdict is neither true nor false.
    """
    columns = layout.columns
    if columns.kto_tag is None:
        return None
    is_trl = [str(name).lower() for name in (columns.prompt, columns.response)] == TRL_COLUMNS
    may_be_class = layout.is_inferred and columns.kto_tag.lower() == "label" and not is_trl
    if may_be_class and str(row.get(columns.kto_tag)).strip().lower() not in ("true", "false"):
        return None
    return flag_of(row, columns.kto_tag)


def _images(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = row.get(name)
    listed = value if isinstance(value, list) else [value]
    return tuple(_image(each, name) for each in listed if not is_missing(each))


def _image(value: Any, name: str) -> str:
    path = value.get("path") if isinstance(value, dict) else value
    if not isinstance(path, str) or not path:
        raise BadRowError(texts.NOT_PATHS(name=name, what=type_name(value)))
    if "://" in path:
        raise BadRowError(texts.PICTURE_ADDRESS(path=path))
    return checked(path, name)


def _check_marks(messages: tuple[Message, ...], num_images: int) -> None:
    num_marks = sum(turn.content.count(IMAGE_MARK) for turn in messages)
    if num_marks != num_images:
        raise BadRowError(
            texts.PICTURE_MARKS(pictures=num_images, marks=num_marks, mark=IMAGE_MARK)
        )
