"""Every key of LLaMA-Factory is known, and its own default is never an error."""

from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import yaml

from llama_factory.config.dialects.keys import KEYS
from llama_factory.config.dialects.other_keys import refused, working_differently
from llama_factory.config.dialects.translate import translate
from llama_factory.config.loading import load_config, resolve
from llama_factory.core.errors import ConfigError
from llama_factory.training.plan import every

THEIRS = yaml.safe_load((Path(__file__).parent / "their_keys.yaml").read_text(encoding="utf-8"))
"""Key -> default, of LLaMA-Factory's own arguments."""


def flat(**keys):
    return {"model_name_or_path": "tiny"} | keys


def of_transformers():
    from transformers import Seq2SeqTrainingArguments

    for field in fields(Seq2SeqTrainingArguments):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if field.init and not field.name.startswith("_"):
            yield field.name, default


def test_every_key_is_known_and_its_default_accepted():
    assert len(THEIRS) > 225
    for name, default in THEIRS.items():
        if name == "model_name_or_path":
            continue  # the one that must be given
        done = translate(flat() | {name: default})
        assert done.problems == [], name
        assert [note for note in done.notes if name in working_differently()] == [], name


def test_every_training_argument_of_transformers_is_known():
    found = dict(of_transformers())
    assert len(found) > 100
    assert sorted(set(found) - set(KEYS)) == []


def test_a_key_that_works_differently_says_so():
    found = resolve(None, ["model_name_or_path=tiny", "deepspeed=ds_z3_config.json", "fp8=true"])
    shared, fast = found.notes
    assert shared.startswith("deepspeed: ZeRO stage 3 is training.parallel: fsdp")
    assert fast.startswith("fp8: trained in bfloat16")
    assert resolve(None, ["model_name_or_path=tiny", "fp8=false"]).notes == []


def test_what_is_refused_says_what_to_do():
    for name, key in refused().items():
        (problem,) = translate(flat() | {name: "something else"}).problems
        assert problem == (name, f"'something else' is not supported: {key.about}")


def test_keys_that_nobody_knows_may_be_allowed(monkeypatch, tmp_path):
    path = tmp_path / "sft.yaml"
    path.write_text("model_name_or_path: tiny\nno_such_key: 1\n")
    monkeypatch.setenv("ALLOW_EXTRA_ARGS", "1")
    assert resolve(path).notes == ["no_such_key: nobody knows this key; it changes nothing."]
    monkeypatch.setenv("ALLOW_EXTRA_ARGS", "0")
    with pytest.raises(ConfigError, match="no_such_key: no such key"):
        resolve(path)


def training(*changes):
    return load_config(None, ["model_name_or_path=tiny", *changes]).training


def test_checkpoints_and_tests_each_epoch_or_share_of_the_run():
    found = training("save_strategy=epoch", "eval_strategy=epoch", "load_best_model_at_end=true")
    assert (found.checkpoint_steps, found.eval_steps, found.keep_best) == ("epoch", "epoch", True)
    found = training("save_steps=0.1", "eval_strategy=steps", "eval_steps=0.25")
    assert (found.checkpoint_steps, found.eval_steps, found.keep_best) == (0.1, 0.25, False)
    assert training("save_strategy=no").checkpoint_steps == 0.5


@pytest.mark.parametrize("wrong", ["0", "1.5", "often", "true", "-1"])
def test_how_often_must_be_updates_a_share_or_each_epoch(wrong):
    with pytest.raises(ConfigError) as caught:
        load_config(None, [f"training.eval_steps={wrong}"])
    told = str(caught.value)
    assert "must be a number of updates from 1, a share of the run below 1, or `epoch`" in told
    assert "1 problem" in told


@pytest.mark.parametrize(
    ("often", "steps"), [(50, 50), (0.1, 12), ("epoch", 40), (0.001, 1), (1, 1)]
)
def test_how_many_updates_lie_between(often, steps):
    assert every(often, 120, 3.0) == steps


