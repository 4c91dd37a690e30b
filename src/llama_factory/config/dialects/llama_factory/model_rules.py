"""Flat keys of the model that mean something only together: what trains, number format."""

import importlib.util

from llama_factory.config.dialects.llama_factory.translation import Translation

LORA = {
    "lora_rank": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "lora_target": "targets",
    "lora_target_modules": "targets",
    "use_dora": "use_dora",
    "use_rslora": "use_rslora",
    "additional_target": "modules_to_save",
}
QLORA = LORA | {
    "quantization_bit": "bits",
    "quantization_type": "quant_type",
    "double_quantization": "double_quant",
}
FREEZE = {
    "freeze_trainable_modules": "modules",
    "freeze_extra_modules": "extra_modules",
}
OFT = {
    "oft_block_size": "block_size",
    "oft_target": "targets",
    "module_dropout": "dropout",
    "additional_target": "modules_to_save",
}
ADAPTER_KEYS: dict[str, dict[str, str]] = {
    "lora": LORA,
    "qlora": QLORA,
    "freeze": FREEZE,
    "oft": OFT,
    "full": {},
}
"""Adapter type -> flat key -> the adapter's own setting."""
NEAREST_PISSA = 16
"""LLaMA-Factory's quick iterations where pissa_iter is not given."""


def adapter(done: Translation) -> None:
    """finetuning_type and quantization_bit, and the keys of that kind."""
    kind = _kind(done)
    if kind is None:
        return
    own = ADAPTER_KEYS[kind]
    read = done.given if _goes_on(done) else done.values.keys()
    for name, field in own.items():
        if name in read:
            value = done.values[name]
            done.put(f"model.adapter.{field}", "all" if value == ["all"] else value, name)
    for name in {name for keys in ADAPTER_KEYS.values() for name in keys} - own.keys():
        done.note(name, f"not read where the adapter is {kind}.")
    if kind == "freeze":
        _frozen_layers(done)
    elif kind in ("lora", "qlora"):
        _pissa(done)


def _goes_on(done: Translation) -> bool:
    """Whether training goes on with a saved adapter, which then says what was left open."""
    return "adapter_name_or_path" in done.given and not done.is_on("create_new_adapter")


def _kind(done: Translation) -> str | None:
    """The adapter's type, set where it is not that of the native file."""
    kind: str | None = done.values.get("finetuning_type")
    if done.values.get("quantization_bit"):
        if kind not in (None, "lora"):
            told = f"a quantised base cannot be trained as '{kind}'. Use finetuning_type lora."
            done.refuse("quantization_bit", told)
            return None
        kind = "qlora"
        done.put("model.adapter.type", kind, "quantization_bit")
        return kind
    if kind is not None:
        done.put("model.adapter.type", kind, "finetuning_type")
        return kind
    return _kind_of_file(done)


def _kind_of_file(done: Translation) -> str | None:
    """For keys beside a native file: its own adapter, else LoRA if there is a key of LoRA."""
    base = done.native("model.adapter")
    kind = base.get("type") if isinstance(base, dict) else base
    lora = [name for name in (*LORA, "pissa_init") if name in done.given]
    if kind is None and lora:
        kind = "lora"
        done.put("model.adapter.type", kind, lora[0])
    return kind if kind in ADAPTER_KEYS else None


def _pissa(done: Translation) -> None:
    if done.is_on("pissa_init"):
        times = done.values.get("pissa_iter", NEAREST_PISSA)
        start = "pissa" if times == -1 else f"pissa_niter_{times}"
        done.put("model.adapter.init", start, "pissa_init")


def _frozen_layers(done: Translation) -> None:
    """freeze_trainable_layers: the highest ones, below zero the lowest."""
    number = done.values.get("freeze_trainable_layers")
    if number is not None:
        side = "highest" if number > 0 else "lowest"
        done.put(f"model.adapter.{side}", abs(number), "freeze_trainable_layers")


def precision(done: Translation) -> None:
    """bf16, pure_bf16 or fp16 -> the number format."""
    formats = {"fp16": "float16", "bf16": "bfloat16", "pure_bf16": "pure_bfloat16"}
    wanted = [name for name in formats if done.is_on(name)]
    if "fp16" in wanted and len(wanted) > 1:
        done.refuse("fp16", f"contradicts {wanted[1]}: there is one number format. Keep one.")
    elif wanted:
        done.put("model.dtype", formats[wanted[-1]], wanted[-1])


def programs(done: Translation) -> None:
    """flash_attn and enable_liger_kernel: a missing library costs only speed, the run goes on."""
    names = {"sdpa": "sdpa", "disabled": "eager", "fa2": "flash_attention_2"}
    attention = done.values.get("flash_attn", "auto")
    if attention == "fa2" and not _is_installed("flash_attn"):
        done.note("flash_attn", "flash-attn is not installed; torch's own attention is used.")
    elif attention in names:
        done.put("model.attention", names[attention], "flash_attn")
    if done.is_on("enable_liger_kernel"):
        if _is_installed("liger_kernel"):
            done.put("training.liger_kernel", True, "enable_liger_kernel")
        else:
            done.note("enable_liger_kernel", "liger-kernel is not installed; it is left out.")


def _is_installed(library: str) -> bool:
    return importlib.util.find_spec(library) is not None
