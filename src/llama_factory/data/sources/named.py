"""Settings -> the sets of rows that they name: paths, entries of a `dataset_info.json`, names.

The well-known names are those of `named.yaml`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from llama_factory.core.errors import ConfigError, DataError, suggest
from llama_factory.core.hubs import prefers_modelscope
from llama_factory.data import entry_sentences
from llama_factory.data.formats import Layout
from llama_factory.data.settings import DataSettings
from llama_factory.data.sources import remote
from llama_factory.data.sources.files import DataSource, find_sources, leaves
from llama_factory.data.sources.hub import HubSet

DATASET_INFO = "dataset_info.json"
ENTRY_FIELDS = frozenset(
    {
        *("file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "cloud_file_name", "script_url"),
        *("formatting", "ranking", "subset", "split", "folder", "num_samples", "revision"),
        *("columns", "tags", "file_sha1"),
    }
)
MAX_LISTED = 5


def gather(settings: DataSettings) -> list[DataSource]:
    """All sets to train on and to test on.

    Raises:
        ConfigError: none is named, or one is not there.
        DataError: one cannot be read.
    """
    train = _sources("data.train_path", settings.train_path, settings.dataset, settings)
    if not train:
        raise ConfigError(
            "data.train_path is not given: name the file or folder to train on, or name sets in "
            "data.dataset."
        )
    tests = _sources("data.eval_path", settings.eval_path, settings.eval_dataset, settings)
    return [*train, *(replace(each, is_test=True) for each in tests)]


def gather_tests(settings: DataSettings) -> list[DataSource]:
    """The sets to test on; where none are named, those that are named to train on."""
    tests = _sources("data.eval_path", settings.eval_path, settings.eval_dataset, settings)
    return tests or gather(settings)


def gather_path(path: Path, settings: DataSettings) -> list[DataSource]:
    """The sets in a file or folder; a `dataset_info.json` in it says how its files are laid out."""
    found = find_sources(path, setting="PATH")
    if (path / DATASET_INFO).is_file():
        named = named_sources(local_names(path), path)
        described = {each.path for each in named}
        found = [*named, *(each for each in found if each.path not in described)]
    return _encoded(found, settings)


def has_tests(settings: DataSettings) -> bool:
    """Whether rows to test on are given, so that no training row is held out."""
    return bool(settings.eval_path or settings.eval_dataset)


def _sources(
    setting: str, path: Path | None, names: list[str], settings: DataSettings
) -> list[DataSource]:
    found = find_sources(path, setting=setting) if path else []
    found += named_sources(names, settings.dataset_dir) if names else []
    return _encoded(found, settings)


def _encoded(sources: list[DataSource], settings: DataSettings) -> list[DataSource]:
    if settings.encoding is None:
        return sources
    return [replace(each, encoding=settings.encoding) for each in sources]


def named_sources(names: Sequence[str], dataset_dir: Path) -> list[DataSource]:
    """The sets of these names.

    Args:
        names: from the `dataset_info.json` in `dataset_dir`, or well-known ones.
        dataset_dir: also the folder of the files that it names; see `remote` for what else it may
            be.

    Raises:
        ConfigError: there is none of a name, or its entry is wrong.
        DataError: its file is missing or lies outside the folder.
    """
    if remote.is_online(dataset_dir):
        return [
            DataSource(name, hub=_hub({"hf_hub_url": name, "ms_hub_url": name})) for name in names
        ]
    if remote.is_remote(dataset_dir):
        dataset_dir = remote.fetched(dataset_dir, names)
    entries = _entries(dataset_dir)
    return [_source(name, entries, dataset_dir) for name in names]


def local_names(dataset_dir: Path) -> list[str]:
    """The names in a folder's `dataset_info.json` whose files are there."""
    return [
        name
        for name, entry in _entries(dataset_dir).items()
        if _is_local(entry) and (dataset_dir / str(entry.get("file_name"))).exists()
    ]


@cache
def well_known() -> Mapping[str, Mapping[str, Any]]:
    """Sets that people call by their names, as entries of a `dataset_info.json`."""
    text = files("llama_factory.data.sources").joinpath("named.yaml").read_text(encoding="utf-8")
    entries: dict[str, dict[str, Any]] = {}
    for kind in yaml.safe_load(text):
        shared = {name: value for name, value in kind.items() if name != "sets"}
        for name, place in kind["sets"].items():
            own = {"hf_hub_url": place} if isinstance(place, str) else place
            entries[name] = shared | own
    return entries


