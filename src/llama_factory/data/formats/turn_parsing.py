"""Turns of a row -> messages: roles, texts, thoughts, tool calls, and the order of speakers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llama_factory.core.errors import suggest
from llama_factory.core.types import TEXT, Message, ToolCall
from llama_factory.data import row_sentences as texts
from llama_factory.data.formats.layout import (
    ASSISTANT,
    FUNCTION,
    OPENAI,
    SHAREGPT,
    SYSTEM,
    TOOL,
    USER,
    Layout,
    TurnStyle,
)
from llama_factory.data.formats.row_values import (
    BadRowError,
    checked,
    is_missing,
    list_of,
    names_in,
    parse_json,
    text_of,
    type_name,
)

TURN_LIST = texts.TURNS()
CONTENT_FIELDS = ("content", "value", "text", "tool_calls", "function_call")


def has_turn_fields(value: Mapping[str, Any]) -> bool:
    """Whether an object has a known speaker and a field for what a turn holds."""
    speaker = value.get("role") or value.get("from")
    if not isinstance(speaker, str) or speaker not in {*OPENAI.roles, *SHAREGPT.roles}:
        return False
    return any(name in value for name in CONTENT_FIELDS)


@dataclass(frozen=True)
class ParsedTurn:
    """A turn, and its speaker as the row names it."""

    speaker: str
    message: Message


def parse_turns(listed: list[Any], style: TurnStyle) -> list[ParsedTurn]:
    """All turns of a list, a leading empty system turn left out.

    Raises:
        BadRowError: one is no turn; the message says which and why.
    """
    turns = []
    for number, turn in enumerate(listed, 1):
        try:
            turns.append(parse_turn(turn, style))
        except BadRowError as error:
            is_rule = str(error).startswith("must")
            found = texts.MESSAGE_MUST if is_rule else texts.IN_MESSAGE
            raise BadRowError(found(number=number, why=error)) from None
    if turns and turns[0].message.role == SYSTEM and not turns[0].message.content:
        del turns[0]
    return turns


def parse_turn(turn: Any, style: TurnStyle) -> ParsedTurn:
    """One turn.

    Raises:
        BadRowError: it is none.
    """
    if not isinstance(turn, dict):
        names = {"role": style.role_field, "content": style.content_field}
        raise BadRowError(texts.NOT_TURN(**names, what=type_name(turn)))
    speaker = turn.get(style.role_field)
    role = style.role_of(speaker)
    if role is None:
        raise BadRowError(_unknown_role(turn, style, speaker))
    if role == FUNCTION:
        return ParsedTurn(str(speaker), _function_call(turn, style))
    calls = _calls(turn) if role == ASSISTANT else ()
    is_required = role in (USER, ASSISTANT) and not calls
    content = _content(turn, style.content_field, is_required=is_required)
    if role == ASSISTANT:
        content = _with_thought(turn, content)
    return ParsedTurn(str(speaker), Message(role, content, _weight(turn, style), calls))


THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thought")
"""Fields in which people put what the assistant thought before its answer."""
THOUGHT_NAMES = frozenset(THOUGHTS)


def _with_thought(turn: Mapping[str, Any], content: str) -> str:
    """The content after the thought that its turn holds beside it, if any.

    A field of such a name that is no text (`"thinking": true`) is no thought.
    """
    if THOUGHT_NAMES.isdisjoint(turn):
        return content
    found = {n: text_of(turn, n) for n in THOUGHTS if _is_thought(turn, n)}
    if len(set(found.values())) > 1:
        raise BadRowError(texts.TWO_THOUGHTS(names=" and ".join(map(repr, found))))
    thought = next(iter(found.values()), "")
    if not thought or (content.startswith("<think>") and thought.strip() in content):
        return content
    if content.startswith("<think>"):
        raise BadRowError(texts.OTHER_THOUGHT(name=next(iter(found))))
    return _thought(thought) + content


def _is_thought(turn: Mapping[str, Any], name: str) -> bool:
    value = turn.get(name)
    return not is_missing(value) and (isinstance(value, str) or name == THOUGHTS[0])


def _thought(text: str) -> str:
    return f"<think>\n{text}\n</think>\n\n"


def _unknown_role(turn: Mapping[str, Any], style: TurnStyle, speaker: Any) -> str:
    if style.role_field not in turn:
        return texts.TURN_FIELD_MISSING(name=style.role_field, fields=names_in(turn))
    if not isinstance(speaker, str):
        return texts.NOT_TEXT(name=style.role_field, what=type_name(speaker))
    known = ", ".join(style.roles)
    hint = suggest(speaker, style.roles)
    return texts.UNKNOWN_ROLE(role=speaker, hint=hint, known=known)


def _content(turn: Mapping[str, Any], name: str, *, is_required: bool) -> str:
    value = turn.get(name)
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        turn = {name: "".join(_part(part) for part in value)}
    return text_of(turn, name, required=is_required)


def _part(part: Mapping[str, Any]) -> str:
    """A piece of a turn that OpenAI's API would take, or a thought as Anthropic's writes it."""
    kind = part.get("type")
    if kind == "text":
        return text_of(part, "text", required=False)
    if kind in ("thinking", "reasoning"):
        thought = text_of(part, "text" if kind not in part else str(kind), required=False)
        return _thought(thought) if thought else ""
    if kind == "image":
        return "<image>"
    raise BadRowError(texts.PART_KIND(kind=kind))


def _weight(turn: Mapping[str, Any], style: TurnStyle) -> float:
    weight, loss = (turn.get("weight"), turn.get("loss")) if style.has_weights else (None, None)
    if loss is not None and not isinstance(loss, bool):
        raise BadRowError(texts.NOT_LOSS(what=type_name(loss)))
    if weight is None:
        return 0.0 if loss is False else 1.0
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < 1e9:
        raise BadRowError(texts.NOT_TURN_WEIGHT())
    return 0.0 if loss is False else float(weight)


def _calls(turn: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    listed = turn.get("tool_calls")
    if not listed:
        return (_call(turn["function_call"]),) if turn.get("function_call") else ()
    if not isinstance(listed, list):
        raise BadRowError(texts.NOT_CALLS(what=type_name(listed)))
    return tuple(map(_call, listed))


def _function_call(turn: Mapping[str, Any], style: TurnStyle) -> Message:
    """ShareGPT's way: the content is the call, or a list of calls, as JSON; a thought may lead."""
    text = text_of(turn, style.content_field)
    has_thought = text.startswith("<think>")
    thought, mark, rest = text.rpartition("</think>") if has_thought else ("", "", text)
    calls = parse_json(rest)
    listed = calls if isinstance(calls, list) else [calls]
    if not listed or not all(isinstance(call, dict) for call in listed):
        raise BadRowError(texts.NOT_FUNCTION_CALL(value=_short(text)))
    return Message(ASSISTANT, thought + mark, _weight(turn, style), tuple(map(_call, listed)))


