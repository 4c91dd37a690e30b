"""Datasets that lie on a hub: their rows one by one, and never any code of theirs."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from llama_factory.core import files
from llama_factory.core.errors import DataError, first_line
from llama_factory.core.hubs import modelscope_is_missing
from llama_factory.data.readers import RawRow
from llama_factory.data.readers.arrow import UNKNOWN_SHAPE, ArrowShape, as_written


@dataclass(frozen=True)
class HubSet:
    """Part of a dataset on a hub.

    Attributes:
        repo: its name there, or a local folder laid out the same way.
        split: such as train.
        subset: the configuration, where it has several.
        folder: the folder in it, where it has several.
        revision: a branch, tag or commit; None for the newest.
        is_modelscope: whether it lies on ModelScope rather than Hugging Face.
        content: its commit, or a hash of its files; empty until it was looked up.
    """

    repo: str
    split: str = "train"
    subset: str | None = None
    folder: str | None = None
    revision: str | None = None
    is_modelscope: bool = False
    content: str = ""

    @property
    def place(self) -> str:
        """Where it lies, in words."""
        return "ModelScope" if self.is_modelscope else "Hugging Face"


COMMIT = re.compile(r"[0-9a-f]{40}")
LOOK_UP_SECONDS = 15.0
LISTED_AT_ONCE = 100
"""Files that ModelScope lists at a time."""


def look_up(hub: HubSet) -> str:
    """What a set holds now: its commit, or a hash of its files where the hub names none.

    Raises:
        DataError: the hub cannot be reached, with the reason.
    """
    if Path(hub.repo).is_dir():
        paths = sorted(path for path in Path(hub.repo).rglob("*") if path.is_file())
        return _digest((str(path.relative_to(hub.repo)), files.sha256(path)) for path in paths)
    if COMMIT.fullmatch(hub.revision or ""):
        return str(hub.revision)
    return _digest(_modelscope_files(hub)) if hub.is_modelscope else _hugging_face_commit(hub)


def pinned(
    hub: HubSet, cache: Path, say: Callable[[str], None], look_up: Callable[[HubSet], str] = look_up
) -> HubSet:
    """The set as it is now; where the hub cannot be reached, as it was when last looked up.

    Args:
        hub: with a branch, a tag or nothing as its revision.
        cache: folder that keeps the last state of each set.
        say: shows a message where the last known state is used.
        look_up: identifies the present content of a set; raises DataError where it cannot.
    """
    note = cache / f"hub-{_digest([repr(hub)])}.json"
    try:
        content = look_up(hub)
    except DataError as error:
        if not note.exists():
            return hub
        content = str(files.read_json(note)["content"])
        say(
            f"'{hub.repo}' cannot be looked up on {hub.place} ({error}); it is taken as it was "
            f"when it was read last, at {content[:12]}."
        )
    else:
        files.write_json(note, {"repo": hub.repo, "content": content})
    is_commit = not hub.is_modelscope and COMMIT.fullmatch(content)
    return replace(hub, content=content, revision=content if is_commit else hub.revision)


def _digest(parts: Iterable[Any]) -> str:
    text = "\n".join(map(repr, parts))
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def _hugging_face_commit(hub: HubSet) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # its HTTP client's

    try:
        found = HfApi().dataset_info(hub.repo, revision=hub.revision, timeout=LOOK_UP_SECONDS)
    except (HTTPError, OSError, ValueError) as error:
        raise DataError(first_line(error)) from error
    return str(found.sha)


def _modelscope_files(hub: HubSet) -> Iterator[tuple[Any, ...]]:
    """Path, hash and size of every file."""
    try:
        from modelscope.hub.api import HubApi  # type: ignore[import-not-found]
    except ImportError as error:
        raise DataError(modelscope_is_missing(f"'{hub.repo}'")) from error
    try:
        for page in count(1):
            listed = HubApi().get_dataset_files(
                hub.repo, recursive=True, page_number=page, page_size=LISTED_AT_ONCE
            )
            for file in listed:
                yield tuple(file.get(name) for name in ("Path", "Sha256", "Revision", "Size"))
            if len(listed) < LISTED_AT_ONCE:
                return
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(first_line(error)) from error


def hub_rows(hub: HubSet) -> Iterator[RawRow]:
    """The rows, streamed and counted from 1.

    Raises:
        DataError: it cannot be reached or read.
    """
    import datasets

    try:
        rows = _modelscope(hub) if hub.is_modelscope else _hugging_face(hub)
        features = getattr(rows, "features", None)
        shape = UNKNOWN_SHAPE if features is None else ArrowShape.of(features.arrow_schema)
        for number, row in zip(count(1), rows, strict=False):
            yield RawRow(number, as_written(row, shape))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(_read_error(hub, error)) from error


def _hugging_face(hub: HubSet) -> Iterable[Any]:
    import datasets

    return datasets.load_dataset(
        hub.repo,
        name=hub.subset,
        data_dir=hub.folder,
        split=hub.split,
        revision=hub.revision,
        streaming=True,
    )


def _modelscope(hub: HubSet) -> Iterable[Any]:
    try:
        from modelscope import MsDataset  # type: ignore[import-not-found]
    except ImportError as error:
        raise DataError(modelscope_is_missing(f"'{hub.repo}'")) from error
    return MsDataset.load(
        hub.repo,
        subset_name=hub.subset,
        data_dir=hub.folder,
        split=hub.split,
        version=hub.revision,
        use_streaming=True,
    )


def _read_error(hub: HubSet, error: Exception) -> str:
    part = "".join(f", {n} '{v}'" for n, v in (("subset", hub.subset), ("folder", hub.folder)) if v)
    return (
        f"dataset '{hub.repo}' (split '{hub.split}'{part}) cannot be read from {hub.place}: "
        f"{first_line(error)}. "
        "Check the name and the network; or download it elsewhere, and name the folder in "
        "data.train_path or as file_name in dataset_info.json."
    )
