import json
import logging
import re

import pytest
from pydantic import ValidationError

from llama_factory.core.errors import ModelError
from llama_factory.core.types import Example, Message, ToolCall
from llama_factory.model.base import give_template, load_tokenizer
from llama_factory.model.chat.encoding import EncodeOptions, encode
from llama_factory.model.chat.prompt_format import PromptFormat
from llama_factory.model.chat.template import MARKS, Renderer
from llama_factory.model.chat.templates import format_of, names
from llama_factory.model.settings import ModelSettings
from tests.model.chat.kinds import named_tokenizer
from tests.tiny import END, make_tokenizer

KINDS = ("chatml", "qwen3", "llama2", "mistral", "glm4_moe", "lfm2")
"""One of each way of writing; the others are told from them by words alone."""
FILES = [
    pytest.param(name, marks=[] if name in KINDS else [pytest.mark.slow])
    for name in names()
    if name not in ("empty", "fewshot")  # nothing shows who speaks
]
LONG = EncodeOptions(10_000)
TOOLS = json.dumps([{"name": "weather", "description": "天气", "parameters": {"type": "object"}}])

TALKS = {
    "english": [("user", "Hi?"), ("assistant", "Hello."), ("user", "And?"), ("assistant", "Fine.")],
    "chinese": [
        ("user", "你好"),
        ("assistant", "您好！"),
        ("user", "谢谢"),
        ("assistant", "不客气"),
    ],
    "system": [("system", "请简短"), ("user", "为什么？"), ("assistant", "因为。\n\n如此")],
    "odd": [("user", " a\n"), ("assistant", "\n b "), ("user", "c"), ("assistant", "[INS] d")],
}


def row(turns, **fields):
    return Example(tuple(Message(role, text) for role, text in turns), "g", "f", 1, **fields)


ROWS = [
    *(pytest.param(row(turns), id=name) for name, turns in TALKS.items()),
    pytest.param(
        Example(
            (
                Message("user", "北京天气？"),
                Message("assistant", "", tool_calls=(ToolCall("weather", '{"city": "北京"}'),)),
                Message("tool", '{"sky": "晴"}'),
                Message("assistant", "晴天。"),
            ),
            "g",
            "f",
            1,
            tools=TOOLS,
        ),
        id="tools",
    ),
]


OTHER_ENDS = {"gpt_oss": ""}
"""What ends an answer that others follow, where that is not what ends the last one, and is not
taught."""


def unmarked(template):
    return re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", template)


@pytest.mark.variants
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("example", ROWS)
def test_prefixes_find_the_tokens_that_the_template_marks(name, example):
    tokenizer = named_tokenizer(name)
    marked = encode(example, tokenizer, LONG)
    turns, tools = Renderer(tokenizer, example.tools).turns(example.messages)
    theirs = tokenizer.apply_chat_template(
        turns, tools=tools, return_dict=True, return_assistant_tokens_mask=True
    )
    tokenizer.chat_template = unmarked(tokenizer.chat_template)
    assert not MARKS.search(tokenizer.chat_template)
    prefixes = encode(example, tokenizer, LONG)
    kept = len(prefixes.ids)
    assert list(prefixes.ids) == theirs["input_ids"][:kept]
    if name not in OTHER_ENDS:  # of the character before a mark's end they see one token only
        assert list(prefixes.is_trained) == list(map(bool, theirs["assistant_masks"][:kept]))
    assert not any(theirs["assistant_masks"][kept:])
    assert marked == prefixes


def empty_thought(name):
    """What an answer without a thought begins with."""
    if name == "gpt_oss":
        return "<|channel|>final<|message|>"
    if name.startswith("gemma4"):
        return ""
    form = format_of(name)
    return "".join(form.thought or ()) if form.no_thought is None else form.no_thought


@pytest.mark.parametrize("name", FILES)
def test_every_answer_is_taught_whole_with_a_token_that_ends_it(name):
    tokenizer = named_tokenizer(name)
    code = encode(row(TALKS["chinese"]), tokenizer, LONG)
    trained = [i for i, t in zip(code.ids, code.is_trained, strict=True) if t]
    before = OTHER_ENDS.get(name, tokenizer.eos_token)
    assert trained.count(tokenizer.eos_token_id) == (2 if before else 1)
    assert code.ids[-1] == tokenizer.eos_token_id
    empty = empty_thought(name)
    text = tokenizer.decode(trained).replace(empty, "") if empty else tokenizer.decode(trained)
    end = tokenizer.eos_token
    assert re.sub(r"\s", "", text) == f"您好！{before}不客气{end}"


