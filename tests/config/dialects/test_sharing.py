"""DeepSpeed's, Accelerate's and Transformers' ways to divide a model become `training.parallel`."""

import json

import pytest
import yaml

from llama_factory.config.dialects.translate import translate
from llama_factory.rounds.settings import LearningConfig

FLAT = {"model_name_or_path": "tiny", "stage": "sft", "do_train": True, "finetuning_type": "lora"}


def shared(**keys):
    """What keys come to below `training.parallel`, and what is said of them."""
    done = translate(FLAT | keys)
    assert done.problems == []
    found = {
        name.rpartition(".")[2]: each for name, each in done.settings.items() if "parallel" in name
    }
    return found, [note for note in done.notes if note.partition(":")[0] in keys]


def zero(stage, **more):
    return {"zero_optimization": {"stage": stage, **more}}


def accelerated(**values):
    return {"distributed_type": "FSDP", "fsdp_config": values}


CPU = {"device": "cpu", "pin_memory": True}


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (zero(0), {"type": "ddp"}),
        (zero(1, offload_optimizer=CPU), {"type": "ddp"}),
        (zero(2), {"type": "fsdp", "reshard": False}),
        (zero(3), {"type": "fsdp"}),
        (zero(3, offload_param=CPU), {"type": "fsdp", "offload": "cpu"}),
        (zero(2, offload_optimizer=CPU), {"type": "fsdp", "reshard": False, "offload": "cpu"}),
        ({}, {"type": "ddp"}),
    ],
)
def test_stages_of_zero(tmp_path, values, found):
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(values))
    in_file, (*_, note) = shared(deepspeed=str(path))
    assert in_file == found == shared(deepspeed=values)[0]
    assert f"is training.parallel: {found['type']}" in note
    config = {"parallel": found}
    assert LearningConfig.model_validate({"training": config}).training.parallel.shards == (
        found["type"] == "fsdp"
    )


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("places", [{}, {"offload_optimizer": CPU}])
def test_deepspeeds_own_classes_read_such_files_alike(stage, places):
    config = pytest.importorskip("deepspeed.runtime.zero.config", reason="needs deepspeed")
    values = zero(stage, **places)
    theirs = config.DeepSpeedZeroConfig(**values["zero_optimization"])
    ours = shared(deepspeed=values)[0]
    assert (ours["type"] == "fsdp") == (theirs.stage >= 2)
    has_moved = theirs.offload_optimizer is not None and theirs.offload_optimizer.device == "cpu"
    assert (ours.get("offload") == "cpu") == (has_moved and theirs.stage >= 2)
    with pytest.raises(ValueError, match="overlap_com"):
        config.DeepSpeedZeroConfig(overlap_com=True)


def test_files_that_the_other_program_ships_are_known_by_name():
    assert shared(deepspeed="examples/deepspeed/ds_z3_config.json")[0] == {"type": "fsdp"}
    offloading = shared(deepspeed="examples/deepspeed/ds_z2_offload_config.json")[0]
    assert offloading == {"type": "fsdp", "reshard": False, "offload": "cpu"}


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({"fsdp": "full_shard auto_wrap"}, {"type": "fsdp"}),
        ({"fsdp": ["shard_grad_op", "auto_wrap"]}, {"type": "fsdp", "reshard": False}),
        ({"fsdp": "full_shard,offload"}, {"type": "fsdp", "offload": "cpu"}),
        ({"fsdp": True}, {"type": "fsdp"}),
        ({"fsdp": "no_shard"}, {"type": "ddp"}),
        (
            {
                "fsdp": "full_shard",
                "fsdp_config": {"reshard_after_forward": False, "cpu_offload": True},
            },
            {"type": "fsdp", "reshard": False, "offload": "cpu"},
        ),
        ({"fsdp": ""}, {}),
    ],
)
def test_words_of_fsdp(keys, found):
    assert shared(**keys)[0] == found


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (
            accelerated(fsdp_sharding_strategy="FULL_SHARD", fsdp_offload_params=True),
            {"type": "fsdp", "offload": "cpu"},
        ),
        (
            accelerated(fsdp_version=2, fsdp_reshard_after_forward=False),
            {"type": "fsdp", "reshard": False},
        ),
        (
            {"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 3}},
            {"type": "fsdp"},
        ),
        ({"distributed_type": "MULTI_GPU"}, {"type": "ddp"}),
    ],
)
def test_the_yaml_of_accelerate(tmp_path, values, found):
    path = tmp_path / "fsdp_config.yaml"
    path.write_text(yaml.safe_dump(values))
    assert shared(fsdp_config=str(path))[0] == found


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"deepspeed": "nowhere.json"}, "nowhere.json is no file here"),
        ({"deepspeed": zero(5)}, "there are 0, 1, 2 and 3"),
        ({"deepspeed": zero(3, offload_param={"device": "nvme"})}, "nvme"),
    ],
)
def test_what_cannot_be_followed_is_refused(keys, problem):
    ((_, said),) = translate(FLAT | keys).problems
    assert problem in said


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({"context_parallel_size": 4}, {"type": "ddp", "context": 4}),
        ({"context_parallel_size": 2, "fsdp": "full_shard"}, {"type": "fsdp", "context": 2}),
        ({"context_parallel_size": 1}, {}),
    ],
)
def test_rows_that_processes_compute_together(keys, found):
    assert shared(**keys)[0] == found


def test_what_a_file_says_besides_is_told():
    _, notes = shared(deepspeed=zero(3) | {"optimizer": {"type": "AdamW"}})
    assert any("its 'optimizer' is not read" in note for note in notes)
    _, notes = shared(deepspeed=zero(3, offload_param=CPU))
    assert any("is training.parallel: fsdp, offload: cpu here" in note for note in notes)
    _, notes = shared(deepspeed=zero(1, offload_optimizer=CPU))
    assert any("its offload is not followed" in note for note in notes)
