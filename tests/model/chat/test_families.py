"""Every name of families.yaml, and the families whose texts are written out from model cards."""

import json
from pathlib import Path

import pytest
import yaml

from llama_factory.core.types import Message, ToolCall
from llama_factory.model.chat.prompt_format import PromptFormat
from llama_factory.model.chat.template import Renderer
from llama_factory.model.chat.templates import find, format_of, is_named, names
from tests.tiny import make_tokenizer

CARDS = yaml.safe_load((Path(__file__).parent / "families.yaml").read_text(encoding="utf-8"))
WEATHER = {
    "name": "weather",
    "description": "Tells the weather.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
TOOLS = json.dumps([{"type": "function", "function": WEATHER}])
ASKED = (Message("user", "A"), Message("assistant", "B"))
CALLED = Message("assistant", "", tool_calls=(ToolCall("weather", '{"city": "Rome", "days": 2}'),))
TALKS = {
    "one": ASKED,
    "three": (
        Message("system", "S"),
        *ASKED,
        Message("user", "C"),
        Message("assistant", "D"),
        Message("user", "E"),
        Message("assistant", "F"),
    ),
    "tools": (ASKED[0], CALLED, Message("tool", '{"t": 20}'), ASKED[1]),
}


@pytest.fixture(scope="module")
def tokenizer():
    found = make_tokenizer()
    found.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    return found


def written(tokenizer, name, talk, **options):
    """A conversation as the named template writes it, what is taught between ⟦ and ⟧."""
    how = PromptFormat(template=find(name).jinja, **options)
    text, spans = Renderer(tokenizer, TOOLS if talk == "tools" else "", how).marked(TALKS[talk])
    for start, end in sorted(spans, reverse=True):
        text = f"{text[:start]}⟦{text[start:end]}⟧{text[end:]}"
    return text


@pytest.mark.variants
@pytest.mark.parametrize("name", CARDS)
def test_a_family_is_written_and_taught_as_its_model_card_shows(tokenizer, name):
    assert {talk: written(tokenizer, name, talk) for talk in CARDS[name]} == CARDS[name]


def test_many_families_are_written_out():
    assert len(CARDS) >= 50
    assert sum("tools" in texts for texts in CARDS.values()) >= 14


@pytest.mark.slow
def test_every_name_writes_what_is_asked_and_teaches_the_answers_with_their_end(tokenizer):
    for name in names():
        text = written(tokenizer, name, "three")
        end = format_of(name).tokens.split()[-1].replace("eos_token", "</s>")
        assert text.count(f"{end}⟧") == 3, name
        without_marks = "".join(text.split("⟦")[0] for text in text.split("⟧"))
        assert "C" in without_marks, name


def test_a_name_for_models_that_do_not_think_has_no_thoughts():
    for name in names():
        if name.endswith("_nothink"):
            assert format_of(name).thought is None
            assert format_of(name.removesuffix("_nothink")) != format_of(name)


def test_where_thinking_is_off_the_question_holds_the_empty_thought(tokenizer):
    quiet = written(tokenizer, "glm4_moe", "one", enable_thinking=False)
    assert quiet == "[gMASK]<sop><|user|>\nA<|assistant|>\n<think></think>⟦\nB<|user|>⟧"


def test_templates_of_the_table_are_known_again():
    assert is_named(find("qwen").jinja)
    assert not is_named({"default": find("qwen").jinja})


def test_rows_without_a_system_prompt_get_that_of_the_settings(tokenizer):
    assert written(tokenizer, "chatml", "one", default_system="Be kind.").startswith(
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user"
    )
    assert "Be kind." not in written(tokenizer, "chatml", "three", default_system="Be kind.")
    merged = written(tokenizer, "gemma", "one", default_system="Be kind.")
    assert merged.startswith("<s><start_of_turn>user\nBe kind.\n\nA<end_of_turn>")


def test_an_exported_template_holds_the_system_prompt(tokenizer):
    how = PromptFormat(template=find("chatml").jinja, default_system='Say "hi".')
    alone = PromptFormat(template=how.portable(find("chatml").jinja))
    texts = [Renderer(tokenizer, format=each).text(ASKED, ask=False) for each in (how, alone)]
    assert texts[0] == texts[1]
    assert 'system\nSay "hi".<|im_end|>' in texts[0]
