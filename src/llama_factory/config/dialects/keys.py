"""The table of LLaMA-Factory's flat keys, which docs/compat.md shows."""

from typing import Any

from llama_factory.config.dialects import other_keys, training_keys
from llama_factory.config.dialects.values import (
    Converter,
    Key,
    anything,
    boolean,
    chat_template,
    count,
    ignored,
    limited,
    names,
    number,
    one_of,
    part,
    setting,
    text,
    tool_way,
)

ONE_DEVICE = "the engine places the model itself."
DTYPE = "Without a GPU the run warns and takes bfloat16 where it is fast, else float32."
TOKENS = "Their rows start at the mean of what spelt them before; `lora` and `full` train them."

MODEL: dict[str, Key] = {
    "model_name_or_path": setting("model.base_model", text, "Qwen/Qwen2-7B-Instruct"),
    "template": setting(
        "model.template",
        chat_template,
        "qwen",
        about="The tokenizer's own template wins; one that differs from it is reported. "
        "`model.replace_template=true` uses the named one.",
    ),
    "trust_remote_code": setting("model.trust_remote_code", boolean, True),
    "bf16": part("model.dtype", boolean, True),
    "pure_bf16": part(
        "model.dtype", boolean, True, about="What trains has no float32 copy either."
    ),
    "fp16": part("model.dtype", boolean, True, about=DTYPE),
    "device_map": limited(("auto", "cpu", "cuda"), f"use auto; {ONE_DEVICE}"),
    "flash_attn": part(
        "model.attention",
        one_of("auto", "sdpa", "disabled", "fa2", "fa3"),
        "auto",
        about="The engine chooses for `fa3`, and for `fa2` where flash-attn is not installed.",
    ),
    "rope_scaling": part(
        "model.rope_scaling",
        one_of("linear", "dynamic", "yarn", "llama3"),
        "linear",
        about="Where `cutoff_len` is longer than the model reaches; without rows twice its length.",
    ),
    "use_liger_kernel": part(
        "training.liger_kernel", boolean, True, about="As enable_liger_kernel."
    ),
    "enable_liger_kernel": part(
        "training.liger_kernel",
        boolean,
        True,
        about="Where liger-kernel is not installed it is left out; logits are never held whole.",
    ),
    "infer_dtype": ignored("it matters to an export; `bf16` and `fp16` to a run.", text, "auto"),
    "low_cpu_mem_usage": ignored("weights are read from disk as they are.", boolean, True),
    "use_fast_tokenizer": ignored("fast tokenizers are used where there are any.", boolean, True),
    "resize_vocab": setting(
        "model.resize_vocab", boolean, True, about="`add_tokens` get rows in any case."
    ),
    "add_tokens": setting("model.new_tokens", names, "退货政策,parcel", about=TOKENS),
    "add_special_tokens": setting("model.new_special_tokens", names, "<tool>", about=TOKENS),
    "new_special_tokens_config": part(
        "model.new_special_tokens",
        anything,
        {"<tool>": "Begins a call"},
        about="A YAML file with tokens and what they mean; the tokens are added. " + TOKENS,
    ),
    "new_special_tokens": setting("model.new_special_tokens", names, "<tool>", about=TOKENS),
    "quantization_bit": part(
        "model.adapter.bits", count, 4, about="Makes `lora` the adapter type `qlora`."
    ),
    "quantization_method": limited(("bnb", "bitsandbytes", "BNB"), "use bnb."),
    "quantization_type": part("model.adapter.quant_type", one_of("nf4", "fp4"), "nf4"),
    "double_quantization": part("model.adapter.double_quant", boolean, True),
    "disable_gradient_checkpointing": part(
        "training.gradient_checkpointing",
        boolean,
        False,
        about="Empty: activations are computed again only where they would not fit.",
        off=(True, False),
    ),
    "gradient_checkpointing": part(
        "training.gradient_checkpointing",
        boolean,
        True,
        about="Empty: activations are computed again only where they would not fit.",
        off=(True, False),
    ),
}
"""Model, tokenizer, precision."""

