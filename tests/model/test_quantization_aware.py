"""Models that train with rounded weights answer, packed, as they did while they trained."""

import importlib.util
import re
import subprocess
import sys

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM

from llama_factory import run
from llama_factory.config.loading import load_config
from llama_factory.core.errors import ConfigError, ModelError
from llama_factory.core.files import read_jsonl
from llama_factory.jobs.outputs import PACKED
from llama_factory.model.base import load_network
from llama_factory.model.layers import linear_layers
from llama_factory.model.quantization_aware import GROUP, prepare
from llama_factory.model.settings import ModelSettings
from llama_factory.model.sharding import held_bytes
from llama_factory.use import predict
from tests.model.adapters.test_runs import write_rows
from tests.model.adapting import logits, make
from tests.serving.running import wait_until
from tests.tiny import make_tiny_model

HAS_TORCHAO = importlib.util.find_spec("torchao") is not None
needs_torchao = pytest.mark.skipif(not HAS_TORCHAO, reason="pip install '.[packed]'")
KINDS = ["int8_weight", "int4_weight", "int8_dynamic_int4_weight"]
STEPS = {"int8_weight": 127, "int4_weight": 7}
"""Largest whole number that a weight is rounded to."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("llama"))


def settings_of(tiny, tmp_path, kind, **more):
    write_rows(tmp_path / "rows.jsonl", "one")
    return {
        "model": {
            "base_model": str(tiny),
            "dtype": "float32",
            "adapter": "full",
            "quantization_aware": kind,
        },
        "data": {"train_path": str(tmp_path / "rows.jsonl"), "held_out_fraction": 0.2},
        "training": {
            "max_steps": 6,
            "batch_size": 4,
            "learning_rate": 0.01,
            "checkpoint_steps": 3,
            "report_to": "none",
            **more,
        },
        "evaluation": {"max_new_tokens": 6},
        "output_dir": str(tmp_path / "out"),
    }


def answers_of(folder, tmp_path):
    predict(str(folder), tmp_path / "rows.jsonl", tmp_path / f"{folder.name}.answers.jsonl")
    return [*read_jsonl(tmp_path / f"{folder.name}.answers.jsonl")]


@needs_torchao
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_trained_prepared_and_served_packed_with_the_same_answers(tiny, tmp_path, kind):
    results = run.train(settings_of(tiny, tmp_path, kind)).results
    losses = [row["loss"] for row in read_jsonl(tmp_path / "out/metrics.jsonl")]
    assert losses[-1] < 0.7 * losses[0]
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    packed = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / PACKED)
    expected = logits(prepare(plain, kind))
    torch.testing.assert_close(logits(packed), expected, rtol=0, atol=1e-6)
    assert results["after"]["tasks"]
    found = answers_of(tmp_path / "out" / PACKED, tmp_path)
    own = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert (logits(own) - expected).abs().max() > 1e-3
    assert len(found) == 12


@needs_torchao
def test_a_server_answers_from_packed_weights(tiny, tmp_path):
    run.train(settings_of(tiny, tmp_path, "int8_dynamic_int4_weight"))
    folder = tmp_path / "out" / PACKED
    (expected,) = {row["predict"] for row in answers_of(folder, tmp_path)[:1]}
    command = [sys.executable, "-m", "llama_factory", "serve", str(folder), "--port", "0"]
    printed = tmp_path / "printed.txt"
    with printed.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out) as server:
        try:
            wait_until(lambda: "http://127" in printed.read_text(), "the server")
            address = re.search(r"http://127\.0\.0\.1:\d+", printed.read_text())[0]
            first = next(read_jsonl(tmp_path / "rows.jsonl"))
            question = [{"role": "user", "content": first["instruction"]}]
            asked = {"model": PACKED, "messages": question, "temperature": 0, "max_tokens": 6}
            answer = httpx.post(f"{address}/v1/chat/completions", json=asked, timeout=60).json()
            assert "choices" in answer, (answer, printed.read_text())
            assert answer["choices"][0]["message"]["content"] == expected, answer
        finally:
            server.kill()


@needs_torchao
@pytest.mark.parametrize("kind", STEPS)
def test_weights_lie_on_the_grid_of_their_scales_and_the_head_is_left_alone(tiny, tmp_path, kind):
    run.train(settings_of(tiny, tmp_path, kind))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    packed = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / PACKED)
    assert torch.equal(packed.lm_head.weight, plain.lm_head.weight)
    group = GROUP if kind == "int4_weight" else None
    for name, layer in linear_layers(packed).items():
        exact = plain.get_submodule(name).weight.detach()
        rows = exact.reshape(-1, group or exact.shape[1])
        scales = rows.abs().amax(1, keepdim=True) / (STEPS[kind] + 0.5)
        held = layer.weight.dequantize().detach().reshape(rows.shape)
        assert (held - rows).abs().max() <= 0.51 * scales.max()
        assert all(len(row.unique()) <= 2 * STEPS[kind] + 2 for row in held)
        assert held_bytes(layer.weight) < exact.nbytes / 3


@needs_torchao
def test_a_run_goes_on_exactly_and_not_with_another_rounding(tiny, tmp_path):
    whole = settings_of(tiny, tmp_path, "int4_weight")
    run.train(whole)
    losses = [row["loss"] for row in read_jsonl(tmp_path / "out/metrics.jsonl")]
    again = whole | {"output_dir": str(tmp_path / "again")}
    run.train(again)
    (tmp_path / "again/model.safetensors").unlink()
    steps = sorted((tmp_path / "again/checkpoints").glob("step-*"))
    steps[-1].rename(tmp_path / "last")
    other = again | {"model": again["model"] | {"quantization_aware": "int8_weight"}}
    other |= {"resume_from_checkpoint": True}
    with pytest.raises(ConfigError, match=r"quantization_aware \(int4_weight, now int8_weight\)"):
        run.train(other)
    run.train(again)
    assert [row["loss"] for row in read_jsonl(tmp_path / "again/metrics.jsonl")] == losses


@needs_torchao
def test_fewer_bits_are_further_from_the_exact_answer(tiny):
    exact, away = logits(AutoModelForCausalLM.from_pretrained(tiny)), {}
    for kind in KINDS:
        rounded = logits(prepare(AutoModelForCausalLM.from_pretrained(tiny), kind))
        away[kind] = float((rounded - exact).norm() / exact.norm())
    assert 0 < away["int8_weight"] < 0.05 < away["int4_weight"] < 0.5
    assert away["int8_dynamic_int4_weight"] not in (away["int8_weight"], away["int4_weight"])


@needs_torchao
def test_rows_that_are_not_made_of_whole_groups_are_refused(tmp_path):
    network = torch.nn.Module()
    network.layer, network.head = torch.nn.Linear(40, 8), torch.nn.Linear(8, 8)
    network.get_output_embeddings = lambda: network.head
    with pytest.raises(ModelError, match="layer has rows of 40. Use int8_weight"):
        prepare(network, "int4_weight")


@pytest.mark.skipif(HAS_TORCHAO, reason="for machines without torchao")
def test_what_is_missing_is_told_with_how_to_install_it(tiny):
    model = ModelSettings(base_model=str(tiny), adapter="full", quantization_aware="int4_weight")
    with pytest.raises(ModelError, match=r"needs the library torchao \(pip install 'llama-fac"):
        prepare(load_network(tiny, model), model.quantization_aware)


@pytest.mark.parametrize("adapter", ["lora", "qlora", "oft"])
def test_an_adapter_beside_the_weights_is_refused_with_the_reason(adapter):
    with pytest.raises(ConfigError, match=f"adapter {adapter} trains others beside them: merged"):
        load_config({"model": {"adapter": adapter, "quantization_aware": "int4_weight"}})


@pytest.mark.parametrize("more", [{"compile": True}, {"objective": "reward"}, {"parallel": "fsdp"}])
def test_what_was_never_shown_with_rounded_weights_is_refused(more):
    model = {"adapter": "full", "quantization_aware": "int4_weight"}
    asked = {"model": model, "training": more, "strategies": []}
    with pytest.raises(ConfigError, match="excludes .*: nobody has shown that the packed"):
        load_config(asked)


def test_other_models_are_as_they_were(tiny):
    model = make(tiny, "full")
    assert model.rounding == "none"
    assert {type(each) for each in linear_layers(model.network).values()} == {torch.nn.Linear}
