from dataclasses import replace

import pytest
import torch

from llama_factory.core.types import Example, Message
from llama_factory.evaluation import likelihood
from llama_factory.evaluation.likelihood import option_likelihoods
from llama_factory.evaluation.task_rows import TaskRow
from llama_factory.model.adapted import adapt
from llama_factory.model.chat.encoding import EncodeOptions
from llama_factory.model.settings import ModelSettings
from tests.tiny import ARCHITECTURES, make_tiny_model


def load(folder, architecture="llama"):
    settings = ModelSettings(base_model=str(make_tiny_model(folder, architecture)), dtype="float32")
    model = adapt(settings, None, options=EncodeOptions(200), seed=0)
    model.network.eval()
    return model


def row(question, *options):
    turns = (Message("user", question), Message("assistant", options[0]))
    return TaskRow(Example(turns, "g", "f.jsonl", 1), options)


ROWS = [
    row("What is the topic?", "World", "World news", "Sports"),
    row("这条新闻是什么类别？" * 3, "体育", "体育新闻", "娱乐", "国际", "the economy of the world"),
    row("Yes or no?", "yes", "no"),
]


def by_hand(model, task_row):
    """The log-probability of every option and its end token, one whole row at a time."""
    sums = []
    for option in task_row.options:
        asked = [{"role": "user", "content": task_row.example.messages[0].content}]
        turns = [*asked, {"role": "assistant", "content": option}]
        write = model.tokenizer.apply_chat_template
        start = len(write(asked, add_generation_prompt=True)["input_ids"])
        ids = write(turns)["input_ids"][:-1]  # without the line break after the end token
        with torch.no_grad():
            scores = model.network(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        sums.append(sum(float(scores[i - 1, ids[i]]) for i in range(start, len(ids))))
    return sums


def differences(sums):
    return [each - sums[0] for each in sums]


@pytest.mark.variants
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("batch_tokens", [16, 4096])
def test_options_differ_as_they_do_by_hand(tmp_path, architecture, batch_tokens):
    model = load(tmp_path, architecture)
    found = option_likelihoods(model, ROWS, batch_tokens=batch_tokens)
    for ours, task_row in zip(found, ROWS, strict=True):
        expected = differences(by_hand(model, task_row))
        assert differences(ours) == pytest.approx(expected, abs=1e-3)


def test_a_network_without_a_plain_cache_gives_the_same(tmp_path, monkeypatch):
    model = load(tmp_path)
    cached = option_likelihoods(model, ROWS, batch_tokens=4096)
    monkeypatch.setattr(likelihood, "can_cache", lambda network: False)
    whole = option_likelihoods(model, ROWS, batch_tokens=4096)
    for one, other in zip(cached, whole, strict=True):
        assert differences(one) == pytest.approx(differences(other), abs=1e-3)


def test_a_row_too_long_for_the_model_gets_no_numbers(tmp_path):
    model = replace(load(tmp_path), options=EncodeOptions(60))
    found = option_likelihoods(model, [ROWS[1], ROWS[2]], batch_tokens=4096)
    assert found[0] == []
    assert len(found[1]) == 2
