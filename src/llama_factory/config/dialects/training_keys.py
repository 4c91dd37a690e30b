"""LLaMA-Factory's flat keys of the objective, the course of training and what it leaves behind."""

from llama_factory.config.dialects.values import (
    Key,
    anything,
    boolean,
    count,
    ignored,
    names,
    number,
    one_of,
    part,
    setting,
    settings_text,
    text,
    text_or_boolean,
)

STAGES = ("pt", "sft", "rm", "ppo", "dpo", "kto")
FOR_FULL = "With finetuning_type full or freeze."
LAYERWISE = "steps are the same; a layer's gradient is kept until all are there."
PROJECTIONS = ("std", "reverse_std", "right", "left")
BADAM_ORDERS = ("ascending", "descending", "random", "fixed")
PREFERENCES = ("sigmoid", "hinge", "ipo", "kto_pair", "orpo", "simpo")

OBJECTIVE: dict[str, Key] = {
    "stage": part("training.objective.type", one_of(*STAGES), "sft"),
    "pref_loss": part("training.objective", one_of(*PREFERENCES), "sigmoid"),
    "pref_beta": part("training.objective.beta", number, 0.1),
    "pref_ftx": part("training.objective.sft_weight", number, 0.0, off=(0.0,)),
    "simpo_gamma": part("training.objective.gamma", number, 0.5),
    "dpo_label_smoothing": part("training.objective.label_smoothing", number, 0.0, off=(0.0,)),
    "kto_chosen_weight": part("training.objective.chosen_weight", number, 1.0, off=(1.0,)),
    "kto_rejected_weight": part("training.objective.rejected_weight", number, 1.0, off=(1.0,)),
    "use_dft_loss": part("training.objective.dft", boolean, True),
    "use_asft_loss": part("training.objective.type", boolean, True, about="The objective asft."),
    "asft_alpha": part("training.objective.alpha", number, 0.1),
    "use_eaft_loss": part("training.objective.type", boolean, True, about="The objective eaft."),
    "eaft_alpha": part("training.objective.alpha", number, 1.0),
    "label_smoothing_factor": part("training.objective.label_smoothing", number, 0.0, off=(0.0,)),
    "pref_bco_weight": part("training.objective.bco_weight", number, 0.0, off=(0.0,),
                            about="One baseline for a whole update."),
    "ld_alpha": part("training.objective.tail_weight", number, 0.5),
    "compute_accuracy": ignored("exact_match and token_f1 of held-out rows are always shown.",
                                boolean, True),
}  # fmt: skip
"""What is minimised."""

