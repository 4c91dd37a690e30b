"""Sets of rows: where each lies and how it is laid out."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llama_factory.core.errors import ConfigError, DataError, suggest
from llama_factory.data.formats import Layout
from llama_factory.data.readers import RawRow, Refused
from llama_factory.data.readers.detection import readers_by_suffix
from llama_factory.data.reading import (
    group_of,
    is_readable,
    is_test_file,
    read_rows,
)
from llama_factory.data.sources.hub import HubSet, hub_rows

log = logging.getLogger(__name__)

NOT_ROWS = frozenset({"dataset_info.json", "dataset_dict.json", "state.json"})
"""Files that describe datasets and hold no rows."""


@dataclass(frozen=True)
class DataSource:
    """One set of rows.

    Attributes:
        name: the group of its rows.
        path: a file, or a folder of files of one kind.
        hub: where it lies instead, on a hub.
        layout: how its rows are laid out; None finds it row by row.
        num_samples: how many rows to take of it, some twice where there are fewer; None for all.
        is_test: whether its rows are only tested.
        is_taught: whether none of its rows is held out.
        encoding: of its text files; None finds it.
        problem: why it must not be read, where that is known before.
        picture_folder: where the paths of pictures begin; None for beside the file.
    """

    name: str
    path: Path | None = None
    hub: HubSet | None = None
    layout: Layout | None = None
    num_samples: int | None = None
    is_test: bool = False
    is_taught: bool = False
    encoding: str | None = None
    problem: str = ""
    picture_folder: Path | None = None

    @property
    def pictures(self) -> Path | None:
        """Where the paths of its pictures begin; None on a hub."""
        return self.picture_folder or (self.path.parent if self.path else None)

    def open_rows(self) -> Iterator[RawRow | Refused]:
        """All its rows, as `rows_of` gives them."""
        return rows_of(self)


def rows_of(source: DataSource) -> Iterator[RawRow | Refused]:
    """All rows of a set, in order; bad ones as `Refused`.

    Raises:
        DataError: it cannot be read.
    """
    if source.problem:
        raise DataError(source.problem)
    if source.hub is not None:
        yield from hub_rows(source.hub)
    elif source.path is not None and source.path.is_dir():
        yield from _rows_of_folder(source.path, source.encoding)
    elif source.path is not None:
        yield from read_rows(source.path, encoding=source.encoding)


def _rows_of_folder(folder: Path, encoding: str | None) -> Iterator[RawRow | Refused]:
    for path in data_files(folder):
        name = f"{folder.name}/{path.relative_to(folder)}"
        try:
            for row in read_rows(path, encoding=encoding):
                yield replace(row, file=name)
        except DataError as error:
            yield Refused(name, 0, str(error))


def find_sources(path: Path, *, setting: str) -> list[DataSource]:
    """The sets in a file or folder, each file one.

    Args:
        path: a data file, or a folder that is searched with all folders in it.
        setting: what named the path, for messages.

    Raises:
        ConfigError: it is not there, or holds no data file.
    """
    if not path.exists():
        raise ConfigError(f"{setting}: '{path}' does not exist.{_near(path)}")
    if path.is_file():
        return [source_of(path)]
    found = [source_of(each, path) for each in data_files(path)]
    if not found:
        raise ConfigError(
            f"{setting}: the folder '{path}' holds no data file. "
            f"Known kinds: {', '.join(readers_by_suffix())}."
        )
    return found


def data_files(folder: Path) -> list[Path]:
    """The data files in a folder and the folders in it, hidden ones left out, in order of name."""
    found: list[Path] = []
    other: list[Path] = []
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        if any(part.startswith(".") for part in inner.parts) or path.name in NOT_ROWS:
            continue
        if leaves(path, folder):
            found.append(path)
        elif path.is_file():
            (found if is_readable(path) else other).append(path)
    _warn_of_unread(folder, other)
    return found


def _warn_of_unread(folder: Path, paths: Sequence[Path]) -> None:
    """Name those of some files that nothing reads whose kind is nearly a known one."""
    unread = [path.name for path in paths if suggest(path.suffix, readers_by_suffix())]
    if unread:
        log.warning(
            "%d files of %s look like data and are no known kind: %s",
            len(unread),
            folder,
            unread[:5],
        )


def leaves(path: Path, folder: Path) -> bool:
    """Whether a path leads out of a folder, through a link or `..`."""
    return not path.resolve().is_relative_to(folder.resolve())


def source_of(path: Path, folder: Path | None = None) -> DataSource:
    """A file as a set of rows; with `folder`, it must lie in it."""
    problem = ""
    if folder is not None and leaves(path, folder):
        problem = f"a link that leaves the folder '{folder}' is not followed; copy the file there."
    return DataSource(group_of(path), path, is_test=is_test_file(path), problem=problem)


def _near(path: Path) -> str:
    folder = path.parent
    return suggest(path.name, [each.name for each in folder.iterdir()]) if folder.is_dir() else ""
