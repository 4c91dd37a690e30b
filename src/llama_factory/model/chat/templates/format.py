"""A chat format as data -> the Jinja template that writes it. Loads no heavy library.

A template marks the assistant's tokens ({% generation %}) and stands alone: it is what is saved
with a trained model.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

WORDS = {
    "bos": "bos_token",
    "eos": "eos_token",
    "content": "message.content",
    "json": "message.content | tojson",
    "tool": "tool | tojson",
    "function": "tool.function | tojson",
    "tool_name": "tool.function.name",
    "declared": "declared(tool.function)",
    "tool_lines": "tool | tojson(indent=4)",
    "function_lines": "tool.function | tojson(indent=4)",
    "name": "call.function.name",
    "arguments": "arguments if arguments is string else arguments | tojson",
    "pairs": "pairs(arguments)",
    "id": "message.tool_call_id or call.id",
    "parameters": "parameters()",
    "key": "key",
    "value": "value if value is string else value | tojson",
    "quoted": '"\'" ~ value ~ "\'" if value is string else value | tojson',
}
"""Word in braces -> what stands for it in Jinja."""
BRACED = re.compile("{(" + "|".join(WORDS) + ")}")
GAP = "\n\n"
"""Between a system prompt and a list of tools that the family has elsewhere."""
QUIET = "enable_thinking is defined and enable_thinking is false"


@dataclass(frozen=True)
class ToolList:
    """How tools are listed.

    Attributes:
        before: the first one.
        each: one tool.
        between: two of them.
        after: the last one.
        gap: between the system prompt and the list.
        place: in the `system` turn, in the first question (`user`), or at the `start`.
        is_first: whether the list stands before the system prompt.
    """

    before: str = ""
    each: str = ""
    between: str = ""
    after: str = ""
    gap: str = ""
    place: str = "system"
    is_first: bool = False


@dataclass(frozen=True)
class ChatFormat:
    """How one family of models writes conversations; texts as families.yaml describes them.

    Attributes:
        user: a question.
        answer: what is asked with, what is taught, what follows it.
        tokens: pieces that should be single tokens, the one that ends an answer last.
        start: of the whole conversation.
        system: a system turn.
        system_in_user: the same where it begins the first question.
        default_system: the system prompt of conversations that have none.
        trims: whether spaces around the text of a turn are dropped.
        next: opens a question, and a tool's turn, where these tokens are what ends an answer.
        thought: opens and closes a thought.
        no_thought: stands in place of a thought; None: an empty one.
        tools: how they are listed; None where the family has no way.
        calls: before, one, between, after.
        call_gap: between an answer's text and its calls.
        parameter: one, and between two.
        result: before results in a row, one, after them; empty: as a question.
    """

    user: str
    answer: tuple[str, str, str]
    tokens: str
    start: str = ""
    system: str = ""
    system_in_user: str = ""
    default_system: str = ""
    trims: bool = False
    next: tuple[str, str] | None = None
    thought: tuple[str, str] | None = None
    no_thought: str | None = None
    tools: ToolList | None = None
    calls: tuple[str, str, str, str] | None = None
    call_gap: str = ""
    parameter: tuple[str, str] = ("", "")
    result: tuple[str, str, str] | None = None

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "ChatFormat":
        """A format from the fields of families.yaml."""
        assert set(values) <= {each.name for each in fields(cls)}, f"unknown: {set(values)}"
        tools = values.get("tools")
        listed = ToolList(**tools) if tools else None
        lists = {key: tuple(each) for key, each in values.items() if isinstance(each, list)}
        return cls(**dict(values) | lists | {"tools": listed})


def jinja(name: str, form: ChatFormat) -> str:
    """The template of a format, which names itself in messages."""
    asked, _, after = form.answer
    return "".join(
        [
            f"{{#- {name} -#}}\n",
            _head(form),
            _write(form.start),
            _beginning(form),
            "{%- for message in messages %}",
            _system(form),
            _question(form),
            _results(form),
            "{%- elif message.role == 'assistant' %}",
            _write(asked),
            _taught(form),
            _write(after),
            "{%- set talk.is_open = true %}" if form.next else "",
            '{%- else %}{{- raise_exception("role \'" ~ message.role ~ "\' is unknown to the ',
            f'{name} template") }}}}{{%- endif %}}\n{{%- endfor %}}',
            _if("add_generation_prompt", _write(asked) + _asked_quietly(form)),
            "\n",
        ]
    )


def default_system(text: str) -> str:
    """The beginning of a template that gives a system prompt to conversations without one."""
    turn = f"[{{'role': 'system', 'content': {_quoted(text)}}}]"
    given = f"{{%- set messages = {turn} + messages %}}"
    return f"{{%- if messages[0].role != 'system' %}}{given}{{%- endif %}}\n"


def tools_as(form: ChatFormat) -> str:
    """The beginning of a template that gets tools and calls as text, in the way of a format.

    The list goes behind the system prompt; calls become the text of their turn.
    """
    tools = form.tools or ToolList()
    opened = form.system.partition("{content}")[0]  # some lists open a system turn themselves
    listed = _listed(replace(tools, before=tools.before.removeprefix(opened)))
    first = "{'role': 'system', 'content': listed}"
    beside = (
        f"{{'role': 'system', 'content': message.content ~ {_quoted(tools.gap or GAP)} ~ listed}}"
    )
    return "".join(
        [
            f"{{%- set listed %}}{listed}{{%- endset %}}",
            "{%- set has_system = messages[0].role == 'system' %}",
            "{%- set plain = namespace(turns=[]) %}",
            _if("tools and not has_system", f"{{%- set plain.turns = [{first}] %}}"),
            "{%- for message in messages %}",
            "{%- set turn = namespace(own=message) %}",
            _if("loop.first and has_system and tools", f"{{%- set turn.own = {beside} %}}"),
            _if("message.tool_calls", _spelt_calls(form)),
            "{%- set plain.turns = plain.turns + [turn.own] %}{%- endfor %}",
            "{%- set messages = plain.turns %}{%- set tools = none %}\n",
        ]
    )


def _spelt_calls(form: ChatFormat) -> str:
    said = "{%- set said = message.content or '' %}"
    text = f"{{%- set text %}}{{{{- said }}}}{_called(form)}{{%- endset %}}"
    return f"{said}{text}{{%- set turn.own = {{'role': message.role, 'content': text}} %}}"


def _head(form: ChatFormat) -> str:
    lines = default_system(form.default_system) if form.default_system else ""
    lines += "{%- set has_system = messages[0].role == 'system' %}"
    return lines + "{%- set talk = namespace(before='', is_open=false) %}\n"


def _beginning(form: ChatFormat) -> str:
    """Tools, wherever they stand, and a system turn that holds them."""
    tools = form.tools
    if tools is None:
        return ""
    if tools.place == "start":
        return _if("tools", _listed(tools)) + "\n"
    if tools.place == "user":
        return _if("tools", f"{{%- set talk.before %}}{_listed(tools)}{{%- endset %}}") + "\n"
    opened, closed = form.system.split("{content}")
    content = "{{- " + _content(form, "messages[0].content") + " }}"
    gap = _write(tools.gap)
    own = _if("has_system", gap + content if tools.is_first else content + gap)
    parts = [_listed(tools), own] if tools.is_first else [own, _listed(tools)]
    return _if("tools", _write(opened) + "".join(parts) + _write(closed)) + "\n"


def _listed(tools: ToolList) -> str:
    each = _write(tools.each) + _between(tools.between)
    listed = f"{{%- for tool in tools or [] %}}{each}{{%- endfor %}}"
    return _write(tools.before) + listed + _write(tools.after)


def _system(form: ChatFormat) -> str:
    written = _write(form.system, form)
    if form.system_in_user:
        before = _expression(form.system_in_user, form)
        written = f"{{%- set talk.before = talk.before ~ {before} %}}"
    elif form.tools is not None and form.tools.place == "system":
        written = _if("not (tools and loop.first)", written)
    return f"{{%- if message.role == 'system' %}}{written}\n"


def _question(form: ChatFormat) -> str:
    roles = "message.role == 'user'" if form.result else "message.role in ('user', 'tool')"
    opened, content, rest = form.user.partition("{content}")
    head, opened = _without_opener(form, 0, opened)
    text = f"{{{{- talk.before ~ {_content(form, 'message.content')} }}}}" if content else ""
    written = head + _write(opened) + text + _write(rest) + "{%- set talk.before = '' %}"
    return f"{{%- elif {roles} %}}{written}{_closed(form)}\n"


def _results(form: ChatFormat) -> str:
    if form.result is None:
        return ""
    first, each, last = form.result
    head, first = _without_opener(form, 1, first) if first else ("", "")
    if not head and form.next:
        head, each = _without_opener(form, 1, each)
    if first or (head and form.result[0]):
        head = _if("loop.first or loop.previtem.role != 'tool'", head + _write(first))
    after = _if("loop.last or loop.nextitem.role != 'tool'", _write(last))
    written = head + _write(each) + (after if last else "")
    return f"{{%- elif message.role == 'tool' %}}{written}{_closed(form)}\n"


def _without_opener(form: ChatFormat, number: int, text: str) -> tuple[str, str]:
    """The opener of a turn, if the answer before has not written it, and the text without it."""
    if form.next is None:
        return "", text
    opener = form.next[number]
    return f"{{{{- '' if talk.is_open else {_quoted(opener)} }}}}", text.removeprefix(opener)


def _closed(form: ChatFormat) -> str:
    return "{%- set talk.is_open = false %}" if form.next else ""


def _taught(form: ChatFormat) -> str:
    """The assistant's own tokens, with what stands for a thought."""
    text, _, end = form.answer[1].partition("{content}")
    written = _write(text) + "{{- said }}" + _write(end)
    if form.calls is not None:
        spoken = _if("said or not message.tool_calls", _write(text) + "{{- said }}")
        written = spoken + _called(form) + _write(end)
    if form.next:
        user, tool = map(_quoted, form.next)
        written += f"{{{{- {tool} if message.tool_calls else {user} }}}}"
    said = f"{{%- set said = {_content(form, 'message.content')} %}}"
    if form.thought is None:
        return f"{said}{{%- generation %}}{written}{{%- endgeneration %}}"
    return said + _thought(form, written)


