import pytest
from jinja2 import TemplateError

from llama_factory.core.types import Message, ToolCall
from llama_factory.model.chat.template import Renderer
from tests.tiny import CHAT_TEMPLATE, END, START, make_tokenizer, render

ASK = Message("user", "q")
CALL = Message("assistant", "", tool_calls=(ToolCall("f", '{"x": 1}'), ToolCall("g", "no json")))
RESULTS = (Message("tool", "one"), Message("tool", "two"))
TOOLS = '[{"name": "f", "description": "d", "parameters": {}}]'


@pytest.fixture
def tokenizer():
    return make_tokenizer()


def with_template(tokenizer, template):
    tokenizer.chat_template = template
    return tokenizer


def test_tokens_are_those_of_apply_chat_template(tokenizer):
    turns = [{"role": "user", "content": "你好"}]
    for ask in (True, False):
        expected = tokenizer.apply_chat_template(turns, add_generation_prompt=ask)["input_ids"]
        assert render(tokenizer, [Message("user", "你好")], ask=ask) == expected


def test_templates_with_calls_get_them_as_openai_writes_them(tokenizer):
    tokenizer = with_template(
        tokenizer,
        "{% for t in tools or [] %}{{ t.function.name }};{% endfor %}"
        "{% for m in messages %}{{ m.role }}:{{ m.content }}"
        "{% for c in m.tool_calls %}<{{ c.id }} {{ c.function.name }}"
        " {{ c.function.arguments | tojson }}>{% endfor %}"
        "{% if m.tool_call_id %}({{ m.name }} {{ m.tool_call_id }}){% endif %} {% endfor %}",
    )
    text = Renderer(tokenizer, TOOLS).text([ASK, CALL, *RESULTS], ask=False)
    assert text == (
        'f;user:q assistant:<call00001 f {"x": 1}><call00002 g "no json"> '
        "tool:one(f call00001) tool:two(g call00002) "
    )


def test_nothing_is_lost_where_a_template_shows_user_and_assistant_only(tokenizer):
    tokenizer = with_template(
        tokenizer,
        "{% for m in messages %}{% if m.role in ('user', 'assistant') %}[{{ m.role }}]"
        "{{ m.content }}{% endif %}{% endfor %}",
    )
    turns = [Message("system", "Be kind."), ASK, CALL, *RESULTS]
    assert Renderer(tokenizer, TOOLS).text(turns, ask=False) == (
        f"[user]Tools you may call, as JSON:\n{TOOLS}\n\nBe kind.\n\nq"
        '[assistant]{"name": "f", "arguments": {"x": 1}}\n{"name": "g", "arguments": "no json"}'
        "[user]one[user]two"
    )


def test_calls_that_are_hidden_beside_text_only_are_written_there_only(tokenizer):
    tokenizer = with_template(
        tokenizer,
        "{% for m in messages %}{{ m.content or m.tool_calls | tojson }}|{% endfor %}",
    )
    habits = Renderer(tokenizer).habits
    assert (habits.shows_calls, habits.shows_calls_beside_text) == (True, False)
    said = Message("assistant", "Wait.", tool_calls=(ToolCall("f", "{}"),))
    text = Renderer(tokenizer).text([ASK, said], ask=False)
    assert text == 'q|Wait.\n{"name": "f", "arguments": {}}|'


def test_a_refusal_of_the_template_keeps_its_words(tokenizer):
    tokenizer = with_template(tokenizer, "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(TemplateError, match="roles must alternate"):
        render(tokenizer, [ASK], ask=True)


def test_habits_follow_the_template_and_not_the_tokenizer(tokenizer):
    assert Renderer(tokenizer).habits.end == END
    other = with_template(tokenizer, CHAT_TEMPLATE.replace(END, START))
    assert Renderer(other).habits.end == START
