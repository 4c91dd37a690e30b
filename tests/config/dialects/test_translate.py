"""LLaMA-Factory's flat keys, one by one and together."""

import pytest

from llama_factory.config import schema
from llama_factory.config.dialects.keys import DEFAULTS, KEYS
from llama_factory.config.dialects.translate import translate
from llama_factory.config.explain import explain
from llama_factory.config.loading import load_config, resolve
from llama_factory.core.errors import ConfigError

FROM_EXAMPLES = """
model_name_or_path template trust_remote_code stage preprocessing_num_workers output_dir
finetuning_type cutoff_len do_train dataset dataset_dir per_device_train_batch_size
overwrite_output_dir lr_scheduler_type logging_steps learning_rate gradient_accumulation_steps
save_steps report_to warmup_ratio warmup_steps plot_loss dataloader_num_workers bf16 fp16
max_samples ddp_timeout num_train_epochs max_steps save_only_model overwrite_cache lora_target
lora_rank lora_alpha lora_dropout resume_from_checkpoint deepspeed fsdp flash_attn
adapter_name_or_path create_new_adapter export_dir export_size export_device export_legacy_format
quantization_bit quantization_method double_quantization disable_gradient_checkpointing packing
neat_packing pure_bf16 seed freeze_trainable_layers freeze_trainable_modules pref_beta pref_loss
pref_ftx simpo_gamma use_dora use_rslora pissa_init loraplus_lr_ratio neftune_noise_alpha
use_dft_loss eval_dataset val_size per_device_eval_batch_size eval_strategy eval_steps
predict_with_generate do_predict do_eval max_grad_norm weight_decay optim adam_beta1 adam_beta2
image_max_pixels video_max_pixels freeze_vision_tower freeze_multi_modal_projector train_on_prompt
mask_history streaming buffer_size mix_strategy interleave_probs tokenized_path compute_accuracy
early_stopping_steps save_total_limit include_num_input_tokens_seen logging_dir run_name
infer_backend do_sample temperature top_p top_k max_new_tokens repetition_penalty
"""
"""The keys of LLaMA-Factory's own example files."""

FROM_ARTICLE = """
data_path replay_buffer_size ewc_lambda gradient_checkpointing device_map lora_target_modules
log_dir num_workers
"""
"""What the article's commands say beside them."""

BESIDE = {
    "interleave_probs": {"dataset": "a,b", "mix_strategy": "interleave_over"},
    "early_stopping_steps": {"eval_strategy": "steps"},
    "oft_block_size": {"finetuning_type": "oft"},
    "oft_target": {"finetuning_type": "oft"},
    "module_dropout": {"finetuning_type": "oft"},
    "freeze_trainable_layers": {"finetuning_type": "freeze"},
    "freeze_trainable_modules": {"finetuning_type": "freeze"},
    "freeze_extra_modules": {"finetuning_type": "freeze"},
    "quantization_type": {"quantization_bit": 4},
    "double_quantization": {"quantization_bit": 4},
    "pissa_iter": {"pissa_init": True},
    "ld_alpha": {"stage": "dpo"},
    **{name: {"finetuning_type": "full"} for name in ("use_galore", "use_apollo", "use_badam")},
    "run_name": {"report_to": "wandb"},
}
"""What some keys need beside them to mean anything."""

SETTINGS = [name for name, key in KEYS.items() if key.kind == "setting"]
LIMITED = [name for name, key in KEYS.items() if key.kind == "limited"]
EXAMPLE = """\
### model
model_name_or_path: meta-llama/Meta-Llama-3-8B-Instruct
trust_remote_code: true

### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all

### dataset
dataset: identity,alpaca_en_demo
template: llama3
cutoff_len: 2048
max_samples: 1000
preprocessing_num_workers: 16
dataloader_num_workers: 4

### output
output_dir: saves/llama3-8b/lora/sft
logging_steps: 10
save_steps: 500
plot_loss: true
overwrite_output_dir: true
save_only_model: false
report_to: none  # choices: [none, wandb, tensorboard, swanlab, mlflow]

### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
resume_from_checkpoint: null
"""


def flat(**keys):
    return {"model_name_or_path": "tiny"} | keys


def written(tmp_path, text):
    path = tmp_path / "flat.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def config_of(*changes):
    return load_config(None, ["model_name_or_path=tiny", *changes])


def problem(*changes):
    with pytest.raises(ConfigError) as caught:
        config_of(*changes)
    return str(caught.value)


