"""The table of all flat keys; docs/compat.md shows it."""

from llama_factory.config.dialects.llama_factory import (
    continual_keys,
    data_keys,
    model_keys,
    training_keys,
)
from llama_factory.config.dialects.llama_factory.key import Key

GROUPS: dict[str, dict[str, Key]] = {
    "Model": model_keys.MODEL,
    "What trains": model_keys.ADAPTER,
    "Rows": data_keys.DATA,
    "Objective": training_keys.OBJECTIVE,
    "Course": training_keys.COURSE,
    "Old knowledge": continual_keys.CONTINUAL,
    "Output": training_keys.OUTPUT,
    "Tests": training_keys.EVALUATION,
    "Answers and exports": training_keys.GENERATION,
}
"""Key by name, in groups for people."""

KEYS: dict[str, Key] = {name: key for group in GROUPS.values() for name, key in group.items()}
"""Every key that is known."""

OTHER_OPTIMIZER = "use optim adamw_torch."
FAMILIES: dict[str, str] = {
    "galore_": OTHER_OPTIMIZER,
    "apollo_": OTHER_OPTIMIZER,
    "badam_": OTHER_OPTIMIZER,
    "ppo_": "use stage dpo or kto.",
    "reward_model": "use stage dpo or kto.",
    "ref_model": "the base without its adapter is the reference.",
    "swanlab_": "use report_to tensorboard, wandb or mlflow.",
    "use_swanlab": "use report_to tensorboard, wandb or mlflow.",
    "ray_": training_keys.RAY,
    "fsdp_": training_keys.RAY,
    "vllm_": "the API runs Transformers.",
    "sglang_": "the API runs Transformers.",
    "hub_": "upload the output folder yourself.",
    "export_quantization_": "quantise the exported folder yourself.",
    "fp8": "use bf16.",
    "image_": "pictures are not trained.",
    "video_": "pictures are not trained.",
    "audio_": "sound is not trained.",
}
"""Beginnings of keys that are known and not supported in any value, and what to do."""

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
    "data.cleaning": [],
    "strategies": [],
}
"""The same for what has no key of its own: the rate falls to zero, rows are taught as they are, and
nothing was learned before."""