def _thought(form: ChatFormat, written: str) -> str:
    """An answer without a thought is taught to have none; where thinking is off it is asked so."""
    assert form.thought is not None
    closing = form.thought[1].strip()
    empty = _quoted(_empty_thought(form))
    spoken = f"said.split({_quoted(closing)})[-1].lstrip('\\n')"
    return (
        f"{{%- set is_quiet = {QUIET} %}}{{{{- {empty} if is_quiet }}}}{{%- generation %}}"
        f"{{{{- {empty} if not is_quiet and {_quoted(closing)} not in said }}}}"
        + _if("is_quiet", f"{{%- set said = {spoken} %}}")
        + written
        + "{%- endgeneration %}"
    )


def _empty_thought(form: ChatFormat) -> str:
    assert form.thought is not None
    return "".join(form.thought) if form.no_thought is None else form.no_thought


def _asked_quietly(form: ChatFormat) -> str:
    if form.thought is None:
        return ""
    return f"{{{{- {_quoted(_empty_thought(form))} if {QUIET} }}}}"


def _called(form: ChatFormat) -> str:
    assert form.calls is not None
    before, each, between, after = form.calls
    gap = _if("said", _write(form.call_gap)) if form.call_gap else ""
    one = "{%- set arguments = call.function.arguments %}" + _macro(form) + _write(each)
    loop = f"{{%- for call in message.tool_calls %}}{one}{_between(between)}{{%- endfor %}}"
    return _if("message.tool_calls", gap + _write(before) + loop + _write(after))


