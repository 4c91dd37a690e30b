"""Metrics that look into the model."""

import math
from dataclasses import replace

import pytest

from llama_factory.evaluation.likelihood import option_likelihoods, perplexity
from llama_factory.evaluation.metrics.label_likelihood import LabelLikelihood
from llama_factory.evaluation.metrics.perplexity import Perplexity
from llama_factory.model.adapted import adapt
from llama_factory.model.chat.encoding import EncodeOptions
from llama_factory.model.settings import ModelSettings
from tests.evaluation.metrics.rows import task_row, text_row
from tests.tiny import make_tiny_model

TOPICS = ("World", "World news", "Sports", "体育")
QUESTIONS = ("What?", "这是什么类别？", "Which topic is it?", "?")
ROWS = [task_row(t, *TOPICS, question=q) for t, q in zip(TOPICS, QUESTIONS, strict=True)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = make_tiny_model(tmp_path_factory.mktemp("tiny"))
    settings = ModelSettings(base_model=str(folder), dtype="float32")
    found = adapt(settings, None, options=EncodeOptions(200), seed=0)
    found.network.eval()
    return found


def test_label_likelihood_chooses_the_likeliest_option(model):
    scored = LabelLikelihood().measure(model, ROWS, batch_tokens=512)
    sums = option_likelihoods(model, ROWS, batch_tokens=512)
    for row, each, found in zip(ROWS, scored, sums, strict=True):
        assert found[TOPICS.index(each.answer)] == max(found)
        assert each.score == (each.answer == row.expected)
    pairs = zip(scored, QUESTIONS, strict=True)
    right = [task_row(each.answer, *TOPICS, question=question) for each, question in pairs]
    assert LabelLikelihood().total(LabelLikelihood().measure(model, right, batch_tokens=64)) == 1


def test_perplexity_of_all_rows_is_that_over_all_tokens(model):
    rows = [*ROWS, text_row("今天的天气很好。")]
    scored = Perplexity().measure(model, rows, batch_tokens=512)
    expected = perplexity(model, [row.example for row in rows], batch_tokens=512)
    assert Perplexity().total(scored) == pytest.approx(expected)
    for row, each in zip(rows, scored, strict=True):
        alone = perplexity(model, [row.example], batch_tokens=512)
        assert each.score == pytest.approx(alone)
        assert each.weight >= 2


def test_rows_that_do_not_fit_the_model_are_not_judged(model):
    small = replace(model, options=EncodeOptions(12))
    long = task_row("World", *TOPICS, question="What is it? " * 30)
    assert math.isnan(LabelLikelihood().measure(small, [long], batch_tokens=64)[0].score)
    (found,) = Perplexity().measure(small, [long], batch_tokens=64)
    assert math.isnan(found.score)
    assert math.isnan(Perplexity().total([found]))
