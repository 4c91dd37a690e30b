"""A version and all that it was made from as one file, which another workspace can take in.

The file is a tar, compressed by zstandard: `archive.json` first, then the folders of the versions.
A version means nothing without its parents (their held-out rows are its old tasks, their adapters
its history), so the whole lineage goes into the file, and only what is missing comes out of it.
What is read is not trusted: plain files with relative names alone, no more bytes than announced,
all checksums compared before anything appears under its name.
"""

import io
import json
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import zstandard

from llama_factory.core import files
from llama_factory.core.errors import VersionError
from llama_factory.core.ownership import owned
from llama_factory.core.progress import SILENT, Bar, Progress
from llama_factory.core.types import BASE_VERSION
from llama_factory.versions import store
from llama_factory.versions.releases import VERSION_ID
from llama_factory.versions.version import ModelVersion, number_of
from llama_factory.versions.workspace import Workspace

HEADER = "archive.json"
FORMAT = 1
MOST_FILES = 100_000
MOST_HEADER = 10_000_000
"""Bytes of the header, which lists the versions."""
LEVEL = 3
"""Of zstandard: weights hardly shrink at any level, and rows do at the lowest."""
DAMAGED = (tarfile.TarError, zstandard.ZstdError, ValueError, TypeError, KeyError, EOFError)


@dataclass(frozen=True)
class Taken:
    """What came out of an archive.

    Attributes:
        version: the id of the version that was packed.
        added: ids of the versions that were missing here, oldest first.
        known: ids of those that were here already, the same byte by byte.
    """

    version: str
    added: tuple[str, ...]
    known: tuple[str, ...]


