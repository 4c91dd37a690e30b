"""Of answers with channels the text alone is shown, and calls, whole or token by token."""

import pytest

from llama_factory.core.types import ToolCall
from llama_factory.inference.delivery import Delivery, TokenTexts
from llama_factory.inference.question import Answer, Options
from llama_factory.inference.request import Ended, Token
from llama_factory.model.chat.channels import channel_marks, final_text
from llama_factory.model.chat.tool_calls import read_calls
from tests.model.chat.kinds import named_tokenizer
from tests.tiny import make_tokenizer

CALL = 'commentary json<|message|>{"a": 1}<|call|>'
ANSWERS = {
    "<|channel|>final<|message|>It is 4.<|return|>": "It is 4.",
    "It is 4.<|return|>": "It is 4.",
    "<|channel|>analysis<|message|>Hm, 2 + 2.<|end|><|start|>assistant<|channel|>final<|message|>4":
        "4",
    "<|channel|>analysis<|message|>cut off": "",
    "<|channel|>fin": "",
}  # fmt: skip
CALLS = (
    f" to=functions.add<|channel|>{CALL}",
    "<|channel|>analysis<|message|>I add.<|end|><|start|>assistant"
    f" to=functions.add<|channel|>{CALL}",
    f"<|channel|>commentary to=functions.add <|constrain|>json{CALL[15:]}",
)


@pytest.fixture(scope="module")
def tokenizer():
    return named_tokenizer("gpt_oss")


def shown(tokenizer, text):
    """The text of an answer, whole and as a server delivers it."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = final_text(ids, tokenizer)
    heard = []
    ends = frozenset([tokenizer.eos_token_id])
    delivery = Delivery(TokenTexts(tokenizer), Options(max_tokens=99), 1, ends, heard.append)
    for token in ids:
        delivery.take(Token(0, token))
    delivery.end(Ended(0, "stop"))
    assert isinstance(heard[-1], Answer)
    assert heard[-1].text == whole
    return whole


@pytest.mark.parametrize("text", ANSWERS)
def test_thoughts_and_names_of_channels_are_not_shown(tokenizer, text):
    assert shown(tokenizer, text) == ANSWERS[text]


@pytest.mark.parametrize("text", CALLS)
def test_calls_are_read_from_what_is_shown(tokenizer, text):
    assert read_calls(shown(tokenizer, text), ["add"]) == ("", [ToolCall("add", '{"a": 1}')])


def test_other_tokenizers_have_no_channels():
    assert channel_marks(make_tokenizer()) is None
    assert channel_marks(named_tokenizer("phi4_mini")) is None
    plain = make_tokenizer()
    assert final_text([5, 6], plain) == plain.decode([5, 6])


def test_thoughts_of_gemma_are_not_shown_and_its_calls_are():
    tokenizer = named_tokenizer("gemma4")
    assert shown(tokenizer, "<|channel>thought\nHm.\n<channel|>It is 4.<turn|>") == "It is 4."
    assert shown(tokenizer, "<|channel>thought\ncut off") == ""
    call = '<|channel>thought\nHm.\n<channel|><|tool_call>call:add{a:<|"|>x, y}<|"|>}<tool_call|>'
    spoken, calls = read_calls(shown(tokenizer, f"{call}<|tool_response>"), ["add"])
    assert (spoken, calls) == ("", [ToolCall("add", '{"a": "x, y}"}')])


def test_marks_of_calls_that_are_special_tokens_are_shown():
    tokenizer = named_tokenizer("lfm2")
    call = "<|tool_call_start|>[add(a='x')]<|tool_call_end|><|im_end|>"
    assert read_calls(shown(tokenizer, call), ["add"])[1] == [ToolCall("add", '{"a": "x"}')]
