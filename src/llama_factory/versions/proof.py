"""Whether a version can answer: looked at before it is released by hand, and light enough to be
done while users wait for a rollback. That its answers are any good is the gate's business.
"""

from pathlib import Path

import numpy as np
from safetensors import deserialize

from llama_factory.core import files
from llama_factory.core.errors import VersionError
from llama_factory.versions.version import ModelVersion

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""What PEFT reads."""
FLOATS = {
    "F64": (np.uint64, 0x7FF0_0000_0000_0000),
    "F32": (np.uint32, 0x7F80_0000),
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
}
"""By safetensors' name of a number format: how its bits are stored, and those of its exponent."""


def require_servable(version: ModelVersion, base_model: str) -> None:
    """Refuse a version whose adapter cannot be read, or that belongs to another base model.

    Args:
        version: its checksums were compared already.
        base_model: what the workspace's settings name.

    Raises:
        VersionError: with the reason; nothing was released.
    """
    wrong = _problem(version, base_model)
    if wrong:
        raise VersionError(
            f"{version.folder}: {wrong}, so it cannot answer and is not released. Restore it from "
            "a backup, or choose another version: llama-factory versions."
        )


def _problem(version: ModelVersion, base_model: str) -> str:
    if version.is_base:
        return ""
    if version.base_model != base_model:
        return f"it was made from {version.base_model} and model.base_model is {base_model}"
    if version.adapter is None:
        return "it has no adapter"
    try:
        kind = files.read_json(version.adapter / CONFIG)["peft_type"]
        numbers = _not_numbers(version.adapter / WEIGHTS)
    except Exception as error:  # noqa: BLE001  # whatever is wrong, it is not released
        return f"its adapter cannot be read ({type(error).__name__}: {error})"
    return f"weight {numbers} of its {kind} adapter is not a number" if numbers else ""


def _not_numbers(weights: Path) -> str:
    """The first weight that is not finite; none where all are. Needs no torch, which loads slowly.

    Raises:
        SafetensorError: the file is damaged.
    """
    for name, found in deserialize(weights.read_bytes()):  # type: ignore[no-untyped-call]
        kind = FLOATS.get(found["dtype"])
        if kind is not None:
            stored, exponent = kind
            bits = np.frombuffer(found["data"], stored)
            if ((bits & exponent) == exponent).any():  # all bits of the exponent set: inf or NaN
                return str(name)
    return ""