def test_every_key_of_the_examples_and_the_article_is_known():
    assert [name for name in (FROM_EXAMPLES + FROM_ARTICLE).split() if name not in KEYS] == []


def test_the_example_of_every_key_is_read_or_refused_as_not_supported_yet():
    for name, key in KEYS.items():
        done = translate(flat(**BESIDE.get(name, {})) | {name: key.example})
        wrong = [each for each in done.problems if "not supported yet" not in each[1]]
        assert wrong == [], name


def test_every_key_says_what_it_becomes_or_why_it_needs_nothing():
    assert [name for name, key in KEYS.items() if not key.target and len(key.about) <= 5] == []


def test_a_key_that_is_a_setting_under_another_name_sets_it():
    for name in SETTINGS:
        key = KEYS[name]
        done = translate(flat() | {name: key.example})
        if schema.has(key.target, {}):
            assert done.settings[key.target] == key.convert(key.example), name
            assert done.sources[key.target] == name
        elif key.example not in key.off:
            assert done.problems[0][1].startswith("known, but not supported yet."), name
        else:
            assert done.problems == [], name


def test_a_value_that_is_not_supported_is_refused_with_what_to_do():
    for name in LIMITED:
        done = translate(flat() | {name: "something else"})
        assert done.problems == [(name, f"'something else' is not supported: {KEYS[name].about}")]


def test_the_supported_values_of_a_limited_key_are_accepted_also_as_text():
    for name in LIMITED:
        for value in KEYS[name].off:
            assert translate(flat() | {name: value}).problems == [], name
            if value is not None:
                assert translate(flat() | {name: str(value).lower()}).problems == [], name


def test_their_example_file_means_the_same_here(tmp_path):
    config = load_config(written(tmp_path, EXAMPLE))
    assert config.model.base_model == "meta-llama/Meta-Llama-3-8B-Instruct"
    assert config.model.trust_remote_code
    assert config.model.template == "llama3"
    assert config.model.dtype == "bfloat16"
    adapter = config.model.adapter
    assert (adapter.rank, adapter.alpha, adapter.targets) == (8, None, "all")
    assert config.data.dataset == ["identity", "alpaca_en_demo"]
    assert config.data.mix.max_samples == 1000
    assert (config.data.max_tokens, config.data.held_out_fraction) == (2048, 0.0)
    training = config.training
    assert (training.batch_size, training.micro_batch_size) == (8, 1)
    assert (training.learning_rate, training.epochs, training.max_steps) == (1e-4, 3.0, None)
    assert (training.warmup_fraction, training.final_lr_fraction) == (0.1, 0.0)
    assert (training.seed, training.checkpoint_steps) == (42, 500)
    assert config.strategies == []
    assert config.data.cleaning == []
    assert str(config.output_dir) == "saves/llama3-8b/lora/sft"
    assert config.overwrite_output_dir


def test_their_defaults_hold_where_a_key_is_not_given():
    config = config_of()
    assert config.training.learning_rate == DEFAULTS["learning_rate"] == 5e-5
    assert (config.training.batch_size, config.training.micro_batch_size) == (8, 8)
    assert config.data.max_tokens == 2048
    assert config.model.adapter.rank == 8
    assert type(config.training.schedule).__name__ == "Linear"


def test_flags_win_over_the_file(tmp_path):
    config = load_config(written(tmp_path, EXAMPLE), ["lora_rank=32", "training.max_minutes=5"])
    assert config.model.adapter.rank == 32
    assert config.training.max_minutes == 5


def test_flat_keys_change_a_file_with_sections(tmp_path):
    text = "model: {base_model: tiny, adapter: lora}\ntraining: {batch_size: 32, seed: 7}\n"
    config = load_config(written(tmp_path, text), ["lora_rank=4", "learning_rate=1e-5"])
    assert config.model.adapter.rank == 4
    assert (config.training.learning_rate, config.training.seed) == (1e-5, 7)
    assert config.strategies != []


def test_accumulation_beside_sections_multiplies_what_is_computed_at_once(tmp_path):
    path = written(tmp_path, "training: {batch_size: 32, micro_batch_size: 8}\n")
    training = load_config(path, ["gradient_accumulation_steps=2"]).training
    assert (training.batch_size, training.micro_batch_size) == (16, 8)
    training = load_config(path, ["per_device_train_batch_size=4"]).training
    assert (training.batch_size, training.micro_batch_size) == (16, 4)


