"""What memory a run needs, and what happens where it runs out."""

import os
import re
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
import torch

from llama_factory.core.errors import FactoryError
from llama_factory.model.base import load_network
from llama_factory.model.free_memory import free_bytes
from llama_factory.model.settings import ModelSettings
from llama_factory.training import device_memory
from llama_factory.training.batch import make_batch
from llama_factory.training.device_memory import (
    MemoryEstimate,
    describe_choice,
    device_utilisation,
    needs_recomputation,
    with_recomputation,
)
from llama_factory.training.items import Encoding, encode_all
from llama_factory.training.plan import plan_run
from llama_factory.training.settings import TrainingSettings
from llama_factory.training.setup import start
from llama_factory.training.strategy import Protection
from tests.training.short_runs import SILENT, examples, fit, losses, make, weights


@pytest.mark.variants
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_trying_the_longest_first_changes_nothing(tiny, tmp_path, dropout):
    rows = examples(13)
    runs = [
        fit(tiny, tmp_path / str(first), rows, model=make(tiny, dropout), try_longest_first=first)
        for first in (True, False)
    ]
    assert torch.equal(weights(runs[0]), weights(runs[1]))
    assert losses(tmp_path / "True") == losses(tmp_path / "False")


def prepared(tiny, folder, **options):
    """A run, its plan and its rows, as the loop makes them."""
    settings = TrainingSettings(**options)
    model = make(tiny)
    encoding = Encoding(model, settings, folder)
    rows = encode_all(encoding, examples(30), Protection(), SILENT)
    return start(model, settings, Protection()), plan_run(rows, settings), rows


@pytest.mark.variants
@pytest.mark.parametrize("options", [{}, {"micro_batch_tokens": 100}, {"micro_batch_size": 2}])
def test_the_longest_micro_batch_is_found(tiny, tmp_path, options):
    run, plan, rows = prepared(tiny, tmp_path, **options)
    options = run.batch_options(rows.weights)
    every = [
        micro for refs in plan for micro in make_batch(refs, rows.items, options).micro_batches
    ]
    longest = device_memory.find_longest(run, plan, rows)
    assert longest.ids.numel() == max(micro.ids.numel() for micro in every)


def out_of_memory_above(model, num_tokens):
    """Makes a pass with more tokens fail as a full GPU would."""

    def fail(_module, inputs, kwargs):
        ids = kwargs.get("input_ids", inputs[0] if inputs else None)
        if ids.numel() > num_tokens:
            raise torch.OutOfMemoryError("CUDA out of device_memory.")

    model.network.get_base_model().model.register_forward_pre_hook(fail, with_kwargs=True)
    return model


def test_running_out_of_memory_shows_at_once_with_advice(tiny, tmp_path):
    model = out_of_memory_above(make(tiny), 100)
    with pytest.raises(FactoryError) as told:
        fit(tiny, tmp_path, model=model, micro_batch_tokens=1000, try_longest_first=True)
    assert "The longest micro-batch (" in str(told.value)
    assert "Lower training.micro_batch_tokens (now 1000; the results stay the same)" in str(
        told.value
    )
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.slow
def test_running_out_of_memory_later_goes_on_with_smaller_micro_batches(tiny, tmp_path):
    said = []
    model = out_of_memory_above(make(tiny), 100)
    options = {"micro_batch_tokens": 1000, "try_longest_first": False}
    done = fit(tiny, tmp_path / "a", model=model, say=said, **options)
    assert any("Out of memory at step 1: going on with micro-batches of" in text for text in said)
    whole = fit(tiny, tmp_path / "b", **options)
    assert losses(tmp_path / "a") == pytest.approx(losses(tmp_path / "b"), rel=1e-4)
    assert done.position.step == whole.position.step


def test_one_row_that_does_not_fit_is_an_error(tiny, tmp_path):
    model = out_of_memory_above(make(tiny), 3)
    with pytest.raises(torch.OutOfMemoryError):
        fit(tiny, tmp_path, model=model, try_longest_first=False)


