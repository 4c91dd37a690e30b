"""Every name of families.yaml, and the families whose texts are written out from model cards."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from llama_factory.core.types import Message, ToolCall
from llama_factory.model.chat.prompt_format import PromptFormat
from llama_factory.model.chat.template import Renderer
from llama_factory.model.chat.templates import find, format_of, is_named, names, tool_formats
from llama_factory.model.chat.tool_calls import read_calls
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
        end = find(name).tokens[-1].replace("eos_token", "</s>")
        # gpt-oss ends the answers that others follow with another token
        assert text.count(f"{end}⟧") == (1 if name == "gpt_oss" else 3), name
        without_marks = "".join(text.split("⟦")[0] for text in text.split("⟧"))
        assert "C" in without_marks, name


def test_a_name_for_models_that_do_not_think_has_no_thoughts():
    for name in names():
        if name.endswith("_nothink"):
            assert format_of(name).thought is None
            assert format_of(name.removesuffix("_nothink")) != format_of(name)


SEARCH = {
    "name": "search",
    "parameters": {
        "type": "object",
        "properties": {
            "query": {"type": "string", "description": "What to look for."},
            "number": {"type": "integer", "default": 10},
            "language": {"type": "string", "enum": ["en", "zh"], "default": "en"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "place": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "radius": {"type": "number"}},
                "required": ["city"],
            },
            "since": {"type": ["string", "null"]},
        },
        "required": ["query"],
    },
}


def test_gpt_oss_lists_tools_in_the_notation_of_its_model_card(tokenizer):
    how = PromptFormat(template=find("gpt_oss").jinja)
    tools = json.dumps([{"type": "function", "function": each} for each in (SEARCH, {"name": "f"})])
    text = Renderer(tokenizer, tools, how).text(ASKED[:1], ask=True)
    assert (
        """namespace functions {

type search = (_: {
// What to look for.
query: string,
number?: number, // default: 10,
language?: "en" | "zh", // default: en,
tags?: string[],
place?: {
city: \n                string, radius?: \n                number},
since?: string | null,
}) => any;

type f = () => any;

} // namespace functions<|end|>"""
        in text
    )


def test_gpt_oss_keeps_thoughts_and_what_is_said_beside_a_call_in_a_channel(tokenizer):
    how = PromptFormat(template=find("gpt_oss").jinja)
    beside = (ASKED[0], replace(CALLED, content="Let me look."), Message("tool", "20"))
    renderer = Renderer(tokenizer, TOOLS, how)
    asked = renderer.text(beside, ask=True)
    assert (
        "assistant<|channel|>analysis<|message|>Let me look.<|end|><|start|>assistant to=" in asked
    )
    whole = renderer.text((*beside, ASKED[1]), ask=False)
    assert whole == f"{asked}<|channel|>final<|message|>B<|return|>"
    thought = Message("assistant", "<think>\nHm.\n</think>\n\nB")
    assert (
        Renderer(tokenizer, format=how)
        .text((ASKED[0], thought), ask=False)
        .endswith(
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>B<|return|>"
        )
    )


LONDON = {
    "name": "get_current_temperature",
    "description": "Gets the current temperature for a given location.",
    "parameters": {
        "type": "object",
        "properties": {
            "location": {"type": "string", "description": "The city name, e.g. San Francisco"}
        },
        "required": ["location"],
    },
}


def test_gemma4_with_tools_is_written_as_googles_guide_shows(tokenizer):
    """Its "Function calling with Gemma 4" prints this text, but for the name of the first token."""
    talk = (
        Message("system", "You are a helpful assistant."),
        Message("user", "What's the temperature in London?"),
        Message(
            "assistant",
            "",
            tool_calls=(ToolCall("get_current_temperature", '{"location": "London"}'),),
        ),
    )
    how = PromptFormat(template=find("gemma4").jinja)
    renderer = Renderer(tokenizer, json.dumps([{"type": "function", "function": LONDON}]), how)
    asked = (
        "<s><|turn>system\nYou are a helpful assistant.<|tool>declaration:get_current_temperature"
        '{description:<|"|>Gets the current temperature for a given location.<|"|>,parameters:'
        '{properties:{location:{description:<|"|>The city name, e.g. San Francisco<|"|>,type:'
        '<|"|>STRING<|"|>}},required:[<|"|>location<|"|>],type:<|"|>OBJECT<|"|>}}<tool|><turn|>\n'
        "<|turn>user\nWhat's the temperature in London?<turn|>\n<|turn>model\n"
    )
    called = (
        '<|tool_call>call:get_current_temperature{location:<|"|>London<|"|>}<tool_call|>'
        "<|tool_response>"
    )
    assert renderer.text(talk[:2], ask=True) == asked
    assert renderer.marked(talk) == (asked + called, [(len(asked), len(asked + called))])


