"""`dataset_dir` that is no folder: names on a hub themselves, or a `dataset_info.json` on one."""

import json
from collections.abc import Sequence
from pathlib import Path

from llama_factory.core import files
from llama_factory.core.errors import ConfigError

ONLINE = "ONLINE"
"""As dataset_dir: names in `dataset` are those of sets on a hub."""
REMOTE = "REMOTE:"
"""Begins a dataset_dir that is a repository of sets on a hub, with a dataset_info.json."""
DATASET_INFO = "dataset_info.json"


def is_online(dataset_dir: Path) -> bool:
    """Whether names are those of sets on a hub."""
    return str(dataset_dir) == ONLINE


def is_remote(dataset_dir: Path) -> bool:
    """Whether it is a repository."""
    return str(dataset_dir).startswith(REMOTE)


def fetched(dataset_dir: Path, names: Sequence[str]) -> Path:
    """A folder with a repository's dataset_info.json, and the files of some of its sets.

    Args:
        dataset_dir: `REMOTE:OWNER/NAME`.
        names: of the sets.

    Raises:
        ConfigError: it cannot be fetched.
    """
    repository = str(dataset_dir).removeprefix(REMOTE).strip("/")
    folder = files.cache_folder() / "remote_sets" / repository.replace("/", "--")
    _fetch(repository, [DATASET_INFO], folder)
    try:
        entries = json.loads((folder / DATASET_INFO).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"dataset_dir: {dataset_dir} has no {DATASET_INFO} that can be read ({error}). Name a "
            "repository of sets that has one."
        ) from error
    named = [entries.get(name) for name in names]
    wanted = [each["file_name"] for each in named if isinstance(each, dict) and "file_name" in each]
    if wanted:
        _fetch(repository, [pattern for name in wanted for pattern in (name, f"{name}/*")], folder)
    return folder


def _fetch(repository: str, patterns: list[str], folder: Path) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        snapshot_download(
            repository, repo_type="dataset", allow_patterns=patterns, local_dir=folder
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(
            f"dataset_dir: {REMOTE}{repository} could not be fetched ({type(error).__name__}). "
            "Check the name and the connection, or download it and name the folder."
        ) from error
