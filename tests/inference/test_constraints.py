"""Answers that must match a schema, an expression, a grammar or a list."""

import json

import pytest
import torch
from transformers import AutoTokenizer

from llama_factory.inference.constraints import Compiler
from llama_factory.inference.question import RequestError
from llama_factory.inference.request import Constraint, Request, Sampling
from llama_factory.inference.sampling import Chooser, choose
from llama_factory.model import source
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


DOUBLING = "\n".join(f"T{i}: T{i - 1} T{i - 1}" for i in range(1, 21))


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


@pytest.mark.variants
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


@pytest.mark.slow
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
        ("json_schema", '{"type"', "Expecting ':' delimiter"),
        ("json_schema", "[" * 90_000, "recursion"),
        ("json_schema", '{"$ref": "http://example.com/x"}', "does not fetch"),
        ("json_schema", '{"$defs":{"n":{"$ref":"#/$defs/n"}},"$ref":"#/$defs/n"}', "NoExtension"),
        ("json_schema", '{"enum": []}', "Unsatisfiable"),
        ("json_schema", '{"properties": {"a": {"pattern": "(a?){5000}a{5000}"}}}', "parts"),
        ("json_schema", '{"patternProperties": {"(a{100}){100}": {}}}', "parts"),
        ("regex", "(a?){5000}a{5000}", "Lower the counts"),
        ("regex", "(a{1000}){1000}", "Lower the counts"),
        ("regex", "a{" + "9" * 5000 + "}", "Lower the counts"),
        ("regex", "(" * 50_000 + ")" * 50_000, "nest"),
        ("grammar", "start: A{1000}\nA: B~1000\nB: /x/", "Lower the counts"),
        ("grammar", "start: T20\nT0: /x/\n" + DOUBLING, "Lower the counts"),
        ("grammar", 'start: %json {"pattern": "x"}', "%json"),
        ("choice", '["\\ud800"]', "surrogate"),
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


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("regex", r"\d{3}-\d{3}-\d{4}"),
        ("regex", r"[a-z]{1,64}@[a-z]{1,64}\.(com|org)"),
        ("regex", r".{0,1500}"),
        ("regex", "[{]{3}\\{99999}"),
        (
            "grammar",
            'start: (value ",")~1..20 value\nvalue: NUMBER | "x"\nNUMBER: /[0-9]{1,9}/',
        ),
        ("json_schema", '{"type": "string", "maxLength": 1000000}'),
        ("json_schema", '{"type": "array", "minItems": 100000}'),
    ],
)
def test_ordinary_repetitions_are_followed(compiler, kind, text):
    assert compiler.matcher(Constraint(kind, text)).allowed(frozenset()).any()


def test_the_same_constraint_begins_anew_for_each_answer(compiler, tokenizer):
    constraint = Constraint("regex", "ab")
    first = compiler.matcher(constraint)
    for letter in "ab":
        first.accept(tokenizer.convert_tokens_to_ids(letter))
    second = compiler.matcher(constraint)
    assert first.is_finished
    assert not second.is_finished


def test_a_constraint_that_takes_too_long_fails_its_own_answer(compiler, tokenizer, monkeypatch):
    monkeypatch.setattr("llama_factory.inference.constraints.FIRST_SECONDS", -1.0)
    size = len(tokenizer)
    slow = Chooser(Request((1,)), size, compiler.matcher(Constraint("regex", "a*")))
    chosen = choose(torch.zeros(2, size), [slow, Chooser(Request((1,)), size)])
    assert "takes too long" in str(chosen[0].error)
    assert chosen[1].error is None


def test_spaces_in_json_come_to_an_end(compiler, tokenizer):
    logits = torch.zeros(1, len(tokenizer))
    logits[0, tokenizer.encode(" ")] = 50
    text, _ = answer(compiler, tokenizer, Constraint("json"), logits=logits, most=200)
    assert " " * 64 in text
    assert " " * 65 not in text


def test_min_tokens_yield_where_only_the_end_is_allowed(compiler, tokenizer):
    end = frozenset({tokenizer.eos_token_id})
    request = Request((1,), end_tokens=end, min_tokens=5)
    one = Chooser(request, len(tokenizer), compiler.matcher(Constraint("regex", "")))
    assert choose(torch.zeros(1, len(tokenizer)), [one])[0].is_end


@pytest.mark.slow
def test_a_tokenizer_of_50000_tokens_writes_what_schemas_ask_for():
    tokenizer = AutoTokenizer.from_pretrained(source.resolve_tokenizer("smollm2"))
    compiler = Compiler(tokenizer)
    text = json.dumps(PERSON, ensure_ascii=False)
    for constraint in (
        Constraint("json_schema", text),
        Constraint("json_schema", json.dumps(PERSON)),
    ):
        for seed in range(5):
            answered, is_end = answer(compiler, tokenizer, constraint, seed=seed)
            assert is_end
            assert json.loads(answered)["名字"] in ("张三", "李四")
    texts = [answer(compiler, tokenizer, Constraint("json"), seed=seed) for seed in range(10)]
    ended = [answered for answered, is_end in texts if is_end]
    assert ended
    assert all(isinstance(json.loads(answered), dict) for answered in ended)
    answered, _ = answer(
        compiler, tokenizer, Constraint("regex", r"[\u4e00-\u9fff]{3,8}！"), seed=3
    )
    assert 4 <= len(answered) <= 9
