"""Checkpoints from which a run goes on exactly: safetensors and JSON, whole or absent.

A checkpoint belongs to one run, which is described beside it.
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from llama_factory.core import files
from llama_factory.core.errors import ConfigError
from llama_factory.core.progress import Progress
from llama_factory.model.sharding import fill, is_part, own_part
from llama_factory.model.tensor_files import reading_tensors
from llama_factory.training.items import NEW, Rows
from llama_factory.training.loss_scale import restore_scale
from llama_factory.training.mirror import STATE
from llama_factory.training.monitor import TrainingFolders
from llama_factory.training.settings import WITHOUT_EFFECT
from llama_factory.training.setup import Run
from llama_factory.training.strategy import STRATEGIES

LOADABLE = "checkpoint-"
"""Beside the folder of checkpoints, with the number of updates: the same for other programs."""
DESCRIPTION = "run.json"
"""Beside the checkpoints: what the run depends on, so that a change can be named."""

PROMPTS = ("enable_thinking", "default_system", "tool_format")
"""Settings of `data:` that shape prompts."""

logger = logging.getLogger(__name__)
Description = Mapping[str, Any]
"""Plain values: rows, how they are taught, strategies, base model."""


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
        counts: what each strategy counted, by its name.
        kept: what the objective keeps of the updates so far.
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
    counts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    kept: Mapping[str, float] = field(default_factory=dict)


def resume(
    run: Run, folders: TrainingFolders, description: Description, num_steps: int, progress: Progress
) -> Position:
    """Where the last checkpoint of this very run stands, its state put back; or the start.

    Raises:
        ConfigError: a checkpoint is asked for, and there is none of this run.
    """
    name = name_of(description)
    newest = _newest(folders, description)
    if newest is None:
        if run.processes.is_first:
            _begin(folders, description, progress)
        return Position(name)
    checkpoint, position = newest
    scale = restore(checkpoint, run.model.trainable(), run.optimizer.optimizer)
    restore_scale(run.fabric, scale)
    for name, counts in run.counts().items():
        counts.update(position.counts.get(name, {}))
    run.kept = position.kept
    run.costs.add(position.hook_seconds)
    progress.say(f"Going on after step {position.step} of {num_steps} ({checkpoint.name}).")
    return position


def _newest(folders: TrainingFolders, description: Description) -> tuple[Path, Position] | None:
    """The checkpoint to go on from: that which was named, or the newest one of this run."""
    asked = folders.resume
    if asked is False:
        return None
    folder = asked if isinstance(asked, Path) else folders.checkpoints
    newest = latest(folder, name_of(description))
    if newest is None and asked is not None:
        raise ConfigError(why_not(folder, description))
    return newest


def _begin(folders: TrainingFolders, description: Description, progress: Progress) -> None:
    """Put checkpoints of another run aside, and report in what it differs."""
    folder = folders.checkpoints
    before = put_aside(folder)
    if before is not None and folders.resume is False:
        progress.say(
            f"Begun anew, as resume_from_checkpoint is false. The checkpoints in {folder} are kept "
            f"in {folder.name}.replaced."
        )
    elif before is not None:
        changed = ", ".join(differences(before, description)) or "they are damaged"
        progress.say(
            f"Begun anew: the checkpoints in {folder} are of another run. Changed since: {changed}."
            f" They are kept in {folder.name}.replaced; to go on with them, undo the change."
        )
    files.write_json(folder / DESCRIPTION, description)


def latest(folder: Path, plan: str) -> tuple[Path, Position] | None:
    """The newest intact checkpoint of this plan; damaged ones are skipped with a warning."""
    for candidate in by_age(folder):
        record = intact_record(candidate)
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
    if asked is not None and asked is not False and not by_age(place):
        raise ConfigError(why_not(place, {}))


def why_not(folder: Path, description: Mapping[str, Any]) -> str:
    """Why a run cannot go on from a folder, and what to do."""
    where = f"resume_from_checkpoint: {folder}"
    if not folder.is_dir():
        return f"{where} does not exist, or is no folder. {_INSTEAD}"
    if not by_age(folder):
        return f"{where} holds no checkpoint that this program wrote. {_INSTEAD}"
    try:
        before = files.read_json(_run_of(folder) / DESCRIPTION)
    except (OSError, ValueError):
        before = {}
    changed = ", ".join(differences(before, description)) if before else ""
    why = f"is of another run. Changed since: {changed}" if changed else "is damaged"
    return f"{where} {why}. {_INSTEAD}"


_INSTEAD = (
    "Name a checkpoint of this very run (checkpoint-N or checkpoints/step-... in its output_dir); "
    "leave the key out to go on where an interrupted run stopped; or begin at trained weights by "
    "model.adapter_paths (adapter_name_or_path). Nothing was trained."
)


def _run_of(folder: Path) -> Path:
    """The folder of all checkpoints of the run that a checkpoint belongs to."""
    return by_age(folder)[0].parent


def put_aside(folder: Path) -> dict[str, Any] | None:
    """Rename a folder with checkpoints of another run, so that they are neither used nor lost.

    Returns:
        The description of that run, empty where there is none; None where no checkpoint is there.
    """
    if not by_age(folder):
        return None
    aside = folder.with_name(f"{folder.name}.replaced")
    shutil.rmtree(aside, ignore_errors=True)
    folder.replace(aside)
    for loadable in folder.parent.glob(f"{LOADABLE}[0-9]*"):
        loadable.replace(aside / loadable.name)
    try:
        before: dict[str, Any] = files.read_json(aside / DESCRIPTION)
        return before
    except (OSError, ValueError):
        return {}


def restore(
    checkpoint: Path, weights: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, float]:
    """Put a checkpoint's weights and optimizer state back; returns the scale of the loss."""
    record = files.read_json(checkpoint / STATE)
    with reading_tensors(checkpoint / "weights.safetensors") as (_, read):
        for name, weight in weights.items():
            fill(weight, read(name))
            optimizer.state[weight] = {}
    for key, value in record["optimizer_numbers"].items():
        name, field = key.rsplit("#", 1)
        optimizer.state[weights[name]][field] = value
    stay = _weights_with_steps_on_cpu(optimizer)
    with reading_tensors(checkpoint / "optimizer.safetensors") as (keys, read):
        for key in keys:
            name, field = key.rsplit("#", 1)
            weight, value = weights[name], read(key)
            if field != "step" or id(weight) not in stay:
                value = _beside(weight, value)
            optimizer.state[weight][field] = value
    scale: dict[str, float] = record.get("scale", {})
    return scale


