"""Checkpoints from which a run goes on exactly: safetensors and JSON, whole or absent."""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llama_factory.core import files
from llama_factory.core.errors import ConfigError
from llama_factory.training.identity import differences

KEPT = 2
"""Newest checkpoints that stay on disk: the second saves the day if the first is damaged."""
DESCRIPTION = "run.json"
"""Beside the checkpoints: what the run depends on, so that a change can be told."""
STATE = "state.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Position:
    """Where a run stands.

    Attributes:
        plan: identifies data, settings and base model; a checkpoint fits only its own plan.
        step: updates done.
        num_tokens: tokens seen, without padding.
        seconds: time spent so far, over all starts.
        loss: of the last update.
        num_spikes: gradients that stuck out so far.
        num_skipped: updates without a finite loss so far.
        best_loss: lowest loss on held-out rows.
        best_step: updates done when it was measured; 0 before the first measurement.
        num_worse: measurements since then.
        hook_seconds: spent in the hooks of each strategy, over all starts.
    """

    plan: str
    step: int = 0
    num_tokens: int = 0
    seconds: float = 0.0
    loss: float = float("nan")
    num_spikes: int = 0
    num_skipped: int = 0
    best_loss: float = float("inf")
    best_step: int = 0
    num_worse: int = 0
    hook_seconds: Mapping[str, float] = field(default_factory=dict)


def save(
    folder: Path,
    position: Position,
    weights: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    memory: Mapping[str, Tensor],
    *,
    scale: Mapping[str, float],
) -> None:
    """Write a checkpoint under `folder` and remove the oldest ones.

    Args:
        folder: of all checkpoints.
        position: where the run stands.
        weights: that train, by name.
        optimizer: over them.
        memory: tensors of the strategies.
        scale: of the loss in float16; empty elsewhere.
    """
    final = folder / f"step-{position.step:08d}"
    temporary = folder / f".{final.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(_plain(weights), temporary / "weights.safetensors")
    save_file(
        _plain(_optimizer_state(weights, optimizer, (Tensor,))), temporary / "optimizer.safetensors"
    )
    save_file(_plain(memory), temporary / "memory.safetensors")
    record = {
        "position": asdict(position),
        "optimizer_numbers": _optimizer_state(weights, optimizer, (int, float)),
        "files": files.hash_folder(temporary),
        "scale": dict(scale),
    }
    files.write_json(temporary / STATE, record)
    shutil.rmtree(final, ignore_errors=True)
    files.publish(temporary, final)
    for old in _by_age(folder)[KEPT:]:
        shutil.rmtree(old)


def latest(folder: Path, plan: str) -> tuple[Path, Position] | None:
    """The newest intact checkpoint of this plan; damaged ones are skipped with a warning."""
    for candidate in _by_age(folder):
        record = _intact_record(candidate)
        if record is None:
            logger.warning("%s is damaged or half-written and is skipped.", candidate)
        elif record["position"]["plan"] == plan:
            return candidate, Position(**record["position"])
    return None


def require_some(folder: Path, asked: Path | bool | None) -> None:
    """Refuse early to go on from nothing; whose the checkpoints are is seen later.

    Args:
        folder: where the run has its own.
        asked: see `TrainingFolders.resume`.

    Raises:
        ConfigError: there is no checkpoint.
    """
    place = asked if isinstance(asked, Path) else folder
    if asked is not None and asked is not False and not _by_age(place):
        raise ConfigError(why_not(place, {}))


def why_not(folder: Path, description: Mapping[str, Any]) -> str:
    """Why a run cannot go on from a folder, and what to do."""
    where = f"resume_from_checkpoint: {folder}"
    if not folder.is_dir():
        return f"{where} does not exist, or is no folder. {_INSTEAD}"
    if not _by_age(folder):
        return f"{where} holds no checkpoint that this program wrote. {_INSTEAD}"
    try:
        before = files.read_json(_run_of(folder) / DESCRIPTION)
    except (OSError, ValueError):
        before = {}
    changed = ", ".join(differences(before, description)) if before else ""
    why = f"is of another run. Changed since: {changed}" if changed else "is damaged"
    return f"{where} {why}. {_INSTEAD}"


_INSTEAD = (
    "Name a checkpoint of this very run (checkpoints/step-... in its output_dir); leave the key "
    "out to go on where an interrupted run stopped; or begin at trained weights by "
    "model.adapter_paths (adapter_name_or_path). Nothing was trained."
)


def _run_of(folder: Path) -> Path:
    """The folder of all checkpoints of the run that a checkpoint belongs to."""
    return _by_age(folder)[0].parent


def put_aside(folder: Path) -> dict[str, Any] | None:
    """Rename a folder with checkpoints of another run, so that they are neither used nor lost.

    Returns:
        The description of that run, empty where there is none; None where no checkpoint is there.
    """
    if not _by_age(folder):
        return None
    aside = folder.with_name(f"{folder.name}.replaced")
    shutil.rmtree(aside, ignore_errors=True)
    folder.replace(aside)
    try:
        before: dict[str, Any] = files.read_json(aside / DESCRIPTION)
        return before
    except (OSError, ValueError):
        return {}


def describe(folder: Path, description: Mapping[str, Any]) -> None:
    """Write beside the checkpoints what the run depends on."""
    files.write_json(folder / DESCRIPTION, description)


def restore(
    checkpoint: Path, weights: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Put a checkpoint's weights and optimizer state back.

    Returns:
        The strategies' tensors, and the scale of the loss.
    """
    saved = load_file(checkpoint / "weights.safetensors")
    record = files.read_json(checkpoint / STATE)
    numbers = record["optimizer_numbers"]
    states: dict[str, dict[str, Any]] = {name: {} for name in weights}
    for key, value in {**load_file(checkpoint / "optimizer.safetensors"), **numbers}.items():
        name, field = key.rsplit("#", 1)
        states[name][field] = value
    stay = _weights_with_steps_on_cpu(optimizer)
    for name, weight in weights.items():
        weight.data.copy_(saved[name])
        optimizer.state[weight] = {
            field: value
            if not isinstance(value, Tensor) or (field == "step" and id(weight) in stay)
            else value.to(weight.device)
            for field, value in states[name].items()
        }
    return load_file(checkpoint / "memory.safetensors"), record.get("scale", {})


def _weights_with_steps_on_cpu(optimizer: torch.optim.Optimizer) -> set[int]:
    """Torch keeps a weight's step counter on the CPU unless one kernel does the whole update."""
    groups = (
        group
        for group in optimizer.param_groups
        if not (group.get("fused") or group.get("capturable"))
    )
    return {id(weight) for group in groups for weight in group["params"]}


def _optimizer_state(
    weights: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    kinds: tuple[type, ...],
) -> dict[str, Any]:
    """What an optimizer keeps for each weight and is of these kinds, as `weight#field`."""
    return {
        f"{name}#{field}": value
        for name, weight in weights.items()
        for field, value in optimizer.state.get(weight, {}).items()
        if isinstance(value, kinds)
    }


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _by_age(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the newest first; or the one that the folder is."""
    if (folder / STATE).is_file():
        return [folder]
    inside = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    return sorted(inside.glob("step-*"), reverse=True)


def _intact_record(checkpoint: Path) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = files.read_json(checkpoint / STATE)
        hashes = files.hash_folder(checkpoint, leave_out=frozenset({STATE}))
        return record if hashes == record["files"] else None
    except (OSError, ValueError, KeyError, SafetensorError):
        return None