COURSE: dict[str, Key] = {
    "per_device_train_batch_size": part(
        "training.batch_size, training.micro_batch_size",
        count,
        2,
        about="An update has this many rows x accumulation x processes.",
    ),
    "gradient_accumulation_steps": part("training.batch_size, training.micro_batch_size", count, 8),
    "learning_rate": setting("training.learning_rate", number, 1e-4),
    "num_train_epochs": setting("training.epochs", number, 3.0),
    "max_steps": setting(
        "training.max_steps", count, 1000, about="-1 leaves it to the epochs.", off=(-1,)
    ),
    "lr_scheduler_type": part("training.schedule", text, "cosine"),
    "warmup_ratio": part("training.warmup_fraction", number, 0.1),
    "warmup_steps": part(
        "training.warmup_steps", number, 20, about="Below 1 a fraction; 0 leaves it to the ratio."
    ),
    "weight_decay": setting("training.weight_decay", number, 0.01),
    "max_grad_norm": setting("training.max_grad_norm", number, 1.0),
    "optim": part(
        "training.optimizer",
        text,
        "adamw_torch",
        about="AdamW in its fused form or of 8 bits (also for paged kinds), Adafactor, SGD, Muon.",
    ),
    "adam_beta1": part("training.optimizer.betas", number, 0.9),
    "adam_beta2": part("training.optimizer.betas", number, 0.999),
    "adam_epsilon": part("training.optimizer.eps", number, 1e-8),
    "neftune_noise_alpha": setting("training.neftune_alpha", number, 5),
    "early_stopping_steps": part(
        "training.early_stopping_steps", count, 3, about="Needs eval_strategy steps."
    ),
    "seed": setting("training.seed", count, 42),
    "disable_shuffling": part("training.shuffle", boolean, True),
    "lr_scheduler_kwargs": part(
        "training.schedule",
        settings_text,
        {},
        about="num_cycles, power, min_lr, min_lr_rate or lr_end, as the schedule knows them.",
    ),
    "use_muon": part("training.optimizer", boolean, True, about="The same as optim muon."),
    "use_adam_mini": part("training.optimizer", boolean, True),
    "use_galore": part("training.optimizer", boolean, True, about=FOR_FULL),
    "galore_target": part("training.optimizer.targets", names, "all"),
    "galore_rank": part("training.optimizer.rank", count, 16),
    "galore_update_interval": part("training.optimizer.update_interval", count, 200),
    "galore_scale": part("training.optimizer.scale", number, 2.0),
    "galore_proj_type": part("training.optimizer.side", one_of(*PROJECTIONS, "full"), "std"),
    "galore_layerwise": ignored(LAYERWISE, boolean, True),
    "use_apollo": part("training.optimizer", boolean, True, about=FOR_FULL),
    "apollo_target": part("training.optimizer.targets", names, "all"),
    "apollo_rank": part("training.optimizer.rank", count, 16),
    "apollo_update_interval": part("training.optimizer.update_interval", count, 200),
    "apollo_scale": part("training.optimizer.scale", number, 32.0),
    "apollo_proj": part("training.optimizer.directions", one_of("random", "svd"), "random"),
    "apollo_proj_type": part("training.optimizer.side", one_of("std", "right", "left"), "std"),
    "apollo_scale_type": part("training.optimizer.per", one_of("channel", "tensor"), "channel"),
    "apollo_scale_front": ignored("the growth of steps is limited the same either way.",
                                  boolean, False),
    "apollo_layerwise": ignored(LAYERWISE, boolean, True),
    "use_badam": part("training.optimizer", boolean, True, about=FOR_FULL),
    "badam_mode": part("training.optimizer", one_of("layer", "ratio"), "layer",
                       about="Only layer."),
    "badam_switch_mode": part("training.optimizer.order", one_of(*BADAM_ORDERS), "ascending"),
    "badam_switch_interval": part("training.optimizer.switch_interval", count, 50,
                                  about="-1: the first layer trains alone."),
    "badam_start_block": part("training.optimizer.start_layer", count, 0),
    "badam_verbose": ignored("every step is logged.", count, 0),
    "group_by_length": ignored("micro-batches are cut from rows of like length.", boolean, True),
    "torch_compile": setting("training.compile", boolean, True),
    "tf32": ignored("float32 products take the fast way where there is one.", boolean, True),
}  # fmt: skip
"""How long, how fast, with what."""

PROCESSES: dict[str, Key] = {
    "deepspeed": part(
        "training.parallel", anything, "ds_z3_config.json",
        about="A file or its values: stages 0 and 1 are ddp, 2 and 3 fsdp, `device: cpu` offload.",
        off=(None, ""),
    ),
    "fsdp": part(
        "training.parallel", anything, "full_shard auto_wrap",
        about="shard_grad_op keeps weights whole between the passes.",
        off=(None, ""),
    ),
    "context_parallel_size": part(
        "training.parallel.context", count, 2, about="Needs no Megatron here.", off=(1, None),
    ),
    "ray_num_workers": setting("ray.workers", count, 4, about="With USE_RAY=1 or `--on ray`."),
    "ray_init_kwargs": setting(
        "ray.init", anything, {"include_dashboard": False}, about="With USE_RAY=1 or `--on ray`.",
        off=(None, ""),
    ),
    "fsdp_config": part(
        "training.parallel", anything, None,
        about="Its values or their file, or Accelerate's YAML; layers are found by themselves.",
        off=(None,),
    ),
}  # fmt: skip
"""How several processes share a run."""

