"""Answers that must match a schema, an expression, a grammar or a list."""

import json

import pytest
import torch

from llama_factory.inference.constraints import Compiler
from llama_factory.inference.question import RequestError
from llama_factory.inference.request import Constraint, Request, Sampling
from llama_factory.inference.sampling import Chooser, choose
from tests.tiny import make_tokenizer

PERSON = {
    "type": "object",
    "properties": {
        "名字": {"enum": ["张三", "李四"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 5}, "maxItems": 3},
    },
    "required": ["名字", "age", "tags"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def compiler(tokenizer):
    return Compiler(tokenizer)


def answer(compiler, tokenizer, constraint, *, seed=0, most=400, logits=None):
    """A text of random tokens under a constraint, and whether it ended."""
    request = Request(
        (1,),
        sampling=Sampling(seed=seed),
        end_tokens=frozenset({tokenizer.eos_token_id}),
        constraint=constraint,
    )
    size = len(tokenizer)
    one = Chooser(request, size, compiler.matcher(constraint))
    ids = []
    for _ in range(most):
        chosen = choose(torch.zeros(1, size) if logits is None else logits, [one])[0]
        assert chosen.error is None
        ids.append(chosen.id)
        if chosen.is_end:
            break
    return tokenizer.decode(ids, skip_special_tokens=True), chosen.is_end


@pytest.mark.parametrize("seed", range(10))
def test_random_tokens_under_a_schema_are_valid(compiler, tokenizer, seed):
    constraint = Constraint("json_schema", json.dumps(PERSON, ensure_ascii=False))
    text, is_end = answer(compiler, tokenizer, constraint, seed=seed)
    assert is_end
    value = json.loads(text)
    assert list(value) == ["名字", "age", "tags"]
    assert value["名字"] in ("张三", "李四")
    assert value["age"] in range(151)
    assert all(len(tag) <= 5 for tag in value["tags"])


def test_a_choice_is_one_of_the_list(compiler, tokenizer):
    choices = ["yes", "no", "是的", '也许 "so"\n', "nowhere"]
    constraint = Constraint("choice", json.dumps(choices))
    texts = {answer(compiler, tokenizer, constraint, seed=seed)[0] for seed in range(60)}
    assert texts == set(choices)


def test_an_expression_is_matched_as_a_whole(compiler, tokenizer):
    text, is_end = answer(compiler, tokenizer, Constraint("regex", r"[0-9]{4}-[0-9]{2}"))
    assert is_end
    assert len(text) == 7


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("json_schema", '{"type": "strin"}', "Invalid type: strin"),
        ("json_schema", '{"type"', "expected `:`"),
        ("regex", "a(b", "unclosed group"),
        ("regex", "(?=a)b", "look-ahead"),
        ("choice", "[]", "one or more texts"),
        ("choice", "[1]", "one or more texts"),
        ("grammar", "start: x", "x"),
        ("json_schema", '"' + "a" * 100_001 + '"', "at most 100000"),
    ],
)
def test_a_wrong_constraint_is_refused_with_its_reason(compiler, kind, text, message):
    with pytest.raises(RequestError, match=message) as error:
        compiler.matcher(Constraint(kind, text), param="guided")
    assert error.value.place == "guided"


def test_an_end_token_of_the_request_ends_only_where_the_grammar_may_end(compiler, tokenizer):
    dot = tokenizer.convert_tokens_to_ids(".")
    matcher = compiler.matcher(Constraint("regex", r"a\.?b*"))
    assert not matcher.allowed(frozenset({dot}))[dot]
    matcher.accept(tokenizer.convert_tokens_to_ids("a"))
    assert matcher.allowed(frozenset({dot}))[dot]