def test_schedules_have_their_own_numbers():
    cycles = training(
        "lr_scheduler_type=cosine_with_restarts", "lr_scheduler_kwargs={num_cycles: 3}"
    )
    assert cycles.schedule.num_cycles == 3
    lowest = training(
        "lr_scheduler_type=cosine_with_min_lr",
        "learning_rate=1e-4",
        "lr_scheduler_kwargs={min_lr: 1e-5}",
    )
    assert lowest.final_lr_fraction == pytest.approx(0.1)
    text = training("lr_scheduler_type=polynomial", 'lr_scheduler_kwargs={"power": 2}')
    assert text.schedule.power == 2


def test_rates_and_the_order_of_rows_are_those_of_transformers():
    plain = training()
    assert (plain.schedule_ends, plain.shuffle) == ("after", True)
    assert not training("disable_shuffling=true").shuffle
    assert training("lr_scheduler_type=inverse_sqrt").schedule.timescale == 10_000
    assert training("lr_scheduler_type=inverse_sqrt", "warmup_steps=5").schedule.timescale is None
    given = training("lr_scheduler_type=inverse_sqrt", "lr_scheduler_kwargs={timescale: 9}")
    assert given.schedule.timescale == 9


def test_positions_reach_as_far_as_rows_need_and_twice_as_far_without_rows():
    given = ["model_name_or_path=tiny", "rope_scaling=yarn"]
    alone = load_config(None, given).model
    assert (alone.rope_scaling, alone.rope_tokens) == ("yarn", None)
    taught = load_config(None, [*given, "dataset=a", "cutoff_len=9000"]).model
    assert (taught.rope_scaling, taught.rope_tokens) == ("yarn", 9000)


def test_a_number_of_rows_is_held_out():
    data = load_config(None, ["model_name_or_path=tiny", "val_size=100"]).data
    assert data.held_out_rows == 100


def test_a_set_that_is_trained_and_tested_is_both_and_that_is_told():
    said = ["model_name_or_path=tiny", "dataset=identity,a", "eval_dataset=a"]
    found = resolve(None, said)
    assert found.config.data.teach_tests
    assert found.notes == [
        "eval_dataset: a is trained and tested: scores tell what is known by heart."
    ]
    assert not resolve(None, [*said[:2], "eval_dataset=b"]).config.data.teach_tests


def test_a_name_for_models_that_do_not_think_asks_for_no_thought():
    asked = load_config(None, ["model_name_or_path=tiny", "template=qwen3_nothink"]).data
    assert asked.enable_thinking is False
    said = ["model_name_or_path=tiny", "template=qwen3_nothink", "enable_thinking=true"]
    assert load_config(None, said).data.enable_thinking is True


def test_the_longest_answer_is_theirs_where_answers_are_what_a_run_is_for():
    found = load_config(None, ["model_name_or_path=tiny", "do_predict=true"])
    assert found.evaluation.max_new_tokens == 1024
    found = load_config(None, ["model_name_or_path=tiny", "do_eval=true"])
    assert (found.do_train, found.do_predict) == (False, True)


def test_tokens_of_a_file_are_added(tmp_path):
    path = tmp_path / "tokens.yaml"
    path.write_text('"<svg>": "Begins a picture"\n"</svg>": "Ends it"\n')
    found = load_config(None, flat(new_special_tokens_config=str(path)))
    assert found.model.new_special_tokens == ["<svg>", "</svg>"]
    problem = translate(flat(new_special_tokens_config="none.yaml")).problems[0][1]
    assert problem.startswith("none.yaml cannot be read as YAML")


def test_gradients_may_be_left_as_they_are():
    assert training("max_grad_norm=0").max_grad_norm == 0
    assert type(training("use_muon=true").optimizer).__name__ == "Muon"


def test_checkpoints_that_other_programs_read_are_kept_as_they_say():
    def kept(*changes):
        found = training(*changes)
        return found.loadable_checkpoints, found.checkpoints_kept

    assert kept() == ("all", "all")
    assert kept("save_total_limit=1") == (1, 2)
    assert kept("save_total_limit=3") == (3, 3)
    assert kept("save_total_limit=-1", "save_only_model=true") == ("all", 2)
    assert kept("save_strategy=no") == (0, 2)