ADAPTER: dict[str, Key] = {
    "finetuning_type": part("model.adapter.type", one_of("lora", "freeze", "full", "oft"), "lora"),
    "lora_rank": part("model.adapter.rank", count, 8),
    "lora_alpha": part("model.adapter.alpha", number, 16, about="Empty: 2 x `lora_rank`."),
    "lora_dropout": part("model.adapter.dropout", number, 0.05),
    "lora_target": part("model.adapter.targets", names, "q_proj,v_proj"),
    "lora_target_modules": part("model.adapter.targets", names, "q_proj,k_proj"),
    "use_dora": part("model.adapter.use_dora", boolean, True),
    "use_rslora": part("model.adapter.use_rslora", boolean, True),
    "pissa_init": part("model.adapter.init", boolean, True),
    "pissa_iter": part("model.adapter.init", count, 16, about="-1 takes the exact parts."),
    "pissa_convert": ignored("PiSSA is always saved as a plain LoRA.", boolean, True),
    "loraplus_lr_ratio": setting("training.loraplus_ratio", number, 16.0),
    "additional_target": part("model.adapter.modules_to_save", names, "embed_tokens,lm_head"),
    "freeze_layers": setting("model.freeze_layers", count, 10),
    "freeze_trainable_layers": part(
        "model.adapter.highest, model.adapter.lowest", count, 2, about="Below 0: the lowest."
    ),
    "use_llama_pro": part(
        "model.adapter.spread",
        boolean,
        True,
        about="With finetuning_type freeze: the layers are spread evenly over the model.",
    ),
    "freeze_trainable_modules": part("model.adapter.modules", names, "all"),
    "freeze_extra_modules": part("model.adapter.extra_modules", names, "embed_tokens"),
    "oft_rank": limited((0,), "give oft_block_size."),
    "oft_block_size": part("model.adapter.block_size", count, 32),
    "oft_target": part("model.adapter.targets", names, "all"),
    "module_dropout": part("model.adapter.dropout", number, 0.0),
    "adapter_name_or_path": setting(
        "model.adapter_paths",
        names,
        "outputs/first",
        about="All but the last are merged; `lora_rank` is the saved one's where it is not given.",
    ),
    "create_new_adapter": setting(
        "model.create_new_adapter",
        boolean,
        True,
        about="Fits the base with the others merged only; copies of them lie beside it.",
    ),
}
"""What trains."""


MIXES = ("concat", "interleave_under", "interleave_over")