OUTPUT: dict[str, Key] = {
    "do_train": part("do_train", boolean, True),
    "output_dir": setting("output_dir", text, "saves/qwen/lora/sft"),
    "overwrite_output_dir": setting(
        "overwrite_output_dir",
        boolean,
        True,
        about="A finished run is replaced once the new one is whole.",
    ),
    "save_steps": part(
        "training.checkpoint_steps", number, 500, about="A fraction is one of the whole run."
    ),
    "save_strategy": part(
        "training.checkpoint_steps",
        one_of("steps", "epoch", "no", "best"),
        "steps",
        about="With `no` one is written half-way: a run that breaks goes on from it. `best` is as "
        "load_best_model_at_end.",
    ),
    "save_total_limit": part("training.loadable_checkpoints", count, 1,
                             about="Of the folders checkpoint-N; two exact states stay."),
    "save_only_model": part("training.checkpoints_kept", boolean, False,
                            about="Only the two newest states that a run goes on from stay."),
    "resume_from_checkpoint": setting(
        "resume_from_checkpoint",
        text_or_boolean,
        "saves/qwen/lora/sft/checkpoint-500",
        about="Not given: a run that was interrupted goes on from its newest checkpoint by itself.",
    ),
    "logging_steps": ignored("every step is logged.", number, 10),
    "logging_strategy": ignored("every step is logged.", text, "steps"),
    "logging_first_step": ignored("every step is logged.", boolean, True),
    "log_level": ignored("problems are always shown.", text, "info"),
    "disable_tqdm": ignored("the bar is drawn on terminals only.", boolean, True),
    "logging_dir": part("log_dir", text, "logs", about="TensorBoard's logs."),
    "log_dir": part("log_dir", text, "logs", about="TensorBoard's logs."),
    "push_to_hub": part("upload_to", boolean, False, about="Once the run is done."),
    "hub_model_id": part("upload_to", text, "owner/name", about="Without: output_dir's name."),
    "hub_private_repo": part("upload_is_private", boolean, False),
    "report_to": part("training.report_to", names, "none"),
    "run_name": part("training.report_to", text, "first", about="Weights & Biases shows it."),
    "plot_loss": ignored("training_loss.png is always drawn.", boolean, True),
    "include_num_input_tokens_seen": ignored("tokens are always counted.", boolean, True),
    "dataloader_num_workers": ignored("batches are cut from tokens that are there already.",
                                      count, 4),
    "dataloader_pin_memory": ignored("batches are small beside the model.", boolean, True),
    "remove_unused_columns": ignored("only known columns are read.", boolean, False),
    "ddp_timeout": ignored("one process waits for nobody.", number, 180000000),
    "save_safetensors": ignored("weights are always safetensors.", boolean, True),
}  # fmt: skip
"""What a run writes, and where it runs."""

EVALUATION: dict[str, Key] = {
    "do_eval": part(
        "do_predict",
        boolean,
        True,
        about="Without `do_train` the held-out rows are answered and judged.",
    ),
    "do_predict": part("do_predict", boolean, True, about="Without `do_train` nothing is trained."),
    "predict_with_generate": ignored("held-out rows are always answered.", boolean, True),
    "eval_strategy": part("training.eval_steps", one_of("no", "steps", "epoch"), "no"),
    "evaluation_strategy": part("training.eval_steps", one_of("no", "steps", "epoch"), "no"),
    "eval_steps": part("training.eval_steps", number, 500),
    "per_device_eval_batch_size": ignored("evaluation.batch_tokens bounds it.", count, 1),
    "eval_on_each_dataset": ignored("scores are shown for each set.", boolean, True),
    "load_best_model_at_end": part(
        "training.keep_best", boolean, False, about="Needs eval_strategy steps or epoch."
    ),
    "metric_for_best_model": ignored("the loss on held-out rows decides.", text, "eval_loss"),
    "max_new_tokens": setting("evaluation.max_new_tokens", count, 512),
}
"""Tests during and after a run."""

DRAWN = "`chat` follows it, the API takes it with a request; tests are not drawn."
GENERATION: dict[str, Key] = {
    "infer_backend": ignored("the API's engine is serving.engine; training needs none.", text,
                             "huggingface"),
    "do_sample": ignored(DRAWN,
                         boolean, True),
    "temperature": ignored(DRAWN,
                           number, 0.95),
    "top_p": ignored(DRAWN,
                     number, 0.7),
    "top_k": ignored(DRAWN, count, 50),
    "repetition_penalty": ignored(DRAWN,
                                  number, 1.0),
    "export_dir": ignored("it matters to `export`, which takes this file too.", text, "merged"),
    "export_size": ignored("it matters to an export.", count, 5),
    "export_device": ignored("it matters to an export.", text, "cpu"),
}  # fmt: skip
"""Answers and exports, which other commands make."""