@pytest.mark.parametrize(
    ("changes", "objective"),
    [
        (["use_asft_loss=true", "asft_alpha=0.05"], {"type": "asft", "alpha": 0.05}),
        (["use_eaft_loss=true"], {"type": "eaft", "alpha": 1.0}),
        (["label_smoothing_factor=0.1"], {"type": "sft", "dft": False, "label_smoothing": 0.1}),
        (["stage=pt", "label_smoothing_factor=0.1"], {"type": "pretrain", "label_smoothing": 0.1}),
    ],
    ids=str,
)
def test_losses_of_answers(changes, objective):
    assert training(*changes).model_dump()["objective"] == objective


def test_one_loss_at_a_time():
    problems = translate(flat(use_eaft_loss=True, use_asft_loss=True)).problems
    assert problems == [
        ("use_asft_loss", "contradicts use_eaft_loss: there is one loss. Keep one.")
    ]
    done = translate(flat(use_dft_loss=True, label_smoothing_factor=0.1))
    assert done.notes == ["label_smoothing_factor: not read beside use_dft_loss."]
    assert done.settings["training.objective.label_smoothing"] == 0.0
    assert training("stage=dpo", "ld_alpha=0.5").objective.tail_weight == 0.5
    (problem,) = translate(flat(stage="dpo", pref_loss="simpo", ld_alpha=0.5)).problems
    assert problem[1].startswith("the objective simpo does not tell the longer answer's tail apart")


def test_bco_beside_dpo():
    assert training("stage=dpo", "pref_bco_weight=0.5").objective.bco_weight == 0.5
    done = translate(flat(stage="dpo", pref_loss="orpo", pref_bco_weight=0.5))
    assert done.problems == []
    assert done.notes == ["pref_bco_weight: not read: orpo compares no pair with a reference."]


def optimizer(*changes):
    return training("finetuning_type=full", *changes).model_dump()["optimizer"]


def test_galore_and_apollo_with_their_numbers():
    found = optimizer("use_galore=true", "galore_target=all", "galore_proj_type=reverse_std")
    assert (found["type"], found["rank"], found["scale"]) == ("galore", 16, 2.0)
    assert (found["targets"], found["side"]) == ("all", "longer")
    found = optimizer("use_apollo=true", "apollo_rank=4", "apollo_proj=svd", "apollo_target=mlp")
    assert (found["type"], found["rank"], found["scale"]) == ("apollo", 4, 32.0)
    assert (found["directions"], found["targets"]) == ("main", ["mlp"])


def test_badam_and_adam_mini():
    found = optimizer("use_badam=true", "badam_switch_mode=descending", "adam_beta2=0.95")
    assert (found["type"], found["order"], found["betas"]) == ("badam", "descending", [0.9, 0.95])
    found = optimizer("use_badam=true", "badam_switch_interval=-1")
    assert (found["order"], found["switch_interval"]) == ("fixed", 50)
    assert optimizer("use_adam_mini=true")["type"] == "adam_mini"


def test_optimizers_that_do_not_go_together():
    two = translate(flat(finetuning_type="full", use_galore=True, use_apollo=True)).problems
    assert two == [("use_apollo", "contradicts use_galore: there is one optimizer. Keep one.")]
    (problem,) = translate(flat(use_galore=True)).problems
    assert problem[1].startswith("saves memory where all weights train. Use finetuning_type full")
    (problem,) = translate(
        flat(finetuning_type="full", use_badam=True, badam_mode="ratio")
    ).problems
    assert problem == ("badam_mode", "only whole layers take turns: use layer.")
    done = translate(flat(finetuning_type="full", use_galore=True, optim="adafactor"))
    assert done.notes == ["optim: not read beside use_galore, which keeps moments as AdamW does."]


def test_rotations_beside_a_packed_base():
    done = translate(flat(finetuning_type="oft", quantization_bit=4, double_quantization=False))
    assert done.problems == []
    assert done.settings["model.adapter.type"] == "qoft"
    assert done.settings["model.adapter.double_quant"] is False
