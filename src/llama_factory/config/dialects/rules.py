"""Flat keys of the model, its rows and its output that mean something only together; all rules."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from llama_factory.config.dialects import optimizer_rules, sharing_rules, training_rules
from llama_factory.config.dialects.translation import Translation
from llama_factory.continual.presets import PRESETS
from llama_factory.model.chat.templates import NO_THOUGHTS

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
    "use_llama_pro": "spread",
    "freeze_trainable_modules": "modules",
    "freeze_extra_modules": "extra_modules",
}
OFT = {
    "oft_block_size": "block_size",
    "oft_target": "targets",
    "module_dropout": "dropout",
    "additional_target": "modules_to_save",
}
QOFT = OFT | {
    "quantization_bit": "bits",
    "quantization_type": "quant_type",
    "double_quantization": "double_quant",
}
PACKED = {"lora": "qlora", "oft": "qoft"}
"""finetuning_type -> the adapter on a packed base."""
ADAPTER_KEYS: dict[str, dict[str, str]] = {
    "lora": LORA,
    "qlora": QLORA,
    "freeze": FREEZE,
    "oft": OFT,
    "qoft": QOFT,
    "full": {},
}
"""Adapter type -> flat key -> the adapter's own setting."""
LONGEST_ANSWER = 1024
"""LLaMA-Factory's max_new_tokens where it is not given."""
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
    """Whether training goes on with a saved adapter, which then decides what was left open."""
    return "adapter_name_or_path" in done.given and not done.is_on("create_new_adapter")


def _kind(done: Translation) -> str | None:
    """The adapter's type, set where it is not that of the native file."""
    kind: str | None = done.values.get("finetuning_type")
    if done.values.get("quantization_bit"):
        if (kind or "lora") not in PACKED:
            told = f"a quantised base cannot be trained as '{kind}'. Use finetuning_type lora."
            done.refuse("quantization_bit", told)
            return None
        kind = PACKED[kind or "lora"]
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


def positions(done: Translation) -> None:
    """rope_scaling: as far as the rows of a run need it."""
    kind = done.values.get("rope_scaling")
    if kind is None:
        return
    done.put("model.rope_scaling", kind, "rope_scaling")
    if {"dataset", "eval_dataset", "data_path"} & done.given:
        done.put("model.rope_tokens", done.values.get("cutoff_len"), "cutoff_len")


def programs(done: Translation) -> None:
    """flash_attn and enable_liger_kernel: a missing library costs only speed, the run goes on."""
    names = {"sdpa": "sdpa", "disabled": "eager", "fa2": "flash_attention_2"}
    attention = done.values.get("flash_attn", "auto")
    if attention == "fa2" and not _is_installed("flash_attn"):
        done.note("flash_attn", "flash-attn is not installed; torch's own attention is used.")
    elif attention in names:
        done.put("model.attention", names[attention], "flash_attn")
    if done.is_on("enable_liger_kernel") or done.is_on("use_liger_kernel"):
        if _is_installed("liger_kernel"):
            done.put("training.liger_kernel", True, "enable_liger_kernel")
        else:
            done.note("enable_liger_kernel", "liger-kernel is not installed; it is left out.")


def _is_installed(library: str) -> bool:
    return importlib.util.find_spec(library) is not None


def held_out(done: Translation) -> None:
    """val_size: a fraction of the rows, or a number of them."""
    size = done.values.get("val_size")
    if size is None:
        return
    if size > 0 and "eval_dataset" in done.given:
        done.refuse("val_size", "contradicts eval_dataset: give one of them.")
    if size >= 1:
        done.put("data.held_out_rows", int(size), "val_size")
        return
    done.put("data.held_out_fraction", size, "val_size")


def rows(done: Translation) -> None:
    """Mixing, and what may not go together."""
    if done.is_on("train_on_prompt") and done.is_on("mask_history"):
        done.refuse("mask_history", "contradicts train_on_prompt, which teaches every token.")
    is_quiet = str(done.values.get("template", "")).endswith(NO_THOUGHTS)
    if is_quiet and "enable_thinking" not in done.given:
        done.put("data.enable_thinking", False, "template")
    both = set(done.values.get("dataset", ())) & set(done.values.get("eval_dataset", ()))
    if both:
        done.put("data.teach_tests", True, "eval_dataset")
        told = (
            f"{', '.join(sorted(both))} is trained and tested: scores tell what is known by heart."
        )
        done.note("eval_dataset", told)
    if "dataset" in done.given and "data_path" in done.given:
        done.refuse("data_path", "contradicts dataset: give one of them.")
    _shares(done)