DATA: dict[str, Key] = {
    "dataset": setting("data.dataset", names, "alpaca_en_demo,identity"),
    "dataset_dir": setting("data.dataset_dir", text, "data"),
    "data_path": setting("data.train_path", text, "data/train.jsonl"),
    "eval_dataset": setting("data.eval_dataset", names, "alpaca_zh_demo"),
    "val_size": part(
        "data.held_out_fraction, data.held_out_rows",
        number,
        0.1,
        about="A fraction up to 0.5, or about so many rows; they are chosen by content.",
    ),
    "cutoff_len": setting(
        "data.max_tokens",
        count,
        1024,
        about="Longer conversations lose their oldest turns first, then the answer's end; a prompt "
        "that fills it is cut.",
    ),
    "max_samples": setting("data.mix.max_samples", count, 1000),
    "mix_strategy": setting("data.mix.strategy", one_of(*MIXES), "concat"),
    "interleave_probs": part(
        "data.mix.shares", names, "0.7,0.3", about="One for each name in `dataset`."
    ),
    "train_on_prompt": setting("data.train_on_prompt", boolean, True),
    "mask_history": setting("data.mask_history", boolean, True),
    "enable_thinking": setting("data.enable_thinking", boolean, True),
    "preprocessing_num_workers": setting("data.num_workers", count, 16),
    "num_workers": setting("data.num_workers", count, 4),
    "packing": part(
        "training.packing",
        boolean,
        True,
        about="Rows are put together as there, and never see each other.",
    ),
    "neat_packing": part(
        "training.packing", boolean, True, about="The same: packed rows never see each other."
    ),
    "streaming": ignored("rows lie on disk, not in memory, in any case.", boolean, False),
    "buffer_size": ignored("all rows are shuffled, not a window of them.", count, 16384),
    "tokenized_path": setting(
        "data.tokenized_path",
        text,
        "saves/tokens",
        about="Where it is not there, it is written and nothing is trained.",
    ),
    "overwrite_cache": ignored("the cache goes by content and is never stale.", boolean, True),
    "preprocessing_batch_size": ignored("rows are read in pieces of a fixed size.", count, 1000),
    "ignore_pad_token_for_loss": ignored("padding is never trained.", boolean, True),
    "tool_format": setting(
        "data.tool_format",
        tool_way,
        "qwen",
        about="Holds beside a tokenizer's own template too. `default` is told in our own words.",
        off=(None,),
    ),
    "default_system": setting("data.default_system", text, "You are a helpful assistant."),
    "split_special_tokens": ignored(
        "special tokens in rows are plain text in any case, but for `new_special_tokens`.",
        boolean,
        True,
    ),
}
"""Rows and tokens."""


def _from_zero(convert: Converter) -> Converter:
    def checked(value: Any) -> Any:
        found = convert(value)
        if found < 0:
            raise ValueError(f"must be 0 (off) or more; it is {value!r}.")
        return found

    return checked


CONTINUAL: dict[str, Key] = {
    "replay_buffer_size": part(
        "strategies",
        _from_zero(count),
        1000,
        about="`buffer_size` of the strategy `replay`, which is added where the list lacks it; 0 "
        "takes it out. A workspace is what keeps the rows.",
    ),
    "ewc_lambda": part(
        "strategies",
        _from_zero(number),
        0.1,
        about="`lambda` of the strategy `ewc`, which is added where the list lacks it; 0 takes it "
        "out. A workspace is what keeps the importance of weights.",
    ),
}
"""Old knowledge."""


GROUPS: dict[str, dict[str, Key]] = {
    "Model": MODEL,
    "What trains": ADAPTER,
    "Rows": DATA,
    "Objective": training_keys.OBJECTIVE,
    "Course": training_keys.COURSE,
    "Processes": training_keys.PROCESSES,
    "Old knowledge": CONTINUAL,
    "Output": training_keys.OUTPUT,
    "Tests": training_keys.EVALUATION,
    "Answers and exports": training_keys.GENERATION,
    "Accepted, works differently": other_keys.working_differently(),
    "Refused but for the default": other_keys.refused(),
    "Needs nothing": other_keys.needing_nothing(),
}
"""Key by name, in groups for people."""

KEYS: dict[str, Key] = {name: key for group in GROUPS.values() for name, key in group.items()}
"""Every key that is known."""

DEFAULTS: dict[str, object] = {
    "cutoff_len": 2048,
    "val_size": 0.0,
    "finetuning_type": "lora",
    "lora_rank": 8,
    "stage": "sft",
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "learning_rate": 5e-5,
    "num_train_epochs": 3.0,
    "lr_scheduler_type": "linear",
    "warmup_ratio": 0.0,
    "save_steps": 500,
    "seed": 42,
}
"""What LLaMA-Factory takes where a key is not given, and we would take something else."""

NATIVE_DEFAULTS: dict[str, object] = {
    "training.final_lr_fraction": 0.0,
    "training.schedule_ends": "after",
    "data.cleaning": [],
    "data.long_prompts": "cut",
    "data.long_pairs": "share",
    "strategies": [],
}
"""The same for what has no key of its own: the rate falls to zero as in Transformers, rows are
taught as they are, too long questions are cut, and nothing was learned before."""