def test_gemma4_declares_whatever_a_schema_holds(tokenizer):
    parameters = {
        "type": "object",
        "properties": {
            "unit": {"type": "string", "enum": ["c", "f"], "default": "c"},
            "days": {"type": "integer", "nullable": True, "description": "How many."},
            "rows": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"a": {"type": ["number", "null"]}},
                    "required": ["a"],
                },
            },
            "place": {"type": "object", "properties": {"x": {"type": "boolean"}}},
            "free": {"type": "object"},
        },
    }
    tools = json.dumps([{"name": "f", "parameters": parameters, "response": {"type": "string"}}])
    how = PromptFormat(template=find("gemma4").jinja)
    text = Renderer(tokenizer, tools, how).text(ASKED[:1], ask=True).replace('<|"|>', "'")
    assert text.split("<|tool>")[1].split("<tool|>")[0] == (
        "declaration:f{description:'',parameters:{properties:{"
        "days:{description:'How many.',nullable:true,type:'INTEGER'},"
        "free:{properties:{},type:'OBJECT'},"
        "place:{properties:{x:{type:'BOOLEAN'}},type:'OBJECT'},"
        "rows:{items:{properties:{a:{type:['NUMBER','NULL']}},required:['a'],type:'OBJECT'},type:'ARRAY'},"
        "unit:{enum:['c','f'],type:'STRING'}},type:'OBJECT'},response:{type:'STRING'}}"
    )


def test_gemma4_thinks_where_it_is_asked_to_and_shows_the_thoughts_of_the_last_answer(tokenizer):
    thought = Message("assistant", "<think>\nHm.\n</think>\n\nB")
    talk = (ASKED[0], thought, Message("user", "C"), replace(thought, content="<think>Ha</think>D"))

    def text(name, **options):
        how = PromptFormat(template=find(name).jinja, **options)
        return Renderer(tokenizer, format=how).text(talk, ask=False)

    begin = "<|turn>user\nA<turn|>\n<|turn>model\nB<turn|>\n<|turn>user\nC<turn|>\n<|turn>model\n"
    shown = f"{begin}<|channel>thought\nHa\n<channel|>D<turn|>\n"
    assert text("gemma4") == f"<s>{shown}"
    assert text("gemma4", enable_thinking=True) == f"<s><|turn>system\n<|think|>\n<turn|>\n{shown}"
    quiet = f"<s>{begin}<|channel>thought\n<channel|>D<turn|>\n"
    assert text("gemma4", enable_thinking=False) == quiet
    # the small models have no empty thought
    assert text("gemma4n", enable_thinking=False) == f"<s>{begin}D<turn|>\n"


def test_where_thinking_is_off_the_question_holds_the_empty_thought(tokenizer):
    quiet = written(tokenizer, "glm4_moe", "one", enable_thinking=False)
    assert quiet == "[gMASK]<sop><|user|>\nA<|assistant|>\n<think></think>⟦\nB<|user|>⟧"


def test_templates_of_the_table_are_known_again():
    assert is_named(find("qwen").jinja)
    assert not is_named({"default": find("qwen").jinja})


