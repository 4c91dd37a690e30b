"""Datasets that lie on a hub: their rows one by one, and never any code of theirs."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

from llama_factory.core.errors import DataError
from llama_factory.data.readers import RawRow
from llama_factory.data.readers.columns import UNKNOWN, Shape, as_written


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
    """

    repo: str
    split: str = "train"
    subset: str | None = None
    folder: str | None = None
    revision: str | None = None
    is_modelscope: bool = False


def hub_rows(hub: HubSet) -> Iterator[RawRow]:
    """The rows, streamed and counted from 1.

    Raises:
        DataError: it cannot be reached or read.
    """
    import datasets

    try:
        rows = _modelscope(hub) if hub.is_modelscope else _hugging_face(hub)
        features = getattr(rows, "features", None)
        shape = UNKNOWN if features is None else Shape.of(features.arrow_schema)
        for number, row in zip(count(1), rows, strict=False):
            yield RawRow(number, as_written(row, shape))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(_told(hub, error)) from error


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
        raise DataError(
            f"'{hub.repo}' lies on ModelScope, and the package that reads it is missing. Do "
            "`pip install modelscope`, or unset USE_MODELSCOPE_HUB to use Hugging Face."
        ) from error
    return MsDataset.load(
        hub.repo,
        subset_name=hub.subset,
        data_dir=hub.folder,
        split=hub.split,
        version=hub.revision,
        use_streaming=True,
    )


def _told(hub: HubSet, error: Exception) -> str:
    place = "ModelScope" if hub.is_modelscope else "Hugging Face"
    part = "".join(f", {n} '{v}'" for n, v in (("subset", hub.subset), ("folder", hub.folder)) if v)
    first = str(error).strip().split("\n")[0][:300].rstrip(".")
    return (
        f"dataset '{hub.repo}' (split '{hub.split}'{part}) cannot be read from {place}: {first}. "
        "Check the name and the network; or download it elsewhere, and name the folder in "
        "data.train_path or as file_name in dataset_info.json."
    )
