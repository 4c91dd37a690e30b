"""Whole runs with adapters other than LoRA: a single one, and round upon round."""

import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from llama_factory import run
from llama_factory.core.files import read_json
from llama_factory.core.progress import SILENT
from llama_factory.versions import releases, store
from tests.model.adapting import FORMS, IDS, OWN_WEIGHTS, logits
from tests.rounds.rounds import at_rest
from tests.tiny import make_tiny_model

SHORT = {
    "data": {"held_out_fraction": 0.2},
    "training": {"max_steps": 3, "learning_rate": 1e-2, "checkpoint_steps": 2},
    "evaluation": {"max_new_tokens": 4},
    "gate": {"max_guard_ratio": 1e6, "max_drop": 1},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("llama"))


def write_settings(path, tiny, form, **more):
    model = {"base_model": str(tiny), "dtype": "float32", "adapter": FORMS[form]}
    path.write_text(json.dumps({"model": model, **SHORT, **more}))


def write_rows(path, name, count=12):
    rows = [{"instruction": f"{name}第{i}问？", "output": f"{name} {i}。"} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.variants
@pytest.mark.parametrize("form", ["full", "freeze", "prompt", "pissa", "bottleneck"])
def test_a_single_run_writes_a_folder_that_plain_libraries_load(tmp_path, tiny, form):
    write_rows(tmp_path / "rows.jsonl", "one")
    data = SHORT["data"] | {"train_path": str(tmp_path / "rows.jsonl")}
    out = tmp_path / "out"
    write_settings(tmp_path / "run.yaml", tiny, form, data=data, output_dir=str(out))
    results = run.train(tmp_path / "run.yaml").results
    assert results["training"]["steps"] == 3
    assert AutoTokenizer.from_pretrained(out).chat_template
    base = AutoModelForCausalLM.from_pretrained(tiny)
    before = logits(base)
    if form in OWN_WEIGHTS:
        trained = AutoModelForCausalLM.from_pretrained(out)
        assert read_json(out / "config.json")["dtype"] == "float32"
        assert not (out / "adapter_config.json").exists()
    else:
        trained = PeftModel.from_pretrained(base, str(out))
    assert logits(trained).shape == (*IDS.shape, base.config.vocab_size)
    assert not torch.allclose(logits(trained), before)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["pissa", "prompt", "ia3", "bottleneck"])
def test_rounds_build_on_each_other_with_every_kind_of_adapter(tmp_path, tiny, form):
    workspace = run.init(tmp_path / "bot", str(tiny))
    write_rows(tmp_path / "guard.jsonl", "guard", count=2)
    evaluation = SHORT["evaluation"] | {"guard": str(tmp_path / "guard.jsonl")}
    write_settings(workspace.settings, tiny, form, evaluation=evaluation)
    for name in ("first", "second"):
        write_rows(workspace.inbox / f"{name}.jsonl", name)
        at_rest(workspace.inbox / f"{name}.jsonl")
        run.learn(workspace.folder, [], SILENT)
    assert store.get(workspace, releases.PRODUCTION).id == "v0002"
    answers = []
    for name in ("v0001", "v0002"):
        base = AutoModelForCausalLM.from_pretrained(tiny)
        adapter = store.get(workspace, name).adapter
        answers.append(logits(PeftModel.from_pretrained(base, str(adapter))))
    assert not torch.allclose(*answers)