def _entries(dataset_dir: Path) -> dict[str, Any]:
    """What `dataset_info.json` says; nothing where there is none."""
    path = dataset_dir / DATASET_INFO
    if not path.exists():
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path}:{error.lineno}: not valid JSON ({error.msg}, column {error.colno})."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}). Save it as UTF-8.") from None
    if not isinstance(entries, dict):
        raise ConfigError(f"{path}: {entry_sentences.NO_ENTRIES()}")
    return entries


def _source(name: str, entries: Mapping[str, Any], dataset_dir: Path) -> DataSource:
    path = dataset_dir / DATASET_INFO
    entry = entries.get(name, well_known().get(name))
    if entry is None:
        raise ConfigError(_unknown(name, entries, path))
    place = f"{path}{_line_of(name, path)}: '{name}'"
    try:
        _check_fields(entry)
        layout = Layout.of(entry)
        num_samples = _count(entry, "num_samples")
        if _is_local(entry):
            file = _file(entry, dataset_dir)
            return DataSource(
                name, file, layout=layout, num_samples=num_samples, picture_folder=dataset_dir
            )
        hub = _hub(entry)
    except DataError as error:
        raise DataError(f"{place}: {error}") from None
    return DataSource(name, hub=hub, layout=layout, num_samples=num_samples)


def _unknown(name: str, entries: Mapping[str, Any], path: Path) -> str:
    known = [*entries, *well_known()]
    hint = suggest(name, known)
    listed = ", ".join(list(entries)[:MAX_LISTED]) + (", ..." if len(entries) > MAX_LISTED else "")
    if not path.exists():
        return f"there is no {path}, and dataset '{name}' is no well-known one.{hint}"
    return f"dataset '{name}' is not in {path}, and no well-known one.{hint} It has: {listed}."


def _line_of(name: str, path: Path) -> str:
    """Where an entry begins, as `:12`."""
    if not path.exists():
        return ""
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    key = json.dumps(name, ensure_ascii=False)
    return next((f":{i}" for i, line in enumerate(lines, 1) if line.strip().startswith(key)), "")


def _check_fields(entry: Any) -> None:
    if not isinstance(entry, dict):
        raise DataError(entry_sentences.NO_OBJECT())
    for field in entry:
        if field not in ENTRY_FIELDS:
            known = ", ".join(sorted(ENTRY_FIELDS))
            hint = suggest(field, ENTRY_FIELDS)
            raise DataError(entry_sentences.UNKNOWN(name=field, hint=hint, known=known))


def _is_local(entry: Any) -> bool:
    """Whether an entry names a file; a hub comes first, as in LLaMA-Factory."""
    return isinstance(entry, dict) and not {"hf_hub_url", "ms_hub_url", "script_url"} & set(entry)


def _text(entry: Mapping[str, Any], field: str) -> str | None:
    value = entry.get(field)
    if value is not None and not isinstance(value, str):
        raise DataError(entry_sentences.VALUE_NO_TEXT(field=field, value=repr(value)))
    return value


def _count(entry: Mapping[str, Any], field: str) -> int | None:
    value = entry.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DataError(entry_sentences.NO_COUNT(field=field, value=repr(value)))
    return value


def _file(entry: Mapping[str, Any], dataset_dir: Path) -> Path:
    name = _text(entry, "file_name")
    if not name:
        where = "; only Hugging Face and ModelScope are read" if "om_hub_url" in entry else ""
        raise DataError(entry_sentences.NO_FILE(where=where))
    path = dataset_dir / name
    if leaves(path, dataset_dir):
        raise DataError(entry_sentences.OUTSIDE(name=name, folder=dataset_dir))
    if not path.exists():
        near = [each.name for each in dataset_dir.iterdir() if not each.name.startswith(".")]
        hint = suggest(name, near)
        raise DataError(entry_sentences.MISSING(name=name, folder=dataset_dir, hint=hint))
    return path


def _hub(entry: Mapping[str, Any]) -> HubSet:
    hugging_face, modelscope = _text(entry, "hf_hub_url"), _text(entry, "ms_hub_url")
    if not hugging_face and not modelscope:
        raise DataError(entry_sentences.PROGRAM())
    is_modelscope = not hugging_face or (modelscope is not None and prefers_modelscope())
    return HubSet(
        (modelscope if is_modelscope else hugging_face) or "",
        split=_text(entry, "split") or "train",
        subset=_text(entry, "subset"),
        folder=_text(entry, "folder"),
        revision=None if is_modelscope else _text(entry, "revision"),
        is_modelscope=is_modelscope,
    )