OWN = (
    "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content }}</s>{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
"""A tokenizer's template that has no way to write tools."""
LISTED = json.dumps(json.loads(TOOLS)[0])
FUNCTION = json.dumps(WEATHER)


@pytest.mark.parametrize(
    ("name", "listed", "called"),
    [
        (
            "default",
            f"{FUNCTION}\nTo use a tool",
            'Action: weather\nAction Input: {"city": "Rome", "days": 2}',
        ),
        (
            "qwen",
            f"<tools>\n{LISTED}\n</tools>",
            '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome", "days": 2}}\n'
            "</tool_call>",
        ),
        ("glm4", "S\n\n你是一个名为 ChatGLM", 'weather\n{"city": "Rome", "days": 2}'),
        (
            "llama3",
            "Given the following functions",
            '{"name": "weather", "parameters": {"city": "Rome", "days": 2}}',
        ),
        (
            "mistral",
            f"S\n\n[AVAILABLE_TOOLS] [{LISTED}][/AVAILABLE_TOOLS]",
            '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Rome", "days": 2}, '
            '"id": "call00001"}]',
        ),
        (
            "minimax1",
            f"<tools>\n{FUNCTION}\n</tools>",
            '<tool_calls>\n{"name": "weather", "arguments": {"city": "Rome", "days": 2}}\n'
            "</tool_calls>",
        ),
        ("lfm2", f"[{LISTED}]<|tool_list_end|>", "[weather(city='Rome', days=2)]<|tool_call_end|>"),
        (
            "gemma4",
            'S\n\n<|tool>declaration:weather{description:<|"|>Tells the weather.<|"|>,parameters:{',
            '<|tool_call>call:weather{city:<|"|>Rome<|"|>,days:2}<tool_call|>',
        ),
    ],
)
def test_tools_may_be_written_in_the_way_of_another_family(tokenizer, name, listed, called):
    how = PromptFormat(template=OWN, tool_format=name)
    talk = (Message("system", "S"), ASKED[0], replace(CALLED, content="So:"), *TALKS["tools"][2:])
    text, spans = Renderer(tokenizer, TOOLS, how).marked(talk)
    system, rest = text.removeprefix("[system]").split("[user]A", 1)
    assert system.startswith("S")
    assert listed in system
    assert rest.startswith("[assistant]So:")
    assert called in rest
    assert rest.endswith('</s>[tool]{"t": 20}[assistant]B</s>')
    assert [text[start:end] for start, end in spans] == [
        rest.split("[assistant]")[1].split("[tool]")[0],
        "B</s>",
    ]
    found = read_calls(text[slice(*spans[0])].removesuffix("</s>"), ["weather"])[1]
    assert [(call.name, json.loads(call.arguments)) for call in found] == [
        ("weather", {"city": "Rome", "days": 2})
    ]
    alone = PromptFormat(template=how.portable(OWN))
    assert Renderer(tokenizer, TOOLS, alone).text(talk, ask=False) == text


THEIR_TOOL_FORMATS = (
    *("default", "gemma4", "glm4", "glm4_moe", "lfm2", "ling", "llama3", "minimax1", "minimax2"),
    *("mistral", "qwen", "qwen3_5", "seed_oss"),
)
"""Every value that LLaMA-Factory's `tool_format` knows."""


@pytest.mark.parametrize("name", THEIR_TOOL_FORMATS)
def test_calls_in_every_way_of_llama_factory_are_read_again(tokenizer, name):
    text = written(tokenizer, "chatml", "tools", tool_format=name)
    assert "Tells the weather." in text.split("<|im_start|>user")[0]
    called = text.split("⟦")[1].split("⟧")[0].removesuffix("<|im_end|>")
    spoken, (call,) = read_calls(called, ["weather"])
    assert (spoken, call.name) == ("", "weather")
    assert json.loads(call.arguments) == {"city": "Rome", "days": 2}


def test_a_way_to_write_tools_keeps_what_else_a_template_does(tokenizer):
    assert written(tokenizer, "qwen", "one") == written(
        tokenizer, "qwen", "one", tool_format="glm4"
    )
    text = written(tokenizer, "qwen", "tools", tool_format="llama3")
    assert text.startswith(
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
        "\n\nGiven the following functions"
    )
    assert written(tokenizer, "qwen", "tools", tool_format="qwen") == written(
        tokenizer, "qwen", "tools"
    )
    for name in tool_formats.names():
        listed = written(tokenizer, "chatml", "tools", tool_format=name)
        assert listed.count("<|im_start|>system") == 1, name
        assert "weather" in listed.split("<|im_start|>user")[0], name


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