@pytest.mark.parametrize("name", FILES)
def test_a_role_that_a_template_does_not_know_makes_the_row_unfit(name):
    code = encode(row([("critic", "x"), ("assistant", "y")]), named_tokenizer(name), LONG)
    assert f"role 'critic' is unknown to the {name} template" in code.reason


def rendered(name, turns, ask=False, **options):
    how = PromptFormat(**options)
    return Renderer(named_tokenizer(name), format=how).text(row(turns).messages, ask=ask)


def test_known_formats_are_written_as_their_documentation_says():
    two = [("system", "S"), ("user", "A"), ("assistant", "B"), ("user", "C")]
    assert rendered("llama2", two) == (
        "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nA [/INST] B </s><s>[INST] C [/INST]"
    )
    assert rendered("llama3", two, ask=True) == (
        "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nA<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nB<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nC<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert rendered("gemma", two[1:], ask=True) == (
        "<s><start_of_turn>user\nA<end_of_turn>\n<start_of_turn>model\nB<end_of_turn>\n"
        "<start_of_turn>user\nC<end_of_turn>\n<start_of_turn>model\n"
    )
    assert rendered("glm4", two, ask=True) == (
        "[gMASK]<sop><|system|>\nS<|user|>\nA<|assistant|>\nB<|user|>\nC<|assistant|>"
    )
    assert rendered("chatglm", two, ask=True) == (
        "[gMASK]sop<|system|>\n S<|user|>\n A<|assistant|>\n B<|user|>\n C<|assistant|>"
    )
    assert rendered("baichuan2", two, ask=True) == (
        "S<reserved_106>A<reserved_107>B</s><reserved_106>C<reserved_107>"
    )
    assert rendered("mistral", two) == "<s>[INST] S\n\nA[/INST] B</s>[INST] C[/INST]"


def test_an_empty_thought_is_taught_unless_thinking_is_off():
    turns = [("user", "A"), ("assistant", "<think>\nt\n</think>\n\nB"), ("user", "C")]
    empty = "<think>\n\n</think>\n\n"
    assert rendered("qwen3", turns[2:], ask=True).endswith("assistant\n")
    assert rendered("qwen3", turns[2:], ask=True, enable_thinking=False).endswith(empty)
    assert "<think>\nt\n</think>\n\nB" in rendered("qwen3", turns)
    assert f"assistant\n{empty}B" in rendered("qwen3", turns, enable_thinking=False)


def test_a_tokenizer_without_a_template_needs_a_name():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match=r"x: the tokenizer has no chat template.* set model.temp"):
        give_template(tokenizer, None, where="x")
    with pytest.raises(ModelError, match=r"'lama3' is no template known here. Did you mean 'llama"):
        give_template(tokenizer, "lama3", where="x")


def test_an_unknown_template_is_refused_when_settings_are_read():
    assert ModelSettings(template="qwen").template == "qwen"
    with pytest.raises(ValidationError, match=r"'chatlm' is no template .* Did you mean .chat"):
        ModelSettings(template="chatlm")


def test_tokens_that_the_vocabulary_lacks_are_told(caplog):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    give_template(tokenizer, "llama3", where="tiny")
    assert (
        "tiny: <|start_header_id|>, <|end_header_id|>, <|eot_id|> of template 'llama3' are no "
        "single token of this vocabulary" in caplog.text
    )
    assert tokenizer.eos_token == END


def test_answers_end_with_the_templates_end_token(caplog):
    tokenizer = named_tokenizer("gemma")
    assert tokenizer.eos_token == "<end_of_turn>"
    assert "answers now end with <end_of_turn>, not </s>" in caplog.text


def test_a_tokenizers_own_template_wins_and_a_difference_is_told(caplog, tmp_path):
    make_tokenizer().save_pretrained(tmp_path)
    own = load_tokenizer(tmp_path).chat_template
    with caplog.at_level(logging.WARNING):
        assert load_tokenizer(tmp_path, template="chatml").chat_template == own
        assert caplog.text == ""
        assert load_tokenizer(tmp_path, template="zephyr").chat_template == own
    assert "model.template 'zephyr' differs from the tokenizer's own chat template" in caplog.text
    assert "'<|im_start|>user" in caplog.text