def _shares(done: Translation) -> None:
    given = done.values.get("interleave_probs")
    if given is None:
        return
    sets = done.values.get("dataset") or []
    if done.values.get("mix_strategy", "concat") == "concat":
        done.refuse("interleave_probs", "needs mix_strategy interleave_under or interleave_over.")
    elif len(sets) != len(given):
        told = f"{len(given)} shares for {len(sets)} names in dataset: give one for each."
        done.refuse("interleave_probs", told)
    else:
        try:
            shares = dict(zip(sets, map(float, given), strict=True))
            done.put("data.mix.shares", shares, "interleave_probs")
        except ValueError:
            done.refuse("interleave_probs", f"must be numbers, as in 0.7,0.3; it is {given}.")


def checkpoints(done: Translation) -> None:
    """save_strategy and save_steps: updates, a share of the run, or every epoch."""
    kind, steps = done.values.get("save_strategy", "steps"), done.values.get("save_steps")
    if kind == "epoch":
        done.put("training.checkpoint_steps", "epoch", "save_strategy")
    elif kind == "no":
        done.put("training.checkpoint_steps", 0.5, "save_strategy")
    elif steps is not None:
        done.put("training.checkpoint_steps", _often(steps), "save_steps")
    if kind != "no" and done.values and not done.base:
        _kept(done)
    if "gradient_checkpointing" in done.values:
        wanted = done.values["gradient_checkpointing"]
        done.put("training.gradient_checkpointing", wanted, "gradient_checkpointing")
    if done.is_on("disable_gradient_checkpointing"):
        done.put("training.gradient_checkpointing", False, "disable_gradient_checkpointing")


def _kept(done: Translation) -> None:
    """save_total_limit and save_only_model: loadable folders, and what a run goes on from."""
    most = done.values.get("save_total_limit", "all")
    if most != "all" and most < 1:
        most = "all"
    done.put("training.loadable_checkpoints", most, "save_total_limit")
    exact = 2 if done.is_on("save_only_model") else most if most == "all" else max(2, most)
    done.put("training.checkpoints_kept", exact, "save_only_model")


def _often(steps: float) -> int | float:
    """Steps as a person writes them: whole ones, or below 1 a share of the run."""
    return steps if 0 < steps < 1 else int(steps)


def special_tokens(done: Translation) -> None:
    """new_special_tokens_config: a YAML file of tokens and what they mean."""
    path = done.values.get("new_special_tokens_config")
    if path is None:
        return
    try:
        found = path if isinstance(path, dict) else _yaml(path)
    except (OSError, ValueError, yaml.YAMLError) as error:
        done.refuse("new_special_tokens_config", f"{path} cannot be read as YAML: {error}")
        return
    if not isinstance(found, dict) or not found:
        told = f'{path} must hold lines such as "<tool>": "Begins a tool".'
        done.refuse("new_special_tokens_config", told)
        return
    tokens = list(map(str, found))
    done.put("model.new_special_tokens", tokens, "new_special_tokens_config")
    done.put("model.resize_vocab", True, "new_special_tokens_config")


def _yaml(path: Any) -> Any:
    return yaml.safe_load(Path(str(path)).read_text(encoding="utf-8"))


def verbs(done: Translation) -> None:
    """do_train and do_predict: what is not asked for is not done, where something is."""
    if "do_predict" in done.values:
        done.put("do_predict", done.values["do_predict"], "do_predict")
    if "do_train" in done.given:
        done.put("do_train", done.values["do_train"], "do_train")
    elif done.is_on("do_predict"):
        done.put("do_train", False, "do_predict")
    if done.is_on("do_eval") and not (done.is_on("do_train") or done.is_on("do_predict")):
        done.put("do_predict", True, "do_eval")
        done.put("do_train", False, "do_eval")
    if done.settings.get("do_predict"):
        _answers_of_any_length(done)


def _answers_of_any_length(done: Translation) -> None:
    """LLaMA-Factory's longest answer holds where answers are what a run is for."""
    if "max_new_tokens" not in done.given and not done.base:
        done.put("evaluation.max_new_tokens", LONGEST_ANSWER, "max_new_tokens")


def reports(done: Translation) -> None:
    """report_to and run_name, and where TensorBoard's logs go."""
    names = done.values.get("report_to")
    if names is not None:
        done.put("training.report_to", _services(done, names), "report_to")
    for name in ("logging_dir", "log_dir"):
        if name in done.given:
            done.put("log_dir", done.values[name], name)


