"""Flat keys of the model, its adapter and its number format."""

from llama_factory.config.dialects.llama_factory.key import (
    Key,
    boolean,
    count,
    ignored,
    limited,
    missing,
    names,
    number,
    one_of,
    part,
    setting,
    text,
)

ONE_DEVICE = "the engine places the model itself."
DTYPE = "Without a GPU the run says so and takes bfloat16 where it is fast, else float32."
TOKENS = "Their rows start at the mean of what spelt them before; `lora` and `full` train them."

MODEL: dict[str, Key] = {
    "model_name_or_path": setting("model.base_model", text, "Qwen/Qwen2-7B-Instruct"),
    "template": setting(
        "model.template",
        text,
        "qwen",
        about="The tokenizer's own template wins; one that differs from it is told. "
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
        one_of("auto", "sdpa", "disabled", "fa2"),
        "auto",
        about="Where flash-attn is not installed, `fa2` leaves it to the engine.",
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
    "model_revision": missing("download that revision and name its folder.", "main"),
    "cache_dir": missing("set the environment variable HF_HOME instead.", None),
    "resize_vocab": setting(
        "model.resize_vocab", boolean, True, about="`add_tokens` get rows in any case."
    ),
    "add_tokens": setting("model.new_tokens", names, "退货政策,parcel", about=TOKENS),
    "add_special_tokens": setting("model.new_special_tokens", names, "<tool>", about=TOKENS),
    "new_special_tokens": setting("model.new_special_tokens", names, "<tool>", about=TOKENS),
    "init_special_tokens": limited(("noise_init",), "rows start at what spelt the token before."),
    "rope_scaling": missing("set it in the model's config.json.", None),
    "shift_attn": missing("leave it out: attention is exact here."),
    "use_unsloth": missing("leave it out: the engine has fast paths of its own."),
    "train_from_scratch": missing("save a random model as a folder and name that."),
    "upcast_layernorm": missing("set `model.dtype=float32` instead."),
    "quantization_bit": part(
        "model.adapter.bits", count, 4, about="Makes `lora` the adapter type `qlora`; needs a GPU."
    ),
    "quantization_method": limited(("bnb", "bitsandbytes"), "use bnb."),
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
    "image_max_pixels": ignored("it matters to models that see.", count, 262144),
    "video_max_pixels": ignored("it matters to models that see.", count, 16384),
    "freeze_vision_tower": ignored("it matters to models that see.", boolean, True),
    "freeze_multi_modal_projector": ignored("it matters to models that see.", boolean, True),
    "freeze_language_model": missing("the language model is what trains here."),
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
