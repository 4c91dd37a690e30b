"""What every layout may have beside the turns: tools, pictures, a second answer, a verdict."""

from collections.abc import Mapping
from typing import Any

from llama_factory.core.types import Message
from llama_factory.data.formats import Content
from llama_factory.data.formats.layout import Layout
from llama_factory.data.formats.values import (
    BadRowError,
    checked,
    flag_of,
    is_missing,
    kind_of,
    tools_of,
)

EXTRA_NAMES = {
    "tools": ("tools",),
    "images": ("images",),
    "videos": ("videos",),
    "audios": ("audios",),
    "kto_tag": ("kto_tag", "is_desirable"),
}
VERDICT = {"kto_tag": ("kto_tag", "is_desirable", "label")}
"""For layouts in which `label` may be a verdict on the answer."""
LABEL, TRL = "label", ["prompt", "completion"]
IMAGE_MARK = "<image>"


def finished(
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
        raise BadRowError("'chosen' and 'rejected' are the same: nothing can be learnt from them.")
    for name in (columns.videos, columns.audios):
        if name and not is_missing(row.get(name)):
            raise BadRowError(f"'{name}': only text and pictures can be taught yet.")
    verdict = verdict_of(row, layout)
    images = _images(row, columns.images) if columns.images else ()
    if images:
        _check_marks(messages, len(images))
    return Content(messages, tools_of(row, columns.tools), rejected, verdict, images)


def verdict_of(row: Mapping[str, Any], layout: Layout) -> bool | None:
    """Whether people liked the answer; None where nobody said.

    A `label` that nobody named is one beside `prompt` and `completion`, as TRL lays out such rows.
    Elsewhere it may be a class, and is a verdict only where it is true or false.

    Raises:
        BadRowError: the verdict is neither true nor false.
    """
    columns = layout.columns
    if columns.kto_tag is None:
        return None
    is_trl = [str(name).lower() for name in (columns.prompt, columns.response)] == TRL
    may_be_class = layout.is_found and columns.kto_tag.lower() == LABEL and not is_trl
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
        raise BadRowError(f"'{name}' must be a list of paths of pictures, not of {kind_of(value)}.")
    if "://" in path:
        raise BadRowError(f"the picture '{path}' is an address; save it and give its path.")
    return checked(path, name)


def _check_marks(messages: tuple[Message, ...], num_images: int) -> None:
    num_marks = sum(turn.content.count(IMAGE_MARK) for turn in messages)
    if num_marks != num_images:
        raise BadRowError(
            f"the row has {num_images} pictures and {num_marks} {IMAGE_MARK} marks that stand for "
            "them. Write one mark where each picture belongs."
        )