def _call(call: Any) -> ToolCall:
    value = call.get("function") or call if isinstance(call, dict) else call
    name = value.get("name") if isinstance(value, dict) else None
    if not name or not isinstance(name, str):
        raise BadRowError(texts.CALL_WITHOUT_NAME(value=_short(call)))
    return ToolCall(checked(name, "name"), _arguments(name, value.get("arguments")))


def _arguments(name: str, given: Any) -> str:
    """The arguments as JSON text; OpenAI writes them as text already."""
    value = parse_json(given) if isinstance(given, str) and given else given or {}
    if not isinstance(value, dict):
        raise BadRowError(texts.NOT_ARGUMENTS(name=name, value=_short(given)))
    if isinstance(given, str) and given:
        return checked(given, "arguments")
    return checked(json.dumps(value, ensure_ascii=False, default=str), "arguments")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return f"'{text[:60]}...'" if len(text) > 60 else f"'{text}'"


def without_foreign_nulls(listed: list[Any], tools: Any) -> list[Any]:
    """Turns whose calls lack the null arguments that the called tool does not have at all.

    Such nulls come from rows that went through Arrow and were then written as JSON.
    """
    if not isinstance(tools, list):
        return listed
    functions = [tool.get("function") or tool for tool in tools if isinstance(tool, dict)]
    known = {
        str(each.get("name")): _properties(each) for each in functions if isinstance(each, dict)
    }
    return [_with_own_arguments(turn, known) for turn in listed]


