"""What a version's answers cost it and its base model, so that whoever serves it can prove it.

Loads no model: the values are measured at the end of a round (`rounds/proving.py`) and compared by
whatever serves the version (`serving/proof.py`).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llama_factory.core import files
from llama_factory.core.errors import VersionError
from llama_factory.versions.version import ModelVersion

FILE = "proof.json"
"""In the folder of a version; those of earlier programs have none."""

Ids = tuple[int, ...]


@dataclass(frozen=True)
class ProofRow:
    """A prompt with an answer, and how likely the answer is.

    Attributes:
        prompt: token ids, not empty.
        answer: token ids, not empty.
        nll: mean over the tokens of the answer, in nats, under the version.
        base_nll: the same under the base model.
    """

    prompt: Ids
    answer: Ids
    nll: float
    base_nll: float


@dataclass(frozen=True)
class Proof:
    """What the answers of one version are known by.

    Attributes:
        version_id: whose.
        rows: empty where nothing was measured.
    """

    version_id: str
    rows: tuple[ProofRow, ...] = ()


def write(folder: Path, rows: Sequence[ProofRow]) -> None:
    """Write the proof of a version that is being made into its folder."""
    files.write_json(folder / FILE, {"rows": [asdict(row) for row in rows]})


def read(version: ModelVersion) -> Proof:
    """The proof of a version; without rows where there is none.

    Nothing is measured when a workspace is made, so the base version has none of its own: it is
    known by what the oldest of the others measured of it.

    Raises:
        VersionError: the file is damaged.
    """
    if not version.is_base:
        return Proof(version.id, _rows(version.folder / FILE))
    for path in sorted(version.folder.parent.glob(f"v*/{FILE}")):
        rows = [replace(row, nll=row.base_nll) for row in _rows(path)]
        return Proof(version.id, tuple(rows))
    return Proof(version.id)


def _rows(path: Path) -> tuple[ProofRow, ...]:
    if not path.exists():
        return ()
    try:
        return tuple(_row(values) for values in files.read_json(path)["rows"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise VersionError(
            f"{path} is damaged ({error!r}), so nobody can prove that this version is served. "
            "Restore it from a backup, or roll back to another version."
        ) from error


def _row(values: dict[str, Any]) -> ProofRow:
    prompt, answer = (tuple(map(int, values[name])) for name in ("prompt", "answer"))
    if not prompt or not answer:
        raise ValueError("a prompt or an answer is empty")
    return ProofRow(prompt, answer, float(values["nll"]), float(values["base_nll"]))