def test_a_batch_is_for_each_of_the_processes_and_that_is_told(monkeypatch):
    said = ["model_name_or_path=tiny", "per_device_train_batch_size=2"]
    found = resolve(None, [*said, "gradient_accumulation_steps=8"], num_processes=4)
    assert found.config.training.batch_size == 64
    assert found.config.training.micro_batch_size == 2
    told = "training.batch_size is 64: 2 rows of a process at once x 8 (gradient_accumulation_steps"
    assert any(note.startswith(told) and "x 4 processes" in note for note in found.notes)
    assert f"# {told}" in explain(found)
    assert resolve(None, said).config.training.batch_size == 2
    monkeypatch.setenv("WORLD_SIZE", "3")  # as torchrun sets it
    assert resolve(None, said).config.training.batch_size == 6
    assert resolve(None, said[:1]).config.training.batch_size == 3 * 8


def test_a_batch_of_our_own_is_that_of_all_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    path = written(tmp_path, "training: {batch_size: 32, micro_batch_size: 8}\n")
    assert load_config(path).training.batch_size == 32
    assert load_config(path, ["per_device_train_batch_size=4"]).training.batch_size == 48
    assert load_config(None, ["training.batch_size=5"]).training.batch_size == 5


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        (["warmup_steps=20", "warmup_ratio=0.1"], (20, 0.05)),
        (["warmup_steps=0", "warmup_ratio=0.1"], (None, 0.1)),
        (["warmup_steps=0.03"], (None, 0.03)),
        (["lr_scheduler_type=constant", "warmup_ratio=0.1"], (None, 0.0)),
        (["lr_scheduler_type=constant_with_warmup", "warmup_ratio=0.1"], (None, 0.1)),
    ],
)
def test_warm_up_is_that_of_transformers(changes, seen):
    training = config_of(*changes).training
    assert (training.warmup_steps, training.warmup_fraction) == seen


def test_max_steps_of_minus_one_leaves_it_to_the_epochs():
    assert config_of("max_steps=-1").training.max_steps is None
    assert config_of("max_steps=10").training.max_steps == 10


@pytest.mark.parametrize(
    ("changes", "dtype"),
    [
        (["bf16=true"], "bfloat16"),
        (["pure_bf16=true"], "pure_bfloat16"),
        (["fp16=true"], "float16"),
        (["bf16=false", "fp16=False"], "auto"),
    ],
)
def test_number_formats(changes, dtype):
    assert config_of(*changes).model.dtype == dtype


@pytest.mark.parametrize(
    ("word", "name"), [("auto", "auto"), ("sdpa", "sdpa"), ("disabled", "eager")]
)
def test_attention_by_its_other_names(word, name):
    assert config_of(f"flash_attn={word}").model.attention == name


def test_a_faster_program_that_is_not_installed_is_left_out_and_told(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = resolve(None, ["model_name_or_path=tiny", "flash_attn=fa2", "enable_liger_kernel=true"])
    assert found.config.model.attention == "auto"
    assert not found.config.training.liger_kernel
    assert found.notes == [
        "flash_attn: flash-attn is not installed; torch's own attention is used.",
        "enable_liger_kernel: liger-kernel is not installed; it is left out.",
    ]


def test_a_faster_program_that_is_installed_is_taken(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    config = config_of("flash_attn=fa2", "enable_liger_kernel=true", "torch_compile=true")
    assert config.model.attention == "flash_attention_2"
    assert config.training.liger_kernel
    assert config.training.compile


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ([], "auto"),
        (["gradient_checkpointing=true"], True),
        (["disable_gradient_checkpointing=true"], False),
        (["disable_gradient_checkpointing=false"], "auto"),
    ],
)
def test_activations_are_computed_again_as_the_keys_say(changes, wanted):
    assert config_of(*changes).training.gradient_checkpointing == wanted


def test_adapters_take_their_own_keys():
    pissa = config_of("pissa_init=true", "use_rslora=true", "lora_target=q_proj,v_proj")
    assert pissa.model.adapter.init == "pissa_niter_16"
    assert pissa.model.adapter.use_rslora
    assert pissa.model.adapter.targets == ["q_proj", "v_proj"]
    frozen = config_of("finetuning_type=freeze", "freeze_trainable_layers=-3").model.adapter
    assert (frozen.lowest, frozen.highest) == (3, None)
    packed = config_of("quantization_bit=8", "lora_rank=4").model.adapter
    assert (packed.bits, packed.rank) == (8, 4)


def test_keys_of_another_adapter_are_told():
    notes = resolve(None, ["model_name_or_path=tiny", "finetuning_type=full", "lora_rank=4"]).notes
    assert notes == ["lora_rank: not read where the adapter is full."]


