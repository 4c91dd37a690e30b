"""Processes that hold a part of the weights each make the updates of one that holds all."""

import json
import multiprocessing
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from llama_factory.core.errors import ConfigError
from llama_factory.core.types import Memory
from llama_factory.jobs.train import _require_whole
from llama_factory.model.adapted import adapt
from llama_factory.model.chat.encoding import EncodeOptions
from llama_factory.model.dtypes import Precision
from llama_factory.model.settings import ModelSettings
from llama_factory.model.sharding import held_bytes, is_part
from llama_factory.rounds.settings import LearningConfig
from llama_factory.training import loop, processes
from llama_factory.training.parallel.fsdp import Fsdp
from llama_factory.training.processes import process_group
from tests.continual import small
from tests.training.short_runs import examples, fit, losses
from tests.training.test_parallel import cases, free_port

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import fsdp_shards

# quick layers, which are off where weights are shared, round otherwise, and AdamW makes that larger
USUAL = {
    "report_to": [],
    "batch_size": 6,
    "max_steps": 4,
    "micro_batch_tokens": 64,
    "quick_layers": False,
}


def make(tiny, adapter):
    known = ModelSettings(base_model=str(tiny), dtype="float32", adapter=adapter)
    return adapt(known, None, options=EncodeOptions(128), seed=0)


def train(folder, tiny, adapter, environment, options):
    """One process's part of a run; the first one saves what came of it."""
    os.environ.update(environment)
    held = {}
    undo = loop.ends_of

    def look(run, rows):
        held["whole"] = not any(map(is_part, run.model.network.parameters()))
        return undo(run, rows)

    loop.ends_of = look
    with process_group(timeout=60) as ours:
        model = make(tiny, adapter)
        said = [] if ours.is_first else None
        trained = fit(
            tiny, folder, model=model, rows=examples(13), held_out=examples(5, "h"),
            say=said, **(USUAL | {"eval_steps": 2} | options),
        )  # fmt: skip
        assert held["whole"]
        if ours.is_first:
            trained.model.save(folder / "model")
            (folder / "measured.json").write_text(json.dumps(trained.measured))


def train_old_rows(folder, tiny, environment, names):
    """Runs with strategies, and another objective."""
    os.environ.update(environment)
    with process_group(timeout=60) as ours:
        for name in names:
            taught, strategies, memory, options = cases()[name]
            model = small.shake(small.make(tiny))
            usual = {"batch_size": 4, "max_steps": 2, "report_to": [], "parallel": "fsdp"}
            here = folder / name / str(ours.rank)
            more = usual | {"learning_rate": 0.05} | options
            trained = small.fit(model, here, taught, strategies, memory or Memory(), **more)
            if ours.is_first:
                torch.save(small.flat(trained.model), here / "weights.pt")


def together(count, target, *arguments):
    """Run a function in several processes; `{}` among the arguments becomes their environment."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # they begin with everything imported
    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    places |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    crew = []
    for rank in range(count):
        own = places | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        given = [own if each == {} else each for each in arguments]
        crew.append(context.Process(target=target, args=given))
        crew[-1].start()
    for process in crew:
        process.join(240)
    assert [process.exitcode for process in crew] == [0] * count


def weights(folder: Path):
    [path] = [*(folder / "model").glob("*model.safetensors")]
    return load_file(path)


FSDP = {"parallel": "fsdp"}
WAYS = [
    ("lora", {}, 2),
    ("full", {}, 3),
    ("full", {"parallel": {"type": "fsdp", "reshard": False}}, 2),
    ("full", {"parallel": {"type": "fsdp", "offload": "cpu"}, "checkpoint_steps": 1}, 3),
    ("lora", {"parallel": {"type": "fsdp", "offload": "cpu"}, "gradient_checkpointing": True}, 2),
    ("lora", {"gradient_checkpointing": True}, 3),
    ("full", {"max_grad_norm": 0.1, "keep_best": True}, 2),
    ("lora", {"neftune_alpha": 5.0, "optimizer": "sgd"}, 2),
]


@pytest.mark.slow
@pytest.mark.parametrize(("adapter", "options", "count"), WAYS)
def test_several_have_losses_and_weights_of_one(tiny_model, tmp_path, adapter, options, count):
    alone = {key: each for key, each in options.items() if key != "parallel"}
    train(tmp_path / "one", tiny_model, adapter, {}, alone)
    together(count, train, tmp_path / "many", tiny_model, adapter, {}, FSDP | options)
    if "neftune_alpha" not in options:  # noise is drawn by each process
        assert losses(tmp_path / "many") == pytest.approx(losses(tmp_path / "one"), rel=1e-6)
        one, many = (weights(tmp_path / name) for name in ("one", "many"))
        assert one.keys() == many.keys()
        # rounding, which AdamW makes larger: in float64 LoRA with offload differs by 5e-15
        for name, each in one.items():
            torch.testing.assert_close(many[name], each, rtol=1e-4, atol=5e-5)
    measured = [json.loads((tmp_path / n / "measured.json").read_text()) for n in ("one", "many")]
    if "neftune_alpha" not in options:
        assert measured[1]["loss"] == pytest.approx(measured[0]["loss"], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_a_run_of_two_goes_on_as_three_and_as_one(tiny_model, tmp_path, adapter):
    train(tmp_path / "one", tiny_model, adapter, {}, {"checkpoint_steps": 1})
    some = FSDP | {"checkpoint_steps": 1}
    for count, minutes in ((2, 1e-6), (3, 1e-6), (1, None)):
        options = some | {"max_minutes": minutes}
        together(count, train, tmp_path / "many", tiny_model, adapter, {}, options)
    assert losses(tmp_path / "many") == pytest.approx(losses(tmp_path / "one"), rel=1e-6)
    one, many = (weights(tmp_path / name) for name in ("one", "many"))
    for name, each in one.items():
        torch.testing.assert_close(many[name], each, rtol=1e-4, atol=5e-5)


def addresses(network):
    """Where frozen weights begin, by name."""
    named = network.named_parameters()
    return {name: each.data_ptr() for name, each in named if not each.requires_grad}


def mapped(path):
    """The parts of this process's memory that lie in a file."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    parts = [line.split()[0].split("-") for line in lines if line.endswith(str(path))]
    return [(int(start, 16), int(end, 16)) for start, end in parts]