def _weights_with_steps_on_cpu(optimizer: torch.optim.Optimizer) -> set[int]:
    """Torch keeps a weight's step counter on the CPU unless one kernel does the whole update."""
    groups = (
        group
        for group in optimizer.param_groups
        if not (group.get("fused") or group.get("capturable"))
    )
    return {id(weight) for group in groups for weight in group["params"]}


def _beside(weight: Tensor, value: Tensor) -> Tensor:
    """Where a weight is; of what has its shape the part that belongs to the part of the weight."""
    is_alike = is_part(weight) and value.shape == weight.shape
    return own_part(value, weight) if is_alike else value.to(weight.device)


def by_age(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the newest first; or the one that the folder is."""
    if (folder / STATE).is_file():
        return [folder]
    if number := re.fullmatch(rf"{LOADABLE}(\d+)", folder.name):
        exact = folder.parent / "checkpoints" / f"step-{int(number[1]):08d}"
        return [exact] if (exact / STATE).is_file() else []
    inside = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    return sorted(inside.glob("step-*"), reverse=True)


def intact_record(checkpoint: Path) -> dict[str, Any] | None:
    """What is said of a checkpoint beside its tensors; None where a file is damaged or missing."""
    try:
        record: dict[str, Any] = files.read_json(checkpoint / STATE)
        hashes = files.hash_folder(checkpoint, leave_out=frozenset({STATE}))
        return record if hashes == record["files"] else None
    except (OSError, ValueError, KeyError, SafetensorError):
        return None


def describe_run(run: Run, rows: Rows) -> Description:
    """All that the updates of a run depend on."""
    strategies, options = run.protection.strategies, run.model.options
    data, form, rounding = asdict(options), options.format, run.model.rounding
    del data["format"]
    return {
        "the rows": _hash([row.key for row in rows.examples[NEW]]),
        "rows by source": rows.sizes,
        "training": run.settings.model_dump(mode="json", exclude=WITHOUT_EFFECT),
        "strategies": {STRATEGIES.name_of(s): s.model_dump(mode="json") for s in strategies},
        "the base model's files": run.model.fingerprint,
        "data": data | {name: getattr(form, name) for name in PROMPTS},
        "model.new_special_tokens": [*form.text_tokens],
        "model.rope_scaling": _positions(run.model.network),
        "the chat template": _hash(form.template or run.model.tokenizer.chat_template),
        "model.dtype": str(run.model.precision.dtype).removeprefix("torch."),
        "the weights that train": _hash(sorted(run.model.trainable())),
        **({} if rounding == "none" else {"model.quantization_aware": rounding}),
    }


def _positions(network: Any) -> Any:
    """How a network's positions are made, as its config says."""
    return getattr(network.config.get_text_config(), "rope_parameters", None)


def name_of(description: Description) -> str:
    """One short text, the same for the same run."""
    return _hash(description)


def differences(before: Description, now: Description) -> list[str]:
    """What changed, in words: `training.learning_rate (0.01, now 0.02)`."""
    return list(_differences(before, now, ""))


def _differences(before: Any, now: Any, name: str) -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            inner = f"{name}.{key}" if name else key
            yield from _differences(before.get(key), now.get(key), inner)
    elif before != now:
        is_hash = name.startswith("the ")
        yield name if is_hash else f"{name} ({before}, now {now})"


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()
