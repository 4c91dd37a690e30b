"""Whatever the family, a trained row begins with the very tokens that ask for its answer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_factory.core.types import Example, Message
from llama_factory.model.base import give_template
from llama_factory.model.chat import templates
from llama_factory.model.chat.encoding import EncodeOptions, encode, encode_pair, prompt_ids
from llama_factory.model.chat.prompt_format import PromptFormat
from tests.model.chat.kinds import merging
from tests.model.chat.test_families import TALKS, TOOLS

FORMATS = {templates.find(name).jinja.split("\n", 1)[1]: name for name in templates.names()}
FAMILIES = sorted(FORMATS.values())
"""One name of each format: others are the same but for their name."""
TEXTS = st.text(alphabet="ab 1.\n\t*你，<|>/", min_size=1, max_size=12).filter(str.strip)


def tokenizer_of(name):
    """One that merges line breaks and spaces, with the marks of a family as single tokens."""
    tokenizer = merging()
    tokenizer.chat_template = None
    marks = [each for each in templates.find(name).tokens if not each.endswith("os_token")]
    tokenizer.add_special_tokens({"bos_token": "<s>", "additional_special_tokens": marks})
    give_template(tokenizer, name, where="merging")
    return tokenizer


def talk(contents):
    roles = ["user", "assistant"] * len(contents)
    return tuple(Message(role, text) for role, text in zip(roles, contents, strict=False))


def require_prefix(example, tokenizer, options):
    asked, row = prompt_ids(example, tokenizer, options), encode(example, tokenizer, options)
    assert list(row.ids[: len(asked)]) == asked
    assert row.is_trained[len(asked)]
    assert not row.is_trained[len(asked) - 1]


@pytest.mark.variants
@pytest.mark.parametrize("name", FAMILIES)
def test_a_row_begins_with_the_tokens_that_ask_for_its_answer(name):
    tokenizer = tokenizer_of(name)

    @settings(max_examples=10, deadline=None, derandomize=True)
    @given(contents=st.lists(TEXTS, min_size=4, max_size=4), thinks=st.sampled_from([None, False]))
    def check(contents, thinks):
        options = EncodeOptions(10_000, format=PromptFormat(enable_thinking=thinks))
        turns = talk(contents)
        for messages in (turns[:2], turns, (Message("system", contents[0]), *turns)):
            require_prefix(Example(messages, "g", "f.jsonl", 1), tokenizer, options)
        pair = Example(turns, "g", "f.jsonl", 1, rejected=Message("assistant", contents[0]))
        asked = prompt_ids(pair, tokenizer, options)
        for row in encode_pair(pair, tokenizer, options):
            assert list(row.ids[: len(asked)]) == asked
            assert row.is_trained.index(True) == len(asked)

    check()


@pytest.mark.parametrize("name", FAMILIES)
def test_so_does_a_row_with_tools(name):
    tokenizer = tokenizer_of(name)
    options = EncodeOptions(10_000)
    for number in (2, 4):
        example = Example(TALKS["tools"][:number], "g", "f.jsonl", 1, tools=TOOLS)
        require_prefix(example, tokenizer, options)
