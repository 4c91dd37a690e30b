"""LLaMA-Factory's keys of optimizers: `optim`, Adam's own numbers, and the switches beside it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llama_factory.config import schema
from llama_factory.config.dialects.translation import Translation
from llama_factory.core.errors import suggest

OPTIMIZERS = {
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_hf": "adamw",
    "adamw_8bit": "adamw_8bit",
    "adamw_bnb_8bit": "adamw_8bit",
    "paged_adamw_8bit": "adamw_8bit",
    "paged_adamw": "adamw_8bit",
    "paged_adamw_32bit": "adamw",
    "adamw_torch_8bit": "adamw_8bit",
    "adamw_torch_4bit": "adamw_8bit",
    "adamw_apex_fused": "adamw",
    "adamw_anyprecision": "adamw",
    "adamw_torch_xla": "adamw",
    "adamw_torch_npu_fused": "adamw",
    "adafactor": "adafactor",
    "sgd": "sgd",
    "muon": "muon",
}
"""optim -> ours."""
SIDES = {
    "std": "shorter",
    "reverse_std": "longer",
    "left": "left",
    "right": "right",
    "full": "both",
}
ADAM_KINDS = ("adamw", "adamw_8bit", "muon", "galore", "apollo", "adam_mini", "badam")


@dataclass(frozen=True)
class Switch:
    """A key that chooses an optimizer.

    Attributes:
        kind: our optimizer.
        settings: key -> its setting.
        defaults: setting -> LLaMA-Factory's value where ours is another one.
        words: setting -> their words for its values -> ours.
        refuses_adapters: all weights are to train, as it saves what only they need.
    """

    kind: str
    settings: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    words: Mapping[str, Mapping[Any, Any]] = field(default_factory=dict)
    refuses_adapters: bool = True


SWITCHES = {
    "use_muon": Switch("muon", refuses_adapters=False),
    "use_adam_mini": Switch("adam_mini", refuses_adapters=False),
    "use_galore": Switch(
        "galore",
        {
            "galore_target": "targets",
            "galore_rank": "rank",
            "galore_update_interval": "update_interval",
            "galore_scale": "scale",
            "galore_proj_type": "side",
        },
        {"rank": 16, "scale": 2.0},
        {"side": SIDES},
    ),
    "use_apollo": Switch(
        "apollo",
        {
            "apollo_target": "targets",
            "apollo_rank": "rank",
            "apollo_update_interval": "update_interval",
            "apollo_scale": "scale",
            "apollo_proj": "directions",
            "apollo_proj_type": "side",
            "apollo_scale_type": "per",
        },
        {"rank": 16, "scale": 32.0},
        {"side": SIDES, "directions": {"svd": "main"}},
    ),
    "use_badam": Switch(
        "badam",
        {
            "badam_switch_interval": "switch_interval",
            "badam_switch_mode": "order",
            "badam_start_block": "start_layer",
        },
    ),
}
"""Key -> the optimizer that it chooses; the first one that is on counts."""


def optimizer(done: Translation) -> None:
    """optim, or a switch in its place, and Adam's own numbers."""
    chosen = [name for name in SWITCHES if done.is_on(name)]
    if len(chosen) > 1:
        done.refuse(chosen[1], f"contradicts {chosen[0]}: there is one optimizer. Keep one.")
    elif chosen:
        _switched(done, chosen[0])
    else:
        _named(done)


def _named(done: Translation) -> None:
    name = done.values.get("optim")
    if name is not None and OPTIMIZERS.get(name) not in schema.choices("training.optimizer"):
        known = ", ".join(OPTIMIZERS)
        told = f"'{name}' is not supported.{suggest(name, OPTIMIZERS)} Known: {known}."
        done.refuse("optim", told)
        return
    if name is not None:
        done.put("training.optimizer.type", OPTIMIZERS[name], "optim")
    _adam(done, OPTIMIZERS[name or "adamw_torch"], source="" if name is None else "optim")


def _switched(done: Translation, name: str) -> None:
    switch = SWITCHES[name]
    kind = done.values.get("finetuning_type")
    if switch.refuses_adapters and kind in ("lora", "oft"):
        told = f"saves memory where all weights train. Use finetuning_type full; it is {kind}."
        done.refuse(name, told)
        return
    if OPTIMIZERS.get(done.values.get("optim", "adamw_torch")) != "adamw":
        done.note("optim", f"not read beside {name}, which keeps moments as AdamW does.")
    done.put("training.optimizer.type", switch.kind, name)
    _adam(done, switch.kind, source=name)
    for setting, value in switch.defaults.items():
        done.put(f"training.optimizer.{setting}", value, name)
    for key, setting in switch.settings.items():
        if key in done.given:
            value = _ours(done.values[key], switch.words.get(setting, {}))
            done.put(f"training.optimizer.{setting}", value, key)
    _badam(done)


def _ours(value: Any, words: Mapping[Any, Any]) -> Any:
    if isinstance(value, list):
        return "all" if value == ["all"] else value
    return words.get(value, value)


def _badam(done: Translation) -> None:
    """Below 0 there is no other layer's turn; masks within a layer are not offered."""
    if not done.is_on("use_badam"):
        return
    if done.values.get("badam_mode", "layer") != "layer":
        done.refuse("badam_mode", "only whole layers take turns: use layer.")
    if done.values.get("badam_switch_interval", 1) < 1:
        del done.settings["training.optimizer.switch_interval"]
        done.put("training.optimizer.order", "fixed", "badam_switch_interval")


def _adam(done: Translation, kind: str, *, source: str) -> None:
    keys = [name for name in ("adam_beta1", "adam_beta2", "adam_epsilon") if name in done.given]
    if not keys or kind not in ADAM_KINDS:
        return
    if not source:
        done.put("training.optimizer.type", kind, keys[0])
    betas = [done.values.get("adam_beta1", 0.9), done.values.get("adam_beta2", 0.999)]
    if keys != ["adam_epsilon"]:
        done.put("training.optimizer.betas", betas, keys[0])
    if "adam_epsilon" in keys:
        done.put("training.optimizer.eps", done.values["adam_epsilon"], "adam_epsilon")
