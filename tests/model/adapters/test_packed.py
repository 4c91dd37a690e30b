"""Adapters beside packed weights: as exact as the packing, saved and resumed as all others."""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from llama_factory import run
from llama_factory.core.progress import SILENT
from llama_factory.model.base import load_network
from llama_factory.model.sharding import held_bytes
from llama_factory.use import predict
from llama_factory.versions import releases, store
from tests.model.adapters.test_runs import SHORT, write_rows
from tests.model.adapting import fit, logits, make, settings
from tests.rounds.rounds import at_rest
from tests.tiny import make_tiny_model

bitsandbytes = pytest.importorskip("bitsandbytes", reason="packs weights: pip install '.[packed]'")
pytest.importorskip("torchao", reason="packs weights: pip install '.[packed]'")

PACKED = {
    "nf4": {"type": "qlora", "rank": 4},
    "fp4": {"type": "qlora", "rank": 4, "quant_type": "fp4", "double_quant": False},
    "int8": {"type": "qlora", "rank": 4, "bits": 8},
    "rotated": {"type": "qoft", "block_size": 8},
    "torchao int8": {"type": "qlora", "rank": 4, "bits": 8, "library": "torchao"},
    "torchao fp8": {
        "type": "qlora",
        "rank": 4,
        "bits": 8,
        "library": "torchao",
        "eight_bits": "fp8",
    },
}
ROUNDING_WEIGHTS_ALONE = [form for form in PACKED if form != "int8"]
BYTES = {
    "nf4": 0.5 + 1 / 64 + 4 / 64,  # scales are packed 256 together, and a tiny matrix has fewer
    "fp4": 0.5 + 4 / 64,
    "int8": 1,
    "torchao int8": 1 + 5 / 32,  # scale and zero of each row, which has 32 weights or more
    "torchao fp8": 1 + 4 / 32,
}
"""At most, for a weight of the tiny model."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("llama"))


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def train(model, folder, **options):
    folder.mkdir()
    fit(model, folder, max_steps=4, checkpoint_steps=2, **options)
    return losses(folder)


def packed_layers(network):
    head = network.get_output_embeddings()
    layers = {n: m for n, m in network.named_modules() if isinstance(m, torch.nn.Linear)}
    packed = {n: m for n, m in layers.items() if type(m.weight) is not torch.nn.Parameter}
    assert head not in packed.values()
    return packed


def unpacked(weight):
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight.dequantize()
    return bitsandbytes.functional.dequantize_4bit(weight.data, state)


def save_unpacked(tiny, form, folder):
    """The base model with weights rounded as packing rounds them, in float32."""
    packed = load_network(tiny, settings(tiny, PACKED[form]))
    plain = AutoModelForCausalLM.from_pretrained(tiny)
    for name, layer in packed_layers(packed).items():
        plain.get_submodule(name).weight.data = unpacked(layer.weight)
    shutil.copytree(tiny, folder)
    plain.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("form", ROUNDING_WEIGHTS_ALONE)
def test_training_beside_packed_weights_is_training_beside_what_they_stand_for(
    tiny, tmp_path, form
):
    rounded = save_unpacked(tiny, form, tmp_path / "rounded")
    plain_form = "oft" if form == "rotated" else "lora"
    model = make(tiny, PACKED[form])
    assert len(packed_layers(model.network)) == 2 * 7
    course = train(model, tmp_path / "packed")
    plain = make(rounded, plain_form)
    assert course == pytest.approx(train(plain, tmp_path / "plain"), abs=1e-4)
    assert course != pytest.approx(train(make(tiny, plain_form), tmp_path / "other"), abs=1e-3)
    model.save(tmp_path / "out")
    again = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(rounded), str(tmp_path / "out")
    )
    torch.testing.assert_close(logits(again), logits(model.network), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("form", BYTES)
def test_a_packed_weight_takes_as_few_bytes_as_its_bits_and_scales(tiny, form):
    network = load_network(tiny, settings(tiny, PACKED[form]))
    weights = [layer.weight for layer in packed_layers(network).values()]
    num_weights = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)
    num_bytes = sum(map(held_bytes, weights))
    bits = 0.5 if PACKED[form].get("bits", 4) == 4 else 1
    assert bits * num_weights <= num_bytes <= BYTES[form] * num_weights


def test_eight_bits_learn_as_plain_lora_within_their_rounding(tiny, tmp_path):
    packed = train(make(tiny, PACKED["int8"]), tmp_path / "packed", learning_rate=0.03)
    plain = train(make(tiny, "lora"), tmp_path / "plain", learning_rate=0.03)
    assert packed == pytest.approx(plain, rel=0.05)
    assert packed[-1] < 0.7 * packed[0]


@pytest.mark.parametrize("form", PACKED)
def test_answers_between_updates_change_no_update(tiny, tmp_path, form):
    asked = make(tiny, PACKED[form])
    logits(asked.network)
    asked.network.train()
    assert train(asked, tmp_path / "a") == train(make(tiny, PACKED[form]), tmp_path / "b")


@pytest.mark.parametrize("form", PACKED)
def test_a_run_on_a_packed_base_goes_on_exactly(tiny, tmp_path, form):
    whole = train(make(tiny, PACKED[form]), tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/step-00000004")
    fit(make(tiny, PACKED[form]), tmp_path / "run", max_steps=4, checkpoint_steps=2)
    assert losses(tmp_path / "run") == whole


def test_bfloat16_products_of_packed_weights(tiny, tmp_path):
    course = train(make(tiny, PACKED["nf4"], dtype="bfloat16"), tmp_path / "short")
    exact = train(make(tiny, PACKED["nf4"]), tmp_path / "exact")
    assert course == pytest.approx(exact, rel=0.01)
    assert course != exact


def test_a_base_whose_files_are_packed_trains_as_one_packed_when_read(tiny, tmp_path):
    packed = load_network(tiny, settings(tiny, PACKED["nf4"]))
    base = shutil.copytree(tiny, tmp_path / "base")
    packed.save_pretrained(base)
    course = train(make(base, "lora"), tmp_path / "files")
    assert course == pytest.approx(train(make(tiny, PACKED["nf4"]), tmp_path / "read"), abs=1e-5)


def peers_yaml(tmp_path, tiny, **more):
    write_rows(tmp_path / "rows.jsonl", "one")
    values = {
        "model_name_or_path": str(tiny),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "quantization_bit": 4,
        "data_path": str(tmp_path / "rows.jsonl"),
        "output_dir": str(tmp_path / "out"),
        "max_steps": 3,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "val_size": 0.2,
        **more,
    }
    (tmp_path / "run.yaml").write_text(json.dumps(values))
    return tmp_path / "run.yaml"


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adamw_8bit"])
def test_llama_factorys_quantization_bit_is_trained_saved_and_answers(tmp_path, tiny, optimizer):
    results = run.train(peers_yaml(tmp_path, tiny, optim=optimizer)).results
    assert results["training"]["steps"] == 3
    loaded = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny), str(tmp_path / "out")
    )
    assert not torch.equal(logits(loaded), logits(AutoModelForCausalLM.from_pretrained(tiny)))
    answers = tmp_path / "answers.jsonl"
    predict(str(tmp_path / "out"), tmp_path / "rows.jsonl", answers)
    assert len(answers.read_text().splitlines()) == 12


@pytest.mark.slow
def test_rounds_build_on_each_other_beside_packed_weights(tmp_path, tiny):
    workspace = run.init(tmp_path / "bot", str(tiny))
    write_rows(tmp_path / "guard.jsonl", "guard", count=2)
    evaluation = SHORT["evaluation"] | {"guard": str(tmp_path / "guard.jsonl")}
    model = {"base_model": str(tiny), "dtype": "float32", "adapter": PACKED["nf4"]}
    workspace.settings.write_text(json.dumps({"model": model, **SHORT, "evaluation": evaluation}))
    for name in ("first", "second"):
        write_rows(workspace.inbox / f"{name}.jsonl", name)
        at_rest(workspace.inbox / f"{name}.jsonl")
        run.learn(workspace.folder, [], SILENT)
    assert store.get(workspace, releases.PRODUCTION).id == "v0002"
    adapters = [store.get(workspace, name).adapter for name in ("v0001", "v0002")]
    answers = []
    for adapter in adapters:
        base = AutoModelForCausalLM.from_pretrained(tiny)
        answers.append(logits(PeftModel.from_pretrained(base, str(adapter))))
    assert not torch.allclose(*answers)