def train_in_place(folder, base, adapter, environment):
    """A run in which no process ever holds the model whole."""
    os.environ.update(environment)
    with process_group(timeout=60) as ours:
        known = ModelSettings(base_model=str(base), dtype="float32", adapter=adapter)
        model = adapt(known, None, options=EncodeOptions(128), seed=0, in_place=True)
        before, places = addresses(model.network), mapped(base / "model.safetensors")
        assert all(any(s <= at < e for s, e in places) for at in before.values())
        options = USUAL | {"parallel": {"type": "fsdp", "whole": False}}
        trained = fit(base, folder, model=model, rows=examples(13), **options)
        if not ours.is_first:
            assert {each.device.type for each in model.trainable().values()} == {"meta"}
            return
        assert addresses(trained.model.network) == before
        trained.model.save(folder / "model")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_no_process_ever_holds_a_model_that_stays_in_its_files(tiny_model, tmp_path, adapter):
    train(tmp_path / "one", tiny_model, adapter, {}, {})
    together(2, train_in_place, tmp_path / "many", tiny_model, adapter, {})
    assert losses(tmp_path / "many") == pytest.approx(losses(tmp_path / "one"), rel=1e-6)
    one, many = (weights(tmp_path / name) for name in ("one", "many"))
    assert one.keys() == many.keys()
    for name, each in one.items():
        torch.testing.assert_close(many[name], each, rtol=1e-4, atol=5e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sft", "old rows", "agem"])
def test_strategies_look_at_whole_weights_and_make_the_same_of_them(tiny_model, tmp_path, name):
    train_old_rows(tmp_path / "one", tiny_model, {}, [name])
    together(2, train_old_rows, tmp_path / "many", tiny_model, {}, [name])
    one, many = (torch.load(tmp_path / n / name / "0" / "weights.pt") for n in ("one", "many"))
    torch.testing.assert_close(many, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"model": {"adapter": "qlora"}}, "packed weights .adapter qlora, or .* exclude each"),
        ({"model": {"dtype": "float16"}}, "float16 exclude each other"),
        ({"training": {"parallel": "fsdp", "share_prefixes": True}}, "share_prefixes: true"),
        ({"training": {"parallel": "fsdp", "optimizer": "adafactor"}}, "adafactor exclude"),
    ],
)
def test_pairs_that_do_not_go_together_are_refused_by_name(settings, problem):
    given = {"training": {"parallel": "fsdp"}} | settings
    with pytest.raises(ValueError, match=problem):
        LearningConfig.model_validate(given)


@pytest.fixture
def two(monkeypatch):
    monkeypatch.setattr(processes, "current", lambda: processes.Processes(0, 2))


def test_float16_is_refused_where_the_hardware_chose_it(two, tiny_model):
    model = replace(make(tiny_model, "lora"), precision=Precision(torch.float16, "which it has"))
    with pytest.raises(ConfigError, match="float16 exclude each other"):
        Fsdp().open(model)


def test_what_nobody_can_move_to_main_memory_is_said(tiny_model, caplog):
    Fsdp(offload="cpu").open(make(tiny_model, "lora"))
    assert "training.parallel.offload: cpu saves nothing: this is one process." in caplog.text


def test_weights_that_stay_in_their_files_are_not_looked_at(two):
    kernels, fabric = SimpleNamespace(network=None), SimpleNamespace(strategy=None)
    with pytest.raises(ConfigError, match="whole: false and what looks at weights"):
        Fsdp(whole=False).place(fabric, kernels, keeps_trained=True)


def test_a_quantised_base_is_not_divided(two):
    kernels = SimpleNamespace(network=SimpleNamespace(is_quantized=True))
    with pytest.raises(ConfigError, match="a quantised base model. exclude each other"):
        Fsdp().place(SimpleNamespace(strategy=None), kernels, keeps_trained=False)


def test_rows_are_not_answered_where_nobody_has_the_model(two):
    config = LearningConfig(training={"parallel": {"type": "fsdp", "whole": False}})
    with pytest.raises(ConfigError, match=r"do_predict and training.parallel.whole: false"):
        _require_whole(config)


def test_one_process_alone_needs_no_parts(tiny_model, tmp_path):
    train(tmp_path / "plain", tiny_model, "lora", {}, {"max_steps": 1})
    train(tmp_path / "fsdp", tiny_model, "lora", {}, FSDP | {"max_steps": 1})
    assert losses(tmp_path / "fsdp") == losses(tmp_path / "plain")
    weight = torch.zeros(3, 4)
    assert held_bytes(weight) == 48


@pytest.mark.variants
@pytest.mark.parametrize("count", [4, 2, 3])
def test_each_holds_the_part_that_the_plan_says(count):
    values = {"base_model": "smollm2-135m", "adapter": "full", "dtype": "float32"}
    settings = ModelSettings.model_validate(values)
    fact, plan = fsdp_shards.by_fact(settings, count), fsdp_shards.by_plan(settings, count)
    assert fact.total == pytest.approx(plan.total, rel=0.001)
    assert 1 - fact.total / fsdp_shards.by_plan(settings, 1).total >= 1 - 1 / count - 0.001