def _properties(function: Mapping[str, Any]) -> set[str]:
    parameters = function.get("parameters")
    found = parameters.get("properties") if isinstance(parameters, dict) else None
    listed = found.items() if isinstance(found, dict) else ()
    return {name for name, part in listed if part is not None}


def _with_own_arguments(turn: Any, known: Mapping[str, set[str]]) -> Any:
    calls = turn.get("tool_calls") if isinstance(turn, dict) else None
    if not isinstance(calls, list):
        return turn
    return turn | {"tool_calls": [_own_arguments(call, known) for call in calls]}


def _own_arguments(call: Any, known: Mapping[str, set[str]]) -> Any:
    value = call.get("function") or call if isinstance(call, dict) else None
    if not isinstance(value, dict):
        return call
    given, own = value.get("arguments"), known.get(str(value.get("name")))
    if not isinstance(given, dict) or own is None or None not in given.values():
        return call
    kept = {name: part for name, part in given.items() if part is not None or name in own}
    return {"name": value["name"], "arguments": kept}


def check_order(turns: list[ParsedTurn], style: TurnStyle, *, ends_with_answer: bool) -> None:
    """Require that users (or tool results) and the assistant take turns.

    Raises:
        BadRowError: somebody speaks out of turn, or the last turn is missing.
    """
    start = 1 if turns and turns[0].message.role == SYSTEM else 0
    is_answer_next, before = False, ""
    for number, turn in enumerate(turns[start:], start + 1):
        role = turn.message.role
        if style.has_many_results and role == before == TOOL:
            continue
        if not _may_speak(role, before, is_answer_next=is_answer_next):
            raise BadRowError(_out_of_turn(turn, number, before, style, is_answer_next))
        is_answer_next, before = not is_answer_next, role
    if ends_with_answer and before != ASSISTANT:
        raise BadRowError(texts.NO_LAST_ANSWER())
    if not ends_with_answer and before not in (USER, TOOL):
        raise BadRowError(texts.NO_LAST_QUESTION())


def _may_speak(role: str, before: str, *, is_answer_next: bool) -> bool:
    if is_answer_next:
        return role == ASSISTANT
    return role == USER or (role == TOOL and before == ASSISTANT)


def _out_of_turn(
    turn: ParsedTurn, number: int, before: str, style: TurnStyle, is_answer_next: bool
) -> str:
    if turn.message.role == SYSTEM:
        return texts.SYSTEM_LATE(number=number, speaker=turn.speaker)
    wanted = [ASSISTANT] if is_answer_next else [USER] + ([TOOL] if before else [])
    known = " or ".join(
        f"'{style.speaker_of(role)}'" for role in wanted if role in style.roles.values()
    )
    return texts.OUT_OF_TURN(number=number, speaker=turn.speaker, wanted=known)


def plain_text(text: str) -> tuple[Message, ...]:
    """The one turn of a row of plain text."""
    return (Message(TEXT, text),)


def turns_in(row: Mapping[str, Any], layout: Layout) -> list[Any]:
    """The turns of a row, as they are.

    Raises:
        BadRowError: it has none.
    """
    name = layout.columns.messages or "messages"
    if name not in row:
        fields = ", ".join(map(str, row))
        raise BadRowError(texts.FIELD_MISSING(name=name, fields=fields))
    listed = list_of(row, name, TURN_LIST)
    if not listed:
        raise BadRowError(texts.EMPTY_LIST(name=name, items=TURN_LIST))
    return listed