def test_the_longest_is_tried_where_memory_is_short(tiny, tmp_path):
    run, _, _ = prepared(tiny, tmp_path)
    free = free_bytes(run.model.device)
    short = device_memory.MemoryEstimate(0, 0, 0, activations=2 * free)
    ample = device_memory.MemoryEstimate(2 * free, 0, 0, activations=free // 100)
    assert device_memory.is_worth_trying(run, short)
    assert device_memory.is_worth_trying(run, ample) == torch.cuda.is_available()
    run, _, _ = prepared(tiny, tmp_path, try_longest_first=True)
    assert device_memory.is_worth_trying(run, ample)


def test_what_a_run_needs_is_reported_before_it_starts(tiny, tmp_path):
    said = []
    fit(tiny, tmp_path, max_steps=1, say=said)
    assert said[0] == "Precision: float32, as set."
    assert said[1].startswith("Memory: about ")
    assert said[1].endswith("GiB are free for all but the weights.")


def test_weights_gradients_and_optimizer_are_counted_exactly(tiny, tmp_path):
    run, plan, rows = prepared(tiny, tmp_path)
    longest = device_memory.find_longest(run, plan, rows)
    estimate = device_memory.estimate_memory(run, longest)
    num_trained = sum(weight.numel() for weight in run.model.trainable().values())
    assert estimate.gradients == 4 * num_trained
    assert estimate.optimizer == 8 * num_trained
    assert estimate.weights == 4 * sum(w.numel() for w in run.model.network.parameters())
    assert re.match(
        r"about \d+ MiB \(weights \d+ MiB, gradients \d+ MiB, optimizer \d", str(estimate)
    )
    large = device_memory.MemoryEstimate(15 * 2**30, 0, 0, 2**29)
    assert str(large).startswith("about 15.5 GiB (weights 15.0 GiB, gradients 0 MiB")


MEASURE = """
    from pathlib import Path
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM
    from llama_factory.model.adapted import AdaptedModel
    from llama_factory.training import device_memory
    from llama_factory.model.chat.encoding import EncodedRow
    from llama_factory.training.batch import BatchOptions, make_batch
    from llama_factory.training.items import NEW, RowRef
    from llama_factory.training.items import Items
    from llama_factory.training.objectives.sft import Sft
    from llama_factory.training.settings import TrainingSettings
    from llama_factory.training.strategy import Protection
    from llama_factory.training.setup import start

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=256, intermediate_size=512, num_hidden_layers=6,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=4096,
    )
    lora = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    network = get_peft_model(LlamaForCausalLM(config), lora)
    run = start(AdaptedModel(network, None, "", None), TrainingSettings(), Protection())
    def micro(seq):
        ids = torch.randint(1, 512, (2, seq)).tolist()  # nothing in common that is read once
        items = Items([(EncodedRow(tuple(i), (False, *[True] * (seq - 1))),) for i in ids], Sft())
        refs = [RowRef(NEW, 0), RowRef(NEW, 1)]
        return make_batch(refs, {NEW: items}, BatchOptions(10**6)).micro_batches[0]
    def peak():  # of this program alone: ru_maxrss also knows the one that started it
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    device_memory.try_out(run, micro(8), None)  # loads what the first pass loads
    estimate = device_memory.estimate_memory(run, micro(1536))
    before = peak()
    device_memory.try_out(run, micro(1536), estimate)
    print(estimate.activations + estimate.gradients, peak() - before)
"""


@pytest.mark.slow
def test_the_estimate_of_activations_is_within_a_factor_of_two_of_what_is_used():
    code = textwrap.dedent(MEASURE)
    # without it glibc keeps what was freed, and its peak says more about it than about us
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    estimated, used = map(int, done.stdout.split())
    assert used > 100e6
    assert 0.5 < estimated / used < 2, (estimated, used)


@pytest.mark.parametrize(
    ("choice", "to_come", "is_needed"),
    [
        ("auto", 89, False),
        ("auto", 91, True),
        (True, 1, True),
        (False, 1000, False),
    ],
)
def test_activations_are_computed_again_where_they_do_not_fit(choice, to_come, is_needed):
    estimate = SimpleNamespace(to_come=to_come)
    assert needs_recomputation(choice, estimate, free=100) is is_needed


def test_the_input_of_each_layer_and_one_whole_layer_remain(tiny):
    network = load_network(tiny, ModelSettings(dtype="float32"))
    kept = MemoryEstimate(weights=1, gradients=2, optimizer=3, activations=1_000_000)
    found = with_recomputation(kept, network, num_tokens=10)
    assert found.activations == 2 * 10 * 32 * 4 + 500_000
    assert (found.weights, found.gradients, found.optimizer) == (1, 2, 3)


def test_people_are_reported_what_was_chosen_and_why():
    assert describe_choice("auto", is_needed=False) == "Activations are kept: they fit."
    assert describe_choice(False, is_needed=False) == "Activations are kept: as set."
    assert describe_choice(True, is_needed=True).endswith("(about a third slower): as set.")
    assert describe_choice("auto", is_needed=True).endswith("they would not fit into memory.")


GPU = torch.device("cuda")


class DriverError(Exception):
    """As the library's own: no RuntimeError."""


@pytest.fixture
def driver(monkeypatch):
    """The library that asks the driver, which this machine need not have."""
    library = SimpleNamespace(NVMLError=DriverError, __spec__="there")
    monkeypatch.setitem(sys.modules, "pynvml", library)
    return monkeypatch


def test_a_processor_has_no_such_number():
    assert device_utilisation(torch.device("cpu")) == {}


def test_without_the_library_there_is_no_number(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert device_utilisation(GPU) == {}


def test_a_share_of_one(driver):
    driver.setattr(torch.cuda, "utilization", lambda device: 87)
    assert device_utilisation(GPU) == {"gpu_utilisation": 0.87}


@pytest.mark.parametrize("error", [DriverError("Not Supported"), RuntimeError("no driver")])
def test_a_driver_that_does_not_tell_gives_no_number(driver, error):
    def fail(device):
        raise error

    driver.setattr(torch.cuda, "utilization", fail)
    assert device_utilisation(GPU) == {}
