"""Scores of reward models that were trained here, as LLaMA-Factory's clients ask for them."""

import json
from pathlib import Path

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llama_factory import run
from llama_factory.cli.peer import reference
from llama_factory.config.dialects.answering import answer_request
from llama_factory.core.progress import SILENT
from llama_factory.model import value_head
from llama_factory.model.saved import find_adapters
from llama_factory.model.settings import ModelSettings
from llama_factory.versions.workspace import Workspace
from tests.serving.running import make_engine, serving
from tests.tiny import make_tiny_model

TEXTS = ["<|im_start|>user\nhello<|im_end|>", "你好", "A longer text, which is not the last one."]
RM = """
model_name_or_path: {model}
stage: rm
finetuning_type: {kind}
dataset: pairs
dataset_dir: {data}
template: chatml
output_dir: {out}
do_train: true
learning_rate: 0.01
max_steps: 2
per_device_train_batch_size: 2
report_to: none
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module", params=["lora", "full"])
def trained(request, tiny, tmp_path_factory):
    """A reward model, and the flags that name it to the API."""
    place = tmp_path_factory.mktemp(request.param)
    rows = [
        {"instruction": f"Question {n}?", "chosen": f"It is {n}.", "rejected": "No idea."}
        for n in range(4)
    ]
    (place / "pairs.json").write_text(json.dumps(rows))
    columns = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
    info = {"pairs": {"file_name": "pairs.json", "ranking": True, "columns": columns}}
    (place / "dataset_info.json").write_text(json.dumps(info))
    file, out = place / "rm.yaml", place / "rm"
    file.write_text(RM.format(model=tiny, kind=request.param, data=place, out=out))
    run.train(file, ["model.dtype=float32"], SILENT)
    adapter = {"model_name_or_path": str(tiny), "adapter_name_or_path": str(out)}
    return out, adapter if request.param == "lora" else {"model_name_or_path": str(out)}


def scored(workspace: Workspace, model: Path, **body):
    """The reply to a request for scores."""
    with serving(workspace, make_engine(model), any_model=True) as client:
        url = f"{client.base_url}score/evaluation"
        return httpx.post(url, json={"model": "gpt-3.5-turbo"} | body)


def alone(trained: Path, tiny: Path, text: str) -> float:
    """The score of one text by the network itself."""
    is_whole = (trained / "config.json").is_file()
    if is_whole:
        network = AutoModelForCausalLM.from_pretrained(trained, dtype=torch.float32)
    else:
        saved = find_adapters(str(trained), str(tiny), ModelSettings(dtype="float32"))
        network = saved.network(saved.tokenizer())
    head = value_head.read(trained, network.config.hidden_size)
    ids = AutoTokenizer.from_pretrained(tiny)(text, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        out = network.eval()(torch.tensor([ids]), output_hidden_states=True)
        return float(head(out.hidden_states[-1][0, -1:]))


def test_a_reward_model_scores_texts_as_its_network_does(trained, tiny):
    folder, flags = trained
    asked = reference(answer_request(None, [f"{name}={flags[name]}" for name in flags]))
    model = tiny if "adapter_name_or_path" in flags else folder
    with asked.opened() as workspace:
        reply = scored(workspace, model, messages=TEXTS)
        first = scored(workspace, model, messages=TEXTS, max_length=3).json()
    told = reply.json()
    assert reply.status_code == 200, told
    assert (told["object"], told["id"][:9]) == ("score.evaluation", "scoreval-")
    expected = [alone(folder, tiny, text) for text in TEXTS]
    assert told["scores"] == pytest.approx(expected, abs=1e-4)
    assert len(set(expected)) == 3
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    begun = tokenizer.decode(tokenizer(TEXTS[2], add_special_tokens=False)["input_ids"][:3])
    assert first["scores"][2] == pytest.approx(alone(folder, tiny, begun), abs=1e-4)


def test_a_model_without_a_head_is_told_what_is_needed(tiny):
    asked = reference(answer_request(None, [f"model_name_or_path={tiny}"]))
    with asked.opened() as workspace:
        reply = scored(workspace, tiny, messages=["a"])
        none = scored(workspace, tiny, messages=[])
    assert reply.status_code == none.status_code == 400
    assert "the head of a reward model. Train one (stage rm" in reply.json()["error"]["message"]
    assert none.json()["error"]["message"] == "messages: must be 1 to 128 texts; there are 0."
