import math

import pytest
import torch

from llama_factory.core.errors import ConfigError
from llama_factory.core.progress import SILENT
from llama_factory.core.types import Example, Message, Task
from llama_factory.evaluation.answering import (
    DecodedAnswer,
    answer_rows,
    end_tokens,
    greedy_answers,
    without_empty_thought,
)
from llama_factory.evaluation.evaluator import evaluate
from llama_factory.evaluation.likelihood import perplexity
from llama_factory.evaluation.settings import EvaluationSettings
from llama_factory.model.adapted import adapt
from llama_factory.model.chat.encoding import EncodeOptions
from llama_factory.model.settings import ModelSettings
from tests.tiny import make_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = make_tiny_model(tmp_path_factory.mktemp("tiny"))
    return adapt(
        ModelSettings(base_model=str(folder), dtype="float32"),
        None,
        options=EncodeOptions(200),
        seed=0,
    )


def row(question, answer):
    return Example((Message("user", question), Message("assistant", answer)), "g", "f", 1)


ROWS = [row("Hi?", "Hello."), row("What is it? " * 8, "你好"), row("Go", "on and on and on")]


class Counter:
    done = 0

    def advance(self, steps=1, note=""):
        self.done += steps


@pytest.mark.parametrize("batch_tokens", [16, 10_000])
def test_perplexity_is_that_of_all_answer_tokens_whatever_the_batches(model, batch_tokens):
    total, count = 0.0, 0
    for example in ROWS:
        turns = [{"role": t.role, "content": t.content} for t in example.messages]
        ask = model.tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True)[
            "input_ids"
        ]
        ids = model.tokenizer.apply_chat_template(turns)["input_ids"][:-1]
        with torch.no_grad():
            scores = model.network(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        for place in range(len(ask), len(ids)):
            total -= float(scores[place - 1, ids[place]])
            count += 1
    ours = perplexity(model, ROWS, batch_tokens=batch_tokens)
    assert ours == pytest.approx(math.exp(total / count), rel=1e-4)


def test_batched_answers_equal_those_given_alone(model):
    bar = Counter()
    together = greedy_answers(model, ROWS, max_new_tokens=8, bar=bar)
    alone = [greedy_answers(model, [each], max_new_tokens=8, bar=bar)[0] for each in ROWS]
    assert together == alone
    assert bar.done == 2 * len(ROWS)


def test_a_prompt_that_fills_all_the_model_reads_is_answered_with_nothing(model, caplog):
    rows = [row("What is it? " * 200, "x"), ROWS[0]]
    given = greedy_answers(model, rows, max_new_tokens=4, bar=Counter())
    alone = greedy_answers(model, [ROWS[0]], max_new_tokens=4, bar=Counter())
    assert given == [DecodedAnswer("", 0, is_cut=False), *alone]
    assert "1 of 2 prompts fill all 512 tokens that the model can read" in caplog.text


def test_an_answer_ends_at_every_token_that_the_model_declares(model):
    (before,) = dict(answer_rows(model, [ROWS[0]], max_new_tokens=8)).values()
    assert before.is_cut
    assert before.num_tokens == 8
    ids = model.tokenizer(before.text, add_special_tokens=False)["input_ids"]
    settings = model.network.generation_config
    declared = settings.eos_token_id
    try:
        settings.eos_token_id = [declared, *ids]
        assert end_tokens(model) >= {*ids, model.tokenizer.eos_token_id}
        (after,) = dict(answer_rows(model, [ROWS[0]], max_new_tokens=8)).values()
    finally:
        settings.eos_token_id = declared
    assert not after.is_cut
    assert after.num_tokens < 8


def test_few_tokens_at_once_change_no_answer(model):
    given = [dict(answer_rows(model, ROWS, max_new_tokens=8, batch_tokens=n)) for n in (8, 4096)]
    assert given[0] == given[1]


@pytest.mark.slow
def test_a_report_scores_every_task_and_keeps_the_answers(model):
    tasks = [Task("v0001", "g", tuple(ROWS)), Task("v0002", "h", (ROWS[0],))]
    settings = EvaluationSettings(max_new_tokens=4, max_rows=2)
    report, predictions = evaluate(model, tasks, settings, title="t", progress=SILENT)
    assert list(report.tasks) == ["v0001 g", "v0002 h"]
    assert report.tasks["v0001 g"].count == 2
    assert set(report.tasks["v0002 h"].scores) == {"exact_match", "token_f1", "perplexity"}
    assert [p.expected for p in predictions] == ["Hello.", "你好", "Hello."]
    assert report.guard_perplexity > 1
    assert type(report).from_json(report.to_json()) == report


def test_a_guard_without_rows_is_refused(model, tmp_path):
    for path, told in (
        (tmp_path / "none.jsonl", "does not exist"),
        (tmp_path / "a.jsonl", "no usable row"),
    ):
        (tmp_path / "a.jsonl").write_text("{}\n")
        with pytest.raises(ConfigError, match=told):
            evaluate(model, [], EvaluationSettings(guard=path), title="t", progress=SILENT)


@pytest.mark.parametrize(
    ("text", "asked", "said"),
    [
        ("<think>\n\n</think>\n\nGood.", "assistant\n", "Good."),
        ("</think>\n\nGood.", "assistant\n<think>\n", "Good."),
        ("</think>Good.", "assistant<think>", "Good."),
        ("<think>\nhm\n</think>\n\nGood.", "assistant\n", "<think>\nhm\n</think>\n\nGood."),
        ("hm\n</think>\n\nGood.", "assistant\n<think>\n", "hm\n</think>\n\nGood."),
        ("Good.", "assistant\n<think>\n\n</think>\n\n", "Good."),
        ("</b> Good.", "assistant\n<b>", "</b> Good."),
        ("", "assistant\n<think>\n", ""),
    ],
)
def test_an_empty_thought_is_no_part_of_an_answer(text, asked, said):
    assert without_empty_thought(text, prompt_end=asked) == said
