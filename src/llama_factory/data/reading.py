"""Files -> rows -> examples. An unreadable file raises DataError, a bad row comes as `Refused`."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_factory.core.errors import ConfigError, DataError
from llama_factory.core.types import Example
from llama_factory.data import file_sentences as files
from llama_factory.data import row_sentences as texts
from llama_factory.data.formats import (
    BadRowError,
    Columns,
    Content,
    Layout,
    as_object,
    parse_question,
    parse_row,
)
from llama_factory.data.formats.row_values import checked, is_missing, optional_text, without_nan
from llama_factory.data.readers import RawRow, Refused, as_json_line, storable
from llama_factory.data.readers.detection import detect_reader, readers_by_suffix, suffix_of
from llama_factory.data.readers.streams import PACKED_SUFFIXES, open_file

__all__ = [
    "RawRow",
    "Refused",
    "group_of",
    "is_readable",
    "is_test_file",
    "read_examples",
    "read_rows",
    "to_example",
]

TEST_SUFFIX = ".test"
DEFAULT_COLUMNS = Columns.only(group="group", weight="weight")
"""Columns of any row without a layout of its own."""


def read_rows(path: Path, *, encoding: str | None = None) -> Iterator[RawRow | Refused]:
    """All rows of a file of any kind, in order and in bounded memory; bad ones as `Refused`.

    A file that turns out to be damaged further on keeps the rows before the damage.

    Args:
        path: a file.
        encoding: of its text; None finds it by its byte order mark, and takes UTF-8 without one.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    opened = open_file(path, encoding)
    number = 0
    try:
        for row in detect_reader(opened).read(opened):
            number = row.line
            yield row
    except DataError as error:
        if number == 0:
            raise
        yield Refused(opened.file, number + 1, files.FILE_FROM_HERE(why=error))
    if opened.damage:
        yield Refused(opened.file, number + 1, files.FROM_HERE(why=opened.damage))
    elif number == 0:
        raise DataError(files.NO_ROWS())


def read_examples(
    path: Path,
    layout: Layout | None = None,
    *,
    encoding: str | None = None,
    may_lack_answer: bool = False,
) -> Iterator[Example | Refused]:
    """All rows of a file, in order; bad rows come as `Refused`.

    Args:
        path: a file.
        layout: how its rows are laid out; None infers it row by row.
        encoding: of its text; None finds it.
        may_lack_answer: whether rows are asked only, see `to_example`.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    group = group_of(path)
    for row in read_rows(path, encoding=encoding):
        if isinstance(row, Refused):
            yield row
            continue
        yield to_example(
            row,
            group=group,
            file=path.name,
            layout=layout,
            folder=path.parent,
            may_lack_answer=may_lack_answer,
        )


def to_example(
    row: RawRow,
    *,
    group: str,
    file: str,
    layout: Layout | None,
    folder: Path | None = None,
    may_lack_answer: bool = False,
) -> Example | Refused:
    """What a row teaches.

    Args:
        row: as it was read.
        group: the row's task, unless it names one itself.
        file: the name of its file, for messages.
        layout: how it is laid out; None infers that from its fields.
        folder: where its pictures lie; None leaves their paths as they are and unchecked.
        may_lack_answer: whether it is asked and not taught; a missing answer then is an empty one.
    """
    try:
        value = as_object(without_nan(row.value), layout)
        content = (parse_question if may_lack_answer else parse_row)(value, layout)
        example = _example(
            value, content, DEFAULT_COLUMNS if layout is None else layout.columns, folder
        )
    except BadRowError as error:
        return Refused(row.file or file, row.line, storable(str(error)), as_json_line(row.value))
    return replace(
        example,
        group=example.group or group,
        file=example.file or row.file or file,
        line=example.line or row.line,
    )


def _example(
    value: Mapping[str, Any], content: Content, columns: Columns, folder: Path | None
) -> Example:
    """The row's own part of an Example; its group and its place may be empty."""
    images = content.images
    if images and folder is not None:
        images = tuple(_resolved_image(image, folder) for image in images)
    return Example(
        content.messages,
        content.group or _group(value, columns.group),
        content.file,
        content.line,
        _weight(value, columns.weight),
        content.tools,
        content.rejected,
        content.is_desirable,
        images,
        content.augmented_by or optional_text(value, "augmented_by"),
    )


def is_readable(path: Path) -> bool:
    """Whether this is a data file, by its name or else by its content."""
    if suffix_of(path) in readers_by_suffix():
        return path.is_file()
    try:
        detect_reader(open_file(path))
    except (DataError, ConfigError):
        return False
    return True


def is_test_file(path: Path) -> bool:
    """Whether a file's rows are only for testing: `NAME.test.jsonl`, also compressed."""
    return _stem(path).endswith(TEST_SUFFIX)


def group_of(path: Path) -> str:
    """The task a file's rows belong to: its name without `.test` and extensions."""
    return _stem(path).removesuffix(TEST_SUFFIX)


def _stem(path: Path) -> str:
    is_packed = path.suffix.lower() in PACKED_SUFFIXES
    return Path(path.stem).stem if is_packed else path.stem


def _resolved_image(image: str, folder: Path) -> str:
    """The full path of a picture that a row names; it must exist inside the folder."""
    path = folder / image
    root = folder.resolve()
    if not path.resolve().is_relative_to(root):
        raise BadRowError(texts.PICTURE_OUTSIDE(path=image, folder=folder))
    if not path.is_file():
        raise BadRowError(texts.PICTURE_MISSING(path=image, file=path))
    return str(path.resolve())


def _group(row: Mapping[str, Any], name: str | None) -> str:
    group = row.get(name) if name else None
    if is_missing(group):
        return ""
    if isinstance(group, str):
        return checked(group, str(name))
    if isinstance(group, bool) or not isinstance(group, int | float) or group % 1 != 0:
        raise BadRowError(texts.NOT_GROUP(name=name))
    return str(int(group))


def _weight(row: Mapping[str, Any], name: str | None) -> float:
    weight = row.get(name) if name else None
    if is_missing(weight):
        return 1.0
    try:
        number = math.nan if isinstance(weight, bool) else float(weight)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 < number < math.inf:
        raise BadRowError(texts.NOT_WEIGHT(name=name))
    return number
