"""One immutable version of a model, as it lies on disk."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import deserialize

from llama_factory.core import files
from llama_factory.core.errors import VersionError
from llama_factory.core.sentences import kind_of_sentence as kind
from llama_factory.core.types import BASE_VERSION, EvalReport, Example, Memory, Task, tasks_by_group
from llama_factory.model.provenance import ADAPTER_FILE, WEIGHTS_FILE
from llama_factory.versions import memory as memory_files
from llama_factory.versions.releases import VERSION_ID

CHANGED = kind(
    "problem.version_changed",
    "{folder}: {file} is missing or was changed since the version was made, so the "
    "version is not used. Restore the file from a backup, or roll back to another "
    "version.",
)
DAMAGED = kind(
    "problem.version_damaged",
    "{path} is missing or damaged ({what}), so this version is not used. Restore it from "
    "a backup, or roll back to another version.",
)
CANNOT_ANSWER = kind(
    "problem.version_cannot_answer",
    "{folder}: {what}, so it cannot answer and is not released. Restore it from a "
    "backup, or choose another version: llama-factory versions.",
)

MANIFEST = "manifest.json"
REPORT = "report.json"
MEMORY = "memory"
SETTINGS = "run.yaml"
"""The settings that a version was made with."""
KEPT_ROWS = f"{MEMORY}/{memory_files.ROWS}"
FLOATS = {
    "F64": (np.uint64, 0x7FF0_0000_0000_0000),
    "F32": (np.uint32, 0x7F80_0000),
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
}
"""By safetensors' name of a number format: how its bits are stored, and those of its exponent."""


@dataclass(frozen=True)
class ModelVersion:
    """A folder `versions/vNNNN` that never changes after it appears.

    Attributes:
        id: `v0007`; `v0000` is the untouched base model.
        parent: the version it was trained from; the base version is its own parent.
        created: UTC time, ISO 8601.
        base_model: name of the base model.
        base_fingerprint: identifies the base model's files.
        data_fingerprint: identifies the rows that were taught.
        num_rows: rows taught in this round.
        folder: where it lies.
        files: SHA-256 of every file by path, without the manifest.
    """

    id: str
    parent: str
    created: str
    base_model: str
    base_fingerprint: str
    data_fingerprint: str
    num_rows: int
    folder: Path
    files: dict[str, str]

    @property
    def is_base(self) -> bool:
        """Whether this is the untouched base model."""
        return self.id == BASE_VERSION

    @property
    def adapter(self) -> Path | None:
        """The PEFT folder; the base version has none."""
        folder = self.folder / "adapter"
        return folder if folder.exists() else None

    @property
    def report(self) -> dict[str, Any]:
        """What report.json holds.

        Raises:
            VersionError: it is missing or damaged.
        """
        path = self.folder / REPORT
        try:
            values: dict[str, Any] = dict(files.read_json(path))
        except (OSError, ValueError, TypeError) as error:
            raise _damaged(path, error) from error
        return values

    @property
    def scores(self) -> EvalReport:
        """The evaluation in the report.

        Raises:
            VersionError: the report is missing or damaged.
        """
        try:
            return EvalReport.from_json(self.report["evaluation"])
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(self.folder / REPORT, error) from error

    @property
    def memory(self) -> Memory:
        """What the strategies kept."""
        return memory_files.load(self.folder / MEMORY)

    def tasks(self) -> tuple[Task, ...]:
        """The held-out rows this round brought, one task a group."""
        rows = files.read_jsonl(self.folder / "data/held_out.jsonl")
        return tasks_by_group(self.id, map(Example.from_json, rows))

    def verify(self, *, leave_out: str = "") -> None:
        """Compare every file with its checksum, but for one that is left out.

        Rows in memory may be changed: each has a hash of its own, and the strategy that kept it
        leaves it out.

        Raises:
            VersionError: a file is missing, new or changed; the message names it.
        """
        hashes = files.hash_folder(self.folder, leave_out=frozenset({MANIFEST, leave_out}))
        if KEPT_ROWS in hashes and KEPT_ROWS in self.files:
            hashes[KEPT_ROWS] = self.files[KEPT_ROWS]
        wrong = sorted(name for name, _ in hashes.items() ^ self.files.items())
        if wrong:
            raise VersionError(CHANGED(folder=self.folder, file=wrong[0]))

    def to_json(self) -> dict[str, Any]:
        """Plain values for manifest.json."""
        return {name: value for name, value in asdict(self).items() if name != "folder"}

    @staticmethod
    def read(folder: Path) -> "ModelVersion":
        """Read a version's manifest.

        Raises:
            VersionError: it is missing, damaged, or that of another version.
        """
        path = folder / MANIFEST
        try:
            version = ModelVersion(folder=folder, **files.read_json(path))
            version.require_names(folder.name)
        except (OSError, ValueError, TypeError) as error:
            raise _damaged(path, error) from error
        return version

    def require_names(self, name: str) -> None:
        """Refuse a manifest whose ids are not what they must be: they become names of folders.

        Args:
            name: what the version has to be called.

        Raises:
            ValueError: the id is another one, or the parent is no earlier version.
        """
        if self.id != name:
            raise ValueError(f"it says that it is {self.id!r}, not {name}")
        known = isinstance(self.parent, str) and VERSION_ID.fullmatch(self.parent)
        if not known or number_of(self.parent) > number_of(self.id) - (not self.is_base):
            raise ValueError(f"its parent is {self.parent!r}, which is no earlier version")


def number_of(version_id: str) -> int:
    """7 for `v0007`."""
    return int(version_id[1:])


def _damaged(path: Path, error: Exception) -> VersionError:
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return VersionError(DAMAGED(path=path, what=what))


def require_servable(version: ModelVersion, base_model: str) -> None:
    """Refuse to release a version whose adapter cannot be read, or that has another base model.

    Fast enough to be done while users wait for a rollback. Whether its answers are good is for the
    gate to say.

    Args:
        version: its checksums were compared already.
        base_model: what the workspace's settings name.

    Raises:
        VersionError: with the reason; nothing was released.
    """
    if problem := _problem(version, base_model):
        raise VersionError(CANNOT_ANSWER(folder=version.folder, what=problem))


def _problem(version: ModelVersion, base_model: str) -> str:
    if version.is_base:
        return ""
    if version.base_model != base_model:
        return f"it was made from {version.base_model} and model.base_model is {base_model}"
    if version.adapter is None:
        return "it has no adapter"
    try:
        kind = files.read_json(version.adapter / ADAPTER_FILE)["peft_type"]
        weight = _first_not_finite(version.adapter / WEIGHTS_FILE)
    except Exception as error:  # noqa: BLE001  # whatever is wrong, it is not released
        return f"its adapter cannot be read ({type(error).__name__}: {error})"
    return f"weight {weight} of its {kind} adapter is not a number" if weight else ""


def _first_not_finite(weights: Path) -> str:
    """Name of the first weight with an infinity or NaN, or "". Without torch, which loads slowly.

    Raises:
        SafetensorError: the file is damaged.
    """
    for name, tensor in deserialize(weights.read_bytes()):  # type: ignore[no-untyped-call]
        if tensor["dtype"] in FLOATS:
            stored, exponent = FLOATS[tensor["dtype"]]
            bits = np.frombuffer(tensor["data"], stored)
            if ((bits & exponent) == exponent).any():  # all bits of the exponent set: inf or NaN
                return str(name)
    return ""
