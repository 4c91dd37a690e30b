"""States of rows on disk: a safetensors file a row, up to a bound; what is lost is computed again.

Several processes may read and write one folder: a file appears whole under its name, and one that
another process removed is missing, no more.
"""

import contextlib
import logging
import os
import threading
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llama_factory.core import files
from llama_factory.model.tensor_files import write_tensors

NAME = "states"
CHECKSUM = "crc32"
END = ".safetensors"

logger = logging.getLogger(__name__)


class StateStore:
    """The files of one folder, of whatever network and run.

    Args:
        folder: of all files.
        most_bytes: that they may take; those that were used longest ago leave first. None that is
            used in this run leaves: where they alone fill the bound, what comes later is not kept.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._guard = threading.Lock()
        self._old = self._scanned()
        self._used: dict[str, int] = {}
        self._num_bytes = sum(size for size, _ in self._old.values())
        self._is_broken = False
        with self._guard:
            self._make_room(0)

    @property
    def num_bytes(self) -> int:
        """That all files take."""
        return self._num_bytes

    def get(self, name: str) -> Tensor | None:
        """What was kept under a name; None where nothing is, or where it is damaged."""
        path = self._folder / name
        try:
            states = _read(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, SafetensorError) as error:
            logger.warning("%s is damaged (%s): it is computed again.", path, error)
            path.unlink(missing_ok=True)
            with self._guard:
                self._forget(name)
            return None
        with self._guard:
            self._use(name, path)
        return states

    def put(self, name: str, states: Tensor) -> None:
        """Keep states under a name, where there is room; a full disk ends the keeping."""
        size = states.numel() * states.element_size()
        with self._guard:
            if self._is_broken or name in self._used or not self._make_room(size):
                return
            self._used[name] = size
            self._num_bytes += size
        path = self._folder / name
        temporary = files.temporary_beside(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_tensors(temporary, {NAME: states}, metadata={CHECKSUM: str(_checksum(states))})
            temporary.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            self._is_broken = True
            logger.warning(
                "%s: states of rows cannot be kept (%s), so they are computed whenever they are "
                "needed. Results stay the same.",
                self._folder,
                error,
            )

    def _scanned(self) -> OrderedDict[str, tuple[int, float]]:
        """Size and time of every file, by name, the one used longest ago first."""
        found = []
        for path in self._folder.rglob(f"*{END}"):
            try:
                state = path.stat()
            except FileNotFoundError:  # another process removed it
                continue
            name = path.relative_to(self._folder).as_posix()
            found.append((state.st_mtime, name, state.st_size))
        return OrderedDict((name, (size, at)) for at, name, size in sorted(found))

    def _use(self, name: str, path: Path) -> None:
        if name in self._old:
            self._used[name] = self._old.pop(name)[0]
            with contextlib.suppress(OSError):  # another process may have removed it
                os.utime(path)

    def _forget(self, name: str) -> None:
        size = self._old.pop(name, (0, 0.0))[0] + self._used.pop(name, 0)
        self._num_bytes -= size

    def _make_room(self, size: int) -> bool:
        """Remove what was used longest ago; whether so many bytes fit now."""
        while self._num_bytes + size > self._most_bytes and self._old:
            name, (old_size, _) = self._old.popitem(last=False)
            (self._folder / name).unlink(missing_ok=True)
            self._num_bytes -= old_size
        return self._num_bytes + size <= self._most_bytes


def _read(path: Path) -> Tensor:
    opener: Any = safe_open
    with opener(path, framework="pt") as file:
        states: Tensor = file.get_tensor(NAME)
        expected = (file.metadata() or {}).get(CHECKSUM)
    if str(_checksum(states)) != expected:
        raise ValueError("its checksum differs")
    return states


def _checksum(states: Tensor) -> int:
    return zlib.crc32(states.contiguous().reshape(-1).view(torch.uint8).numpy().data)
