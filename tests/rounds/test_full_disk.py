"""A disk that is full at any write of a round: nothing is lost, half made, or kept from people.

Every time that a round opens a file for writing, renames one or makes a folder within the workspace
is a place where the disk may be full: for that one moment, or from then on until somebody frees it.
`FAULTS=1` tries each place; otherwise every 29th is tried.
"""

import errno
import os
import shutil
import sys
from pathlib import Path

import pytest

from llama_factory.core.errors import FactoryError
from llama_factory.core.files import read_jsonl
from llama_factory.versions import releases, store, verification
from llama_factory.versions.workspace import Workspace
from tests.rounds.rounds import drop, learn, teach

STRIDE = int(os.environ.get("FAULTS", "29"))
CHANGES = {"os.rename": 1, "os.mkdir": 0, "os.link": 1}
"""Events of changes, and which of their values is the path that is written."""


class Disk:
    """A disk below a folder that is full at the n-th write.

    Attributes:
        folder: what is written elsewhere is not counted.
        num_writes: so far.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.num_writes = 0
        self._full_at: range = range(0)

    def full(self, writes: range) -> None:
        """From now on the disk is full at these writes, the next of which is number 0."""
        self.num_writes, self._full_at = 0, writes

    def hear(self, event: str, values: tuple[object, ...]) -> None:
        """An audit hook: count a write, and fail it where the disk is full."""
        path = _written(event, values)
        if path is None or not path.startswith(self.folder):
            return
        number, self.num_writes = self.num_writes, self.num_writes + 1
        if number in self._full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def _written(event: str, values: tuple[object, ...]) -> str | None:
    if event == "open":
        path, _, flags = values
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        return os.fsdecode(path) if writes and isinstance(path, str | bytes) else None  # type: ignore[arg-type]
    if event in CHANGES:
        path = values[CHANGES[event]]
        return os.fsdecode(path) if isinstance(path, str | bytes) else str(path)
    return None


_DISKS: list[Disk] = []


def _hook(event: str, values: tuple[object, ...]) -> None:
    for disk in _DISKS:
        disk.hear(event, values)


@pytest.fixture
def disk(bot):
    if not getattr(sys, "_has_disk_hook", False):  # a hook stays as long as its process
        sys.addaudithook(_hook)
        sys._has_disk_hook = True  # type: ignore[attr-defined]
    made = Disk(bot.folder)
    _DISKS.append(made)
    yield made
    _DISKS.remove(made)


def taught(workspace: Workspace) -> tuple[list[object], bytes]:
    """The rows and the weights of the production version."""
    version = store.get(workspace, releases.PRODUCTION)
    rows = list(read_jsonl(version.folder / "data" / "train.jsonl"))
    return rows, (version.folder / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("stays", [False, True], ids=["for a moment", "until it is freed"])
def test_at_every_write_of_a_round(bot, disk, stays):
    teach(bot, "faq")
    drop(bot, "news")
    before = bot.folder.with_name("before")
    shutil.copytree(bot.folder, before)
    disk.full(range(0))
    assert learn(bot)[0].is_released
    num_writes, wanted = disk.num_writes, taught(bot)
    assert num_writes > 50
    for number in range(0, num_writes, STRIDE):
        shutil.rmtree(bot.folder)
        shutil.copytree(before, bot.folder)
        disk.full(range(number, 10**9 if stays else number + 1))
        reason = ""
        try:
            learn(bot)
        except FactoryError as error:
            reason = str(error)
            assert os.strerror(errno.ENOSPC) in reason, (number, reason)
        disk.full(range(0))
        assert releases.read(bot.releases).production in ("v0001", "v0002"), number
        learn(bot)
        assert taught(bot) == wanted, (number, reason)
        assert store.ids(bot) == ["v0000", "v0001", "v0002"], (number, reason)
        assert not any(bot.inbox.iterdir()), (number, reason)
        assert not [found for found in verification.verify(bot) if found.problem], (number, reason)
