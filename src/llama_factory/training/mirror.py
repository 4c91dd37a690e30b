"""Copies of checkpoints elsewhere (s3, gs, oss, a folder), for machines whose disk may vanish.

`training.checkpoint_mirror` names the place in the way of fsspec. Each run has a folder of its own
there. Object stores rename nothing atomically, so `state.json`, which holds the hashes of the other
files, is written last: a checkpoint without it does not exist.
"""

import contextlib
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from llama_factory.core import files
from llama_factory.core.errors import ConfigError
from llama_factory.core.progress import Progress

STATE = "state.json"
"""The file of a checkpoint, here and there, that tells whether the others are whole."""
KEPT = 2
"""Newest checkpoints that stay, on the disk and in the copy: the second saves the day if the first
is damaged."""


class Mirror(Protocol):
    """Where checkpoints are copied to."""

    def send(self, checkpoint: Path) -> None:
        """Copy a checkpoint beside the training; one that still waits is passed over for it."""

    def fetch(self, folder: Path) -> None:
        """Put the newest copy of this run into the folder of checkpoints, if there is one."""


class NoMirror:
    """Nothing is copied."""

    def send(self, checkpoint: Path) -> None:
        """Nothing happens."""

    def fetch(self, folder: Path) -> None:
        """Nothing happens."""


@contextlib.contextmanager
def mirrored(address: str, run: str, progress: Progress) -> Iterator[Mirror]:
    """The mirror of a run; what is under way is copied to its end when this ends.

    Args:
        address: a folder, or an address that fsspec knows; empty for none.
        run: identifies the run, the name of its folder there.
        progress: is told where copies fail; training goes on without them.

    Raises:
        ConfigError: the address needs a package that is not installed, or cannot be read.
    """
    if not address:
        yield NoMirror()
        return
    mirror = FsspecMirror(address, run, progress)
    try:
        yield mirror
    finally:
        mirror.close()


def require_mirror(address: str) -> None:
    """Refuse an address that fsspec cannot open on this machine.

    Raises:
        ConfigError: with the package that is missing, or what is wrong with the address.
    """
    if address:
        _open(address)


class FsspecMirror:
    """Copies through fsspec; one thread, one copy at a time."""

    def __init__(self, address: str, run: str, progress: Progress) -> None:
        self._files, root = _open(address)
        self._root = f"{root.rstrip('/')}/{run}"
        self._address = address
        self._progress = progress
        self._waiting: Path | None = None
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._thread.start()

    def send(self, checkpoint: Path) -> None:
        """See `Mirror`."""
        with self._changed:
            self._waiting = checkpoint
            self._changed.notify()

    def fetch(self, folder: Path) -> None:
        """See `Mirror`.

        Raises:
            ConfigError: the place cannot be read.
        """
        try:
            for name in self._steps():
                if self._files.exists(f"{self._root}/{name}/{STATE}"):
                    self._get(name, folder)
                    return
        except Exception as error:  # each kind of store raises its own
            raise ConfigError(
                f"training.checkpoint_mirror: {self._address} cannot be read ({_short(error)}). "
                "Check the address and the rights, or leave it out to begin anew."
            ) from error

    def close(self) -> None:
        """Copy what waits, then end."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _get(self, name: str, folder: Path) -> None:
        """Only a whole copy gets its name; `checkpoints` compares its hashes before it is used."""
        temporary = folder / f".{name}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for path in self._files.find(f"{self._root}/{name}"):
            relative = str(path).rpartition(f"/{name}/")[2]
            if "/" not in relative and relative not in ("", ".", ".."):
                self._files.get_file(path, str(temporary / relative))
        shutil.rmtree(folder / name, ignore_errors=True)
        files.publish(temporary, folder / name)
        self._progress.say(f"Fetched {name} from {self._address}.")

    def _steps(self) -> list[str]:
        """Names of the copies, the newest first."""
        if not self._files.exists(self._root):
            return []
        self._files.invalidate_cache(self._root)
        names = {
            str(path).rstrip("/").rpartition("/")[2] for path in self._files.ls(self._root, False)
        }
        return sorted((name for name in names if name.startswith("step-")), reverse=True)

    def _work(self) -> None:
        while True:
            with self._changed:
                while self._waiting is None and not self._is_closed:
                    self._changed.wait()
                checkpoint, self._waiting = self._waiting, None
            if checkpoint is None:
                return
            try:
                self._put(checkpoint)
            except Exception as error:  # noqa: BLE001  # a copy that fails must not end the training
                if checkpoint.exists():  # else a newer one took its place on the disk
                    self._progress.say(
                        f"{checkpoint.name} could not be copied to {self._address}: "
                        f"{_short(error)}."
                    )

    def _put(self, checkpoint: Path) -> None:
        target = f"{self._root}/{checkpoint.name}"
        names = sorted(path.name for path in checkpoint.iterdir() if path.is_file())
        self._files.makedirs(target, exist_ok=True)
        for name in sorted(names, key=lambda name: name == STATE):
            self._files.put_file(str(checkpoint / name), f"{target}/{name}")
        for old in self._steps()[KEPT:]:
            self._files.rm(f"{self._root}/{old}", recursive=True)


def _open(address: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        opened: tuple[Any, str] = url_to_fs(address)
    except (ImportError, ValueError, OSError) as error:
        raise ConfigError(
            f"training.checkpoint_mirror: {address} cannot be used: {_short(error)}. Write a "
            "folder, or an address as s3://bucket/folder; install the package that fsspec names."
        ) from error
    return opened


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]} ..."