def pack(workspace: Workspace, name: str, path: Path, progress: Progress = SILENT) -> list[str]:
    """Write a version and its lineage into one file, atomically.

    Args:
        workspace: whose version.
        name: id or alias.
        path: the new file.
        progress: shows how far it is.

    Returns:
        The ids that are in it, oldest first.

    Raises:
        VersionError: the file exists, or a version is damaged.
    """
    if path.exists():
        raise VersionError(f"{path} exists. Give a new file's name.")
    version = store.get(workspace, name)
    base = ModelVersion.read(workspace.versions / BASE_VERSION)
    lineage = [base, *store.lineage(version)]
    for each in lineage:
        each.verify()
    header = {
        "format": FORMAT,
        "version": version.id,
        "base_model": version.base_model,
        "versions": [{"id": each.id, "bytes": files.num_bytes(each.folder)} for each in lineage],
    }
    with (
        files.writing(path) as file,
        zstandard.ZstdCompressor(LEVEL).stream_writer(file, closefd=False) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        _add_bytes(tar, HEADER, json.dumps(header).encode())
        with progress.bar("Packing versions", len(lineage)) as bar:
            for each in lineage:
                _add_folder(tar, each)
                bar.advance(note=each.id)
    return [each.id for each in lineage]


def unpack(workspace: Workspace, path: Path, progress: Progress = SILENT) -> Taken:
    """Take the versions of an archive into a workspace; those that are here already stay.

    Nothing is released. Versions appear oldest first, each whole and checked.

    Args:
        workspace: takes them.
        path: the archive.
        progress: shows how far it is.

    Raises:
        VersionError: the file is damaged or not an archive; it holds something other than it
            announces; a version of the same id is another one here; or the base model is another.
    """
    place = workspace.versions / ".arriving"
    with (
        owned(workspace.lock, what="taking in versions"),
        files.reporting_full_disk(workspace.folder, what="versions are taken in"),
    ):
        shutil.rmtree(place, ignore_errors=True)
        try:
            header = _unpack_all(path, place, progress)
            return _settle(workspace, header, place)
        finally:
            shutil.rmtree(place, ignore_errors=True)


def base_model_of(path: Path) -> str:
    """The base model of the versions in an archive.

    Raises:
        VersionError: the file is damaged or no archive.
    """
    with _reading(path) as tar:
        return str(_read_header(tar, tar.next())["base_model"])


def _unpack_all(path: Path, place: Path, progress: Progress) -> dict[str, Any]:
    with _reading(path) as tar:
        header = _read_header(tar, tar.next())
        total = sum(int(each["bytes"]) for each in header["versions"])
        files.require_space(place.parent, total, what="the archive")
        with progress.bar("Unpacking bytes", total) as bar:
            _extract(tar, header, place, bar)
    return header


@contextmanager
def _reading(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with (
            path.open("rb") as file,
            zstandard.ZstdDecompressor().stream_reader(file) as unpacked,
            tarfile.open(fileobj=unpacked, mode="r|") as tar,
        ):
            yield tar
    except (FileNotFoundError, IsADirectoryError):
        raise VersionError(f"{path}: there is no such file.") from None
    except DAMAGED as error:
        raise VersionError(
            f"{path} is damaged or no archive of versions ({error}). Nothing was taken from it. "
            "Make it anew: llama-factory pack WORKSPACE VERSION FILE"
        ) from error


def _read_header(tar: tarfile.TarFile, member: tarfile.TarInfo | None) -> dict[str, Any]:
    if member is None or member.name != HEADER or member.size > MOST_HEADER:
        raise ValueError(f"it does not begin with {HEADER}")
    content = tar.extractfile(member)
    header: dict[str, Any] = json.loads(content.read() if content else b"")
    if header["format"] != FORMAT:
        raise ValueError(f"its format is {header['format']} and this program reads {FORMAT}")
    ids = [each["id"] for each in header["versions"]]
    if not ids or not all(isinstance(each, str) and VERSION_ID.fullmatch(each) for each in ids):
        raise ValueError(f"it announces the versions {ids}")
    if ids != sorted(set(ids), key=number_of) or ids[-1] != header["version"]:
        raise ValueError(f"it announces {ids} for {header['version']}")
    return header


def _extract(
    tar: tarfile.TarFile,
    header: dict[str, Any],
    place: Path,
    bar: Bar,
) -> None:
    """Write the announced files below a folder.

    Raises:
        ValueError: a name leaves the folder, something is no plain file, or there is more of it
            than announced.
    """
    left = {each["id"]: int(each["bytes"]) for each in header["versions"]}
    for number, member in enumerate(iter(tar.next, None)):
        name = PurePosixPath(member.name)
        is_inside = len(name.parts) > 1 and ".." not in name.parts and not name.is_absolute()
        if not is_inside or name.parts[0] not in left or "\\" in member.name or "\0" in member.name:
            raise ValueError(f"it holds {member.name!r}, which is no file of its versions")
        if not member.isreg():
            raise ValueError(f"{member.name!r} is no plain file")
        left[name.parts[0]] -= member.size
        if left[name.parts[0]] < 0 or number >= MOST_FILES:
            raise ValueError(f"{name.parts[0]} holds more than announced")
        content = tar.extractfile(member)
        target = place.joinpath(*name.parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            shutil.copyfileobj(content or io.BytesIO(), file)
        bar.advance(member.size, name.parts[0])


def _settle(workspace: Workspace, header: dict[str, Any], place: Path) -> Taken:
    arrived = [ModelVersion.read(place / each["id"]) for each in header["versions"]]
    for version in arrived:
        version.verify()
    known = [each for each in arrived if (workspace.versions / each.id).exists()]
    for version in known:
        _require_same(workspace, version)
    new = [each for each in arrived if each not in known]
    for version in new:
        if not (workspace.versions / version.parent).exists() and version.parent not in {
            each.id for each in new
        }:
            raise VersionError(f"{version.id} was made from {version.parent}, which is not there.")
    for version in new:
        files.publish(version.folder, workspace.versions / version.id)
    return Taken(header["version"], _ids(new), _ids(known))


def _require_same(workspace: Workspace, version: ModelVersion) -> None:
    own = ModelVersion.read(workspace.versions / version.id)
    if version.is_base:
        if own.base_model != version.base_model:
            raise VersionError(
                f"the archive's base model is {version.base_model} and that of {workspace.folder} "
                f"is {own.base_model}. Take it into a workspace of the same base model."
            )
        return
    if own.files != version.files:
        raise VersionError(
            f"{version.id} of the archive is another version than {own.folder}. Take it into a "
            "new workspace: llama-factory init NEW --model "
            f"{version.base_model}, then llama-factory unpack NEW ARCHIVE"
        )


def _ids(versions: Sequence[ModelVersion]) -> tuple[str, ...]:
    return tuple(version.id for version in versions)


def _add_folder(tar: tarfile.TarFile, version: ModelVersion) -> None:
    for path in sorted(version.folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(version.folder).as_posix()
            tar.add(path, f"{version.id}/{name}", filter=_plain)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """A member without who and where it came from."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member


def _add_bytes(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