def _macro(form: ChatFormat) -> str:
    """What writes the parameters of a call."""
    each, between = form.parameter
    if not each:
        return ""
    one = _write(each) + _between(between)
    loop = f"{{%- for key, value in arguments.items() %}}{one}{{%- endfor %}}"
    named = f"{{%- if arguments is mapping %}}{loop}{{%- else %}}{{{{- arguments }}}}{{%- endif %}}"
    return f"{{%- macro parameters() %}}{named}{{%- endmacro %}}"


def _if(condition: str, written: str) -> str:
    return f"{{%- if {condition} %}}{written}{{%- endif %}}"


def _between(between: str) -> str:
    """What stands between two of a loop."""
    return _if("not loop.last", _write(between)) if between else ""


def _content(form: ChatFormat, name: str) -> str:
    return f"{name} | trim" if form.trims else name


def _write(text: str, form: ChatFormat | None = None) -> str:
    """A text with words in braces as a statement that writes it."""
    return f"{{{{- {_expression(text, form)} }}}}" if text else ""


def _expression(text: str, form: ChatFormat | None = None) -> str:
    trims = form is not None and form.trims
    parts: Sequence[str] = BRACED.split(text)
    found = []
    for number, part in enumerate(parts):
        if number % 2:
            word = f"{WORDS[part]} | trim" if trims and part == "content" else WORDS[part]
            found.append(f"({word})")
        elif part:
            found.append(_quoted(part))
    return " ~ ".join(found) or "''"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
