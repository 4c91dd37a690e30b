"""The folders that people drop files into and find refused rows in."""

import contextlib
import shutil
import time
from collections.abc import Iterable, Mapping
from itertools import count, groupby
from pathlib import Path

from llama_factory.core import files
from llama_factory.data import file_sentences as texts
from llama_factory.data.reading import Refused

SETTLE_SECONDS = 1.0
"""A file changed this recently is looked at twice, to see whether it still grows."""
UNFINISHED = (".part", ".partial", ".tmp", ".crdownload", ".filepart", ".swp", "~")
"""Ends of the names under which programs write files that they rename when they are whole."""


def is_unfinished(name: str) -> bool:
    """Whether a name says that its file is still being written, or is not meant to be read."""
    return name.startswith(".") or name.lower().endswith(UNFINISHED)


def candidates(inbox: Path) -> tuple[list[Path], list[Refused]]:
    """Files that may be read, by name, and what else lies there with the reason why not."""
    root = inbox.resolve()
    readable, notes = [], []
    for path in sorted(path for path in inbox.iterdir() if not is_unfinished(path.name)):
        reason = _why_not(path, root)
        if reason:
            notes.append(Refused(shown(path.name), 0, reason))
        elif path.is_file():
            readable.append(path)
    return readable, notes


def shown(name: str) -> str:
    """A name as a line of text: what breaks lines or turns them around is escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def _why_not(path: Path, root: Path) -> str:
    try:
        path.name.encode()
    except UnicodeEncodeError:
        return texts.NAME_ENCODING()
    try:
        if not path.resolve().is_relative_to(root):
            return texts.LINK_OUTSIDE()
    except (OSError, RuntimeError):
        return texts.LINK_CIRCLE()
    return texts.FOLDER_IN_INBOX() if path.is_dir() else ""


def arrived(inbox: Path) -> tuple[list[Path], list[Refused]]:
    """Files that are complete, and those left for later or refused with the reason."""
    readable, notes = candidates(inbox)
    growing = _growing(readable)
    notes += [Refused(shown(p.name), 0, texts.GROWING()) for p in growing]
    return [p for p in readable if p not in growing], notes


def _growing(paths: Iterable[Path]) -> list[Path]:
    recent = [path for path in paths if time.time() - _state(path)[-1] / 1e9 < SETTLE_SECONDS]
    if not recent:
        return []
    before = {path: _state(path) for path in recent}
    time.sleep(SETTLE_SECONDS / 2)
    return [path for path, state in before.items() if _state(path) != state]


def _state(path: Path) -> files.Stamp:
    """Which file this is, its size and its time in ns; zeros where it is gone."""
    try:
        return files.stamp(path.stat())
    except FileNotFoundError:
        return 0, 0, 0


def take_copies(paths: Iterable[Path], folder: Path) -> tuple[dict[str, str], list[Refused]]:
    """Copy files as they are now; the copies are what a round reads, keeps and answers for.

    Args:
        paths: files of the inbox.
        folder: gets the copies.

    Returns:
        SHA-256 of each copy by name; and the files that changed meanwhile, which wait.
    """
    folder.mkdir(parents=True, exist_ok=True)
    taken: dict[str, str] = {}
    changed: list[Refused] = []
    for path in paths:
        copy = folder / path.name
        before = _state(path)
        with contextlib.suppress(FileNotFoundError):
            shutil.copy2(path, copy)
        if copy.exists() and _state(path) == before:
            taken[path.name] = files.sha256(copy)
        else:
            copy.unlink(missing_ok=True)
            changed.append(Refused(path.name, 0, texts.CHANGING()))
    return taken, changed


def quarantine(refused: Iterable[Refused], copies: Path, folder: Path) -> None:
    """Add refused rows to `FILE.rows.jsonl` and refused files as they are, each with its reason.

    Doing it twice changes nothing, and what lies there of earlier rounds stays: people mend it.

    Args:
        refused: rows, and files (line 0).
        copies: where the round's copies of the files are.
        folder: the quarantine.
    """
    for (name, is_file), items in groupby(refused, key=lambda item: (item.file, item.line == 0)):
        if is_file:
            _keep_file(copies / name, folder, next(items).reason)
        else:
            path = folder / f"{name}.rows.jsonl"
            known = list(files.read_jsonl(path))
            listed = ({"line": i.line, "reason": i.reason, "row": i.text} for i in items)
            files.write_jsonl(path, [*known, *(row for row in listed if row not in known)])


def _keep_file(copy: Path, folder: Path, reason: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / copy.name
    if copy.is_file():
        target = _free_name(target, files.sha256(copy))
        if not target.exists():
            shutil.copy2(copy, target)
    files.write_text(target.with_name(f"{target.name}.reason.txt"), reason + "\n")


def _free_name(path: Path, digest: str) -> Path:
    """The path itself, or with a number after its name where another file is called so."""
    name, dot, suffixes = path.name.partition(".")
    names = (f"{name}-{number}{dot}{suffixes}" for number in count(2))
    while path.exists() and files.sha256(path) != digest:
        path = path.with_name(next(names))
    return path


def clear(inbox: Path, taken: Mapping[str, str], parked: Path | None) -> None:
    """Take files that were learned out of the inbox, unless they changed since.

    They are not deleted but moved: a program that has one of them open may write more. `settle`
    finds that out later.

    Args:
        inbox: the folder that people drop files into.
        taken: SHA-256 by name.
        parked: where they go, on the same disk; None deletes them, where they may not be kept.
    """
    for name, digest in taken.items():
        path = inbox / name
        if not path.is_file() or files.sha256(path) != digest:
            continue
        if parked is None:
            path.unlink()
        else:
            (parked / digest).mkdir(parents=True, exist_ok=True)
            path.replace(parked / digest / name)


def settle(inbox: Path, parked: Path) -> list[str]:
    """Delete what `clear` has moved away; a file that grew after that comes back into the inbox.

    One whose name another file has by now waits until that one was learned.

    Returns:
        Names of the files that came back.
    """
    back = []
    for path in sorted(parked.glob("*/*")):
        if files.sha256(path) == path.parent.name:
            path.unlink()
        elif not (inbox / path.name).exists():
            path.replace(inbox / path.name)
            back.append(path.name)
    for folder in parked.glob("*"):
        if not any(folder.iterdir()):
            folder.rmdir()
    return back