def upload(done: Translation) -> None:
    """push_to_hub and what belongs to it: the name is that of output_dir where none is given."""
    if not done.is_on("push_to_hub"):
        return
    name = done.values.get("hub_model_id") or Path(done.values.get("output_dir", "")).name
    if not name:
        done.refuse("push_to_hub", "needs output_dir or hub_model_id, which name the repository.")
        return
    source = "hub_model_id" if "hub_model_id" in done.given else "push_to_hub"
    done.put("upload_to", name, source)
    done.put("upload_is_private", done.is_on("hub_private_repo"), "push_to_hub")


def _services(done: Translation, names: list[str]) -> list[dict[str, str]]:
    if "all" in names:
        done.note("report_to", "'all' writes TensorBoard logs; name other services one by one.")
        return [{"type": "tensorboard"}]
    services = [{"type": name} for name in names if name not in ("none", "")]
    for service in services:
        if service["type"] == "wandb" and "run_name" in done.values:
            service["run_name"] = done.values["run_name"]
    return services


def evaluation(done: Translation) -> None:
    """Tests during a run."""
    key = "evaluation_strategy" if "evaluation_strategy" in done.given else "eval_strategy"
    wanted = done.values.get(key, "no")
    steps = done.values.get("eval_steps", done.values.get("logging_steps", 500))
    is_best = done.is_on("load_best_model_at_end") or done.values.get("save_strategy") == "best"
    if wanted == "epoch":
        done.put("training.eval_steps", "epoch", key)
    elif wanted == "steps":
        done.put("training.eval_steps", _often(steps), key)
    elif is_best:
        done.refuse("load_best_model_at_end", "needs eval_strategy steps or epoch.")
    if is_best and wanted != "no":
        done.put("training.keep_best", True, "load_best_model_at_end")
    if "early_stopping_steps" not in done.given:
        return
    if wanted != "no":
        wait = done.values["early_stopping_steps"]
        done.put("training.early_stopping_steps", wait, "early_stopping_steps")
    else:
        done.refuse("early_stopping_steps", "counts tests in a run. Give eval_strategy steps too.")


STRATEGIES = {"replay_buffer_size": ("replay", "buffer_size"), "ewc_lambda": ("ewc", "lambda")}
"""Flat key -> strategy and its setting."""
KEEPS = {
    "replay_buffer_size": "a single run has no earlier rows to replay; a workspace keeps them",
    "ewc_lambda": "a single run has no earlier weights to hold; a workspace keeps what they mean",
}
"""What each of them needs that a single run has not."""


def strategies(done: Translation) -> None:
    """replay_buffer_size and ewc_lambda: strategies beside those that the settings name."""
    given = [name for name in STRATEGIES if name in done.values]
    listed = _listed(done)
    if not given or listed is None:
        return
    for name in given:
        listed = _with(listed, name, done.values[name])
        if done.values[name]:
            done.note(name, f"{KEEPS[name]} from round to round (`llama-factory init`, `learn`).")
    done.put("strategies", listed, given[0])


def _listed(done: Translation) -> list[Any] | None:
    """The strategies without these keys: none for a file of flat keys alone.

    Returns:
        None where what is written is neither a list nor a preset, which validation reports.
    """
    written = done.settings.get("strategies", done.native("strategies"))
    preset = "default" if written is None else written
    if isinstance(preset, str):
        return [dict(s) for s in PRESETS[preset].strategies] if preset in PRESETS else None
    return list(preset) if isinstance(preset, list) else None


def _with(listed: list[Any], key: str, value: Any) -> list[Any]:
    """The list with a key's strategy set, added or, for 0, taken out."""
    kind, setting = STRATEGIES[key]
    found = next((each for each in listed if _type_of(each) == kind), kind)
    others = [each for each in listed if _type_of(each) != kind]
    if not value:
        return others
    options = found if isinstance(found, dict) else {"type": kind}
    changed = options | {setting: value}
    if len(others) == len(listed):
        return [*listed, changed]
    return [changed if _type_of(each) == kind else each for each in listed]


def _type_of(written: Any) -> Any:
    return written.get("type") if isinstance(written, dict) else written


RULES: tuple[Callable[[Translation], None], ...] = (
    adapter,
    precision,
    positions,
    special_tokens,
    programs,
    held_out,
    rows,
    training_rules.objective,
    training_rules.packing,
    training_rules.batch,
    training_rules.course,
    optimizer_rules.optimizer,
    sharing_rules.sharing,
    checkpoints,
    verbs,
    reports,
    upload,
    evaluation,
    strategies,
)
"""Each reads the keys it knows and leaves the others alone."""