def test_adams_numbers_and_other_optimizers():
    adam = config_of("adam_beta2=0.95", "adam_epsilon=1e-6").training.optimizer
    assert (adam.betas, adam.eps) == ((0.9, 0.95), 1e-6)
    assert type(config_of("optim=muon").training.optimizer).__name__ == "Muon"


def test_reports_go_where_they_are_asked_to():
    assert config_of("report_to=none").training.report_to == []
    wandb = config_of("report_to=wandb", "run_name=第一次").training.report_to[0]
    assert wandb.run_name == "第一次"


def test_shares_of_a_mix_are_those_of_the_sets():
    changes = ["dataset=身份,b", "mix_strategy=interleave_under", "interleave_probs=0.7,0.3"]
    assert config_of(*changes).data.mix.shares == {"身份": 0.7, "b": 0.3}


def test_the_replay_buffer_of_the_article_is_the_replay_strategy():
    resolved = resolve(None, ["model_name_or_path=tiny", "replay_buffer_size=500"])
    assert resolved.config.strategies[0].buffer_size == 500
    assert "a workspace keeps them" in resolved.notes[0]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["lora_rnk=4"], "--set lora_rnk=4: no such key. Did you mean 'lora_rank'?"),
        (["lora_rank=0"], "--lora_rank 0: must be greater than or equal to 1; it is 0."),
        (["lora_rank=few"], "--lora_rank few: must be a number; it is 'few'."),
        (["lora_rank=1.5"], "--lora_rank 1.5: must be a whole number; it is 1.5."),
        (["learning_rate=fast"], "--learning_rate fast: must be a number; it is 'fast'."),
        (["bf16=maybe"], "--bf16 maybe: must be true or false; it is 'maybe'."),
        (["stage=stf"], "must be one of pt, sft, rm, ppo, dpo, kto; it is 'stf'. Did you mean"),
        (["stage=ppo"], "--stage ppo: 'ppo' is known, but not supported. Use dpo or kto"),
        (["fp16=true", "bf16=true"], "--fp16 true: contradicts bf16: there is one number format"),
        (["val_size=0.1", "eval_dataset=b"], "--val_size 0.1: contradicts eval_dataset"),
        (["train_on_prompt=1", "mask_history=1"], "--mask_history 1: contradicts train_on_prompt"),
        (["dataset=a", "data_path=b.jsonl"], "--data_path b.jsonl: contradicts dataset"),
        (["interleave_probs=0.5,0.5"], "needs mix_strategy interleave_under or interleave_over"),
        (
            ["dataset=a", "mix_strategy=interleave_over", "interleave_probs=1,2"],
            "2 shares for 1 names in dataset",
        ),
        (
            ["dataset=a", "mix_strategy=interleave_over", "interleave_probs=all"],
            "must be numbers, as in 0.7,0.3; it is ['all'].",
        ),
        (["stage=dpo", "pref_loss=kto_pair"], "--pref_loss kto_pair: 'kto_pair' is not supported"),
        (["lr_scheduler_type=greedy"], "'greedy' is not supported. Use linear, cosine"),
        (["lr_scheduler_kwargs={power: 2}"], "the schedule knows no settings, and not power."),
        (["load_best_model_at_end=true"], "needs eval_strategy steps or epoch."),
        (
            ["use_galore=true"],
            "use_galore true: saves memory where all weights train. Use finetuning_type full",
        ),
        (["use_mca=true"], "needs Megatron. Leave it out"),
        (["stage=rm", "pref_ftx=0.5"], "the objective reward has no weight of the plain loss"),
        (["optim=adamw_torh"], "is not supported. Did you mean 'adamw_torch'?"),
        (["quantization_bit=4", "finetuning_type=full"], "a quantised base cannot be trained as"),
        (["early_stopping_steps=3"], "counts tests in a run. Give eval_strategy steps too."),
        (["gradient_accumulation_steps=0"], "must be at least 1; it is 0."),
        (["do_train=false"], "do_train is off and so is do_predict: nothing is to be done."),
        (["report_to=wandbb"], "'wandbb' is not a reporter. Did you mean 'wandb'?"),
        (["template=[1]"], "--template [1]: must be text; it is [1]."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_keys_say_what_is_wrong(changes, told):
    assert told in problem(*changes)


def test_the_base_model_must_be_given():
    with pytest.raises(ConfigError, match="model_name_or_path: not given. Name the base model"):
        load_config(None, ["lora_rank=4"])


def test_all_problems_of_a_flat_file_are_told_at_once_with_their_lines(tmp_path):
    path = written(tmp_path, "model_name_or_path: x\nlora_rnk: 4\nlora_rank: 0\nbf16: 2\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["cutoff_len=1"])
    told = str(caught.value)
    assert "4 problems" in told
    assert "line 2: lora_rnk: no such key. Did you mean 'lora_rank'?" in told
    assert "line 3: lora_rank: must be greater than or equal to 1; it is 0." in told
    assert "line 4: bf16: must be true or false; it is 2." in told
    assert "--cutoff_len 1: must be greater than or equal to 16; it is 1." in told


def test_a_flat_key_among_sections_names_its_place(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, "model: {base_model: x}\nlora_rank: 4\n"))
    told = "line 2: lora_rank: a flat key of LLaMA-Factory; beside sections it is"
    assert f"{told} model.adapter.rank." in str(caught.value)


def test_what_is_not_asked_for_is_not_done():
    both = config_of("do_train=true", "do_predict=true")
    assert (both.do_train, both.do_predict) == (True, True)
    only = config_of("do_predict=true")
    assert (only.do_train, only.do_predict) == (False, True)
    assert (config_of().do_train, config_of().do_predict) == (True, False)


def test_the_way_to_write_tools_is_a_name_that_is_known():
    assert config_of("tool_format=glm4").data.tool_format == "glm4"
    assert config_of("tool_format=").data.tool_format is None
    (problem,) = translate({"model_name_or_path": "x", "tool_format": "gwen"}).problems
    assert problem[0] == "tool_format"
    assert "'gwen' is no way to write tools that is known here. Did you mean 'qwen'" in problem[1]


def test_long_rows_are_cut_as_there():
    assert config_of("stage=pt").data.long_texts == "parts"
    assert config_of("stage=pt", "packing=true").data.long_texts == "parts"
    assert config_of("stage=pt", "packing=false").data.long_texts == "cut"
    assert config_of("stage=dpo").data.long_pairs == "share"
    assert config_of("stage=dpo", "data.long_pairs=turns").data.long_pairs == "turns"
    assert load_config(None).data.long_pairs == "turns"


DPO = {
    "type": "dpo",
    "beta": 0.1,
    "loss": "sigmoid",
    "sft_weight": 0.0,
    "label_smoothing": 0.0,
    "tail_weight": 1.0,
    "bco_weight": 0.0,
}
KTO = {
    "type": "kto",
    "beta": 0.1,
    "chosen_weight": 1.0,
    "rejected_weight": 1.0,
    "sft_weight": 0.0,
}


@pytest.mark.parametrize(
    ("changes", "objective"),
    [
        (["stage=pt"], {"type": "pretrain", "label_smoothing": 0.0}),
        (["stage=sft", "use_dft_loss=true"], {"type": "sft", "dft": True, "label_smoothing": 0.0}),
        (["stage=rm"], {"type": "reward"}),
        (
            ["stage=dpo", "pref_beta=0.2", "pref_loss=ipo", "pref_ftx=0.5"],
            DPO | {"beta": 0.2, "loss": "ipo", "sft_weight": 0.5},
        ),
        (["stage=dpo", "pref_loss=orpo"], {"type": "orpo", "beta": 0.1, "sft_weight": 0.0}),
        (
            ["stage=dpo", "pref_loss=simpo", "pref_ftx=0.5"],
            {"type": "simpo", "beta": 0.1, "gamma": 0.5, "sft_weight": 0.5},
        ),
        (
            ["stage=kto", "kto_rejected_weight=2"],
            KTO | {"rejected_weight": 2.0},
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_stage_is_an_objective(changes, objective):
    assert config_of(*changes).training.model_dump()["objective"] == objective


def test_pairs_are_never_packed_and_packing_means_the_same_elsewhere():
    assert config_of("stage=sft", "packing=true").training.packing == "longest_first"
    assert config_of("packing=true", "neat_packing=false").training.packing == "longest_first"
    assert config_of("packing=false", "neat_packing=true").training.packing == "longest_first"
    assert config_of("packing=false", "neat_packing=false").training.packing is False
    assert (
        config_of("packing=true", "cutoff_len=256").data.max_tokens == 255
    )  # one is padding there
    pretraining = config_of("stage=pt", "packing=true", "cutoff_len=256")
    assert (pretraining.training.packing, pretraining.data.max_tokens) == (True, 256)
    assert config_of("stage=pt").training.packing is None
    assert config_of("stage=dpo", "packing=true").training.packing is None
