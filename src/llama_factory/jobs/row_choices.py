"""Which rows below a folder a run that is begun from a page may be taught."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llama_factory.core.errors import FactoryError
from llama_factory.data.reading import is_readable
from llama_factory.data.sources.files import NOT_ROWS, leaves
from llama_factory.data.sources.named import local_names
from llama_factory.versions.workspace import SETTINGS_FILE

DEEPEST = 4
MOST = 300
NOT_OF_ROWS = frozenset(
    {
        *("versions", "outputs", "jobs", "runs", "quarantine", "review", "feedback", "shadow"),
        *("conversations", "reports", "knowledge", "evaluations", "checkpoints", "node_modules"),
    }
)
"""Folders of a workspace, or of runs, that hold something else."""
USERS = "users.json"
"""Who may log in to the page of a folder."""


@dataclass(frozen=True)
class RowChoices:
    """What can be chosen.

    Attributes:
        paths: files and folders with rows, from the folder.
        named: by folder with a `dataset_info.json` the names whose files are there.
        problems: what of it cannot be read.
    """

    paths: tuple[str, ...]
    named: dict[str, tuple[str, ...]]
    problems: tuple[str, ...] = ()


def row_choices(folder: Path) -> RowChoices:
    """Everything at most `DEEPEST` folders down; files that lie beside a list of them too."""
    paths, named, problems = [], {}, []
    for here in _folders(folder, DEEPEST):
        inner = here.relative_to(folder).as_posix()
        try:
            names = tuple(local_names(here))
        except FactoryError as error:
            problems.append(str(error).replace(f"{folder}{os.sep}", ""))
            names = ()
        if names:
            named[inner] = names
        found = [each for each in _files(here) if may_hold_rows(each, folder)]
        if found and inner != ".":
            paths.append(f"{inner}/")
        paths += [each.relative_to(folder).as_posix() for each in found]
        if len(paths) >= MOST:
            break
    return RowChoices(tuple(paths[:MOST]), named, tuple(problems))


def may_hold_rows(path: Path, folder: Path) -> bool:
    """Whether a path below a folder is one of rows, and not of keys, log-ins, versions or runs."""
    if leaves(path, folder):
        return False
    here = folder
    for part in path.relative_to(folder).parts:
        is_workspace = (here / SETTINGS_FILE).is_file()
        if part.startswith(".") or part in NOT_OF_ROWS:
            return False
        here = here / part
        if is_workspace and not here.is_dir():
            return False  # beside the settings lie keys and log-ins
    return here.is_dir() or (is_readable(here) and here.name not in {*NOT_ROWS, USERS})


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    """The folder and those below it that may hold rows, without links."""
    yield folder
    try:
        entries = sorted(os.scandir(folder), key=lambda each: each.name)
    except OSError:
        return
    for each in entries if depth else ():
        is_other = each.name.startswith(".") or each.name in NOT_OF_ROWS
        if each.is_dir(follow_symlinks=False) and not is_other:
            yield from _folders(Path(each.path), depth - 1)


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(each for each in folder.iterdir() if each.is_file())
    except OSError:
        return []
