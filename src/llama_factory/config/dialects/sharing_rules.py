"""How processes share a run, as DeepSpeed's, Accelerate's and Transformers' own files say it.

Stages of ZeRO (Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054) and FSDP are the same
idea: what matters of such a file is how much is divided, and whether it lies in main memory.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from llama_factory.config.dialects.translation import Translation

SUFFIXES = (".json", ".yaml", ".yml")
MOST_BYTES = 1_000_000
NAMED = {
    "ds_z0_config.json": 0,
    "ds_z2_config.json": 2,
    "ds_z2_offload_config.json": 2,
    "ds_z3_config.json": 3,
    "ds_z3_offload_config.json": 3,
}
"""Files that LLaMA-Factory ships, and their stage of ZeRO."""
OFFLOAD = "offload"
NOT_READ = ("optimizer", "scheduler")
"""What a DeepSpeed file may say besides, and other keys of the settings say here."""
LETS_GO = {"full_shard": True, "shard_grad_op": False, "hybrid_shard": True}
"""Words of `fsdp` -> whether weights are let go of between the passes."""


@dataclass(frozen=True)
class Shares:
    """What a file comes to.

    Attributes:
        shards: weights, gradients and optimizer state are divided.
        reshard: weights are let go of between the passes.
        offloads: parts lie in main memory.
        written: what the file says, in its own words.
    """

    shards: bool
    reshard: bool
    offloads: bool
    written: str


def sharing(done: Translation) -> None:
    """deepspeed, fsdp and fsdp_config; the first that says anything decides. And long rows."""
    _divided(done)
    size = done.values.get("context_parallel_size", 1)
    if size > 1:
        if "training.parallel.type" not in done.settings:
            done.put("training.parallel.type", "ddp", "context_parallel_size")
        done.put("training.parallel.context", size, "context_parallel_size")


def _divided(done: Translation) -> None:
    for key, read in (("deepspeed", _deepspeed), ("fsdp", _fsdp)):
        value = done.values.get(key)
        if value in (None, "", False, []):
            continue
        try:
            _put(done, key, read(done, value))
        except ValueError as error:
            done.refuse(key, str(error))
        return
    if _is_accelerate(done.values.get("fsdp_config")):
        try:
            _put(done, "fsdp_config", _accelerate(_file(done.values["fsdp_config"])))
        except ValueError as error:
            done.refuse("fsdp_config", str(error))
    elif done.values.get("fsdp_config"):
        done.note("fsdp_config", "not read without fsdp, which says whether weights are divided.")


def _put(done: Translation, key: str, found: Shares) -> None:
    done.put("training.parallel.type", "fsdp" if found.shards else "ddp", key)
    more = ""
    if found.shards and not found.reshard:
        done.put("training.parallel.reshard", False, key)
        more += ", reshard: false"
    if found.offloads and found.shards:
        done.put("training.parallel.offload", "cpu", key)
        more += ", offload: cpu"
    elif found.offloads:
        done.note(key, "its offload is not followed: where each holds all, all lies on its GPU.")
    kind = "each process holds a part" if found.shards else "each process holds the whole model"
    ours = f"training.parallel: {'fsdp' if found.shards else 'ddp'}{more}"
    done.note(
        key, f"{found.written} is {ours} here: {kind}; one process alone holds all in any case."
    )


def _deepspeed(done: Translation, value: Any) -> Shares:
    name = Path(value).name if isinstance(value, str) else ""
    if name in NAMED and not Path(value).is_file():
        return _of_stage(NAMED[name], offloads=OFFLOAD in name)
    values = _file(value)
    if _is_accelerate(values):
        return _accelerate(values)
    zero = values.get("zero_optimization", {})
    for part in NOT_READ:
        if part in values:
            done.note("deepspeed", f"its '{part}' is not read: the settings of training say it.")
    places = {
        str(zero[each].get("device", "none"))
        for each in ("offload_optimizer", "offload_param")
        if isinstance(zero.get(each), Mapping)
    }
    return _of_stage(zero.get("stage", 0), offloads=_offloads(places))


def _offloads(places: set[str]) -> bool:
    """Whether parts lie in main memory."""
    if "nvme" in places:
        raise ValueError("parts on a disk (nvme) are not supported. Use device: cpu, or none.")
    return "cpu" in places


def _of_stage(stage: Any, *, offloads: bool) -> Shares:
    if stage not in (0, 1, 2, 3):
        raise ValueError(f"zero_optimization.stage is {stage!r}, and there are 0, 1, 2 and 3.")
    return Shares(stage >= 2, stage == 3, offloads, f"ZeRO stage {stage}")


def _fsdp(done: Translation, value: Any) -> Shares:
    """Words such as `full_shard auto_wrap offload`, with `fsdp_config` beside them."""
    words = value if isinstance(value, list) else str(value).replace(",", " ").split()
    words = ["full_shard"] if value is True or words in (["true"], ["True"]) else words
    if "no_shard" in words:
        return Shares(False, True, False, "no_shard")
    kind = next((word for word in words if word in LETS_GO), "full_shard")
    config = _file(done.values["fsdp_config"]) if done.values.get("fsdp_config") else {}
    config = config.get("fsdp_config", config)
    reshard = LETS_GO[kind] and _lets_go(config)
    offloads = OFFLOAD in words or _flag(config, "offload_params") or _flag(config, "cpu_offload")
    return Shares(True, reshard, offloads, f"fsdp {kind}")


def _accelerate(values: Mapping[str, Any]) -> Shares:
    """Accelerate's YAML: `distributed_type`, and a section of that kind."""
    kind = str(values.get("distributed_type", "NO")).upper()
    if kind == "DEEPSPEED":
        section = values.get("deepspeed_config", {})
        if section.get("deepspeed_config_file"):
            raise ValueError("it names a DeepSpeed file. Name that file itself as deepspeed.")
        names = ("offload_optimizer_device", "offload_param_device")
        places = {str(section.get(name, "none")) for name in names}
        return _of_stage(section.get("zero_stage", 0), offloads=_offloads(places))
    if kind != "FSDP":
        return Shares(False, True, False, f"distributed_type {kind}")
    section = values.get("fsdp_config", {})
    strategy = str(section.get("fsdp_sharding_strategy", "FULL_SHARD")).lower()
    if strategy in ("no_shard", "3"):
        return Shares(False, True, False, "NO_SHARD")
    reshard = LETS_GO.get(strategy, strategy != "2") and _lets_go(section)
    return Shares(True, reshard, _flag(section, "offload_params"), f"Accelerate's FSDP {strategy}")


def _lets_go(config: Mapping[str, Any]) -> bool:
    for name in ("reshard_after_forward", "fsdp_reshard_after_forward"):
        if name in config:
            return str(config[name]).lower() not in ("false", "shard_grad_op", "0")
    return True


def _flag(config: Mapping[str, Any], name: str) -> bool:
    return any(str(config.get(each, False)).lower() == "true" for each in (name, f"fsdp_{name}"))


def _is_accelerate(value: Any) -> bool:
    """Whether something is, or names, a file of Accelerate."""
    if isinstance(value, str):
        return value.endswith((".yaml", ".yml"))
    return isinstance(value, Mapping) and "distributed_type" in value


def _file(value: Any) -> dict[str, Any]:
    """The mapping that a key is, or names.

    Raises:
        ValueError: the file is not there, or holds something else.
    """
    if isinstance(value, Mapping):
        return dict(value)
    path = Path(str(value)).expanduser()
    if path.suffix not in SUFFIXES or not path.is_file() or path.stat().st_size > MOST_BYTES:
        raise ValueError(
            f"{value} is no file here (paths begin at the current folder; known without a file: "
            f"{', '.join(NAMED)}). Name it rightly, or write training.parallel: fsdp."
        )
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no names with values.")
    return found
