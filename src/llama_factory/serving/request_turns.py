"""The turns and tools of a request, read as training reads those of a row."""

import itertools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from llama_factory.core.types import Message
from llama_factory.data.formats.layout import OPENAI
from llama_factory.data.formats.row_values import BadRowError, tools_of, type_name
from llama_factory.data.formats.turn_parsing import THOUGHTS, parse_turn
from llama_factory.inference.question import RequestError

MAX_TOOL_CHARACTERS = 65_536
"""Of one tool as JSON."""

ROLES = {"developer": "system"}
"""Roles under another name than chat templates know."""

CALLS = ("tool_calls", "function_call")
READ = {"role", "content", *CALLS, "tool_call_id", *THOUGHTS}

IGNORED_IN_TURNS = frozenset(
    {"name", "refusal", "annotations", "cache_control", "id", "weight", "provider_specific_fields"}
)
"""Fields of a turn that no chat template is given. `name` of a tool's turn is checked."""


def read_turns(turns: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """The conversation, each tool's result in the place of the call that it answers.

    Raises:
        RequestError: a turn cannot be read; the message names its place.
    """
    messages = [_read(turn, f"messages.{number}") for number, turn in enumerate(turns)]
    return tuple(_in_order_of_calls(turns, messages))


MAX_NAME = 128


def read_tools(tools: Any) -> str:
    """The tools for the prompt, as JSON text; empty for none.

    Raises:
        RequestError: they are no list of tools.
    """
    for number, tool in enumerate(tools or ()):
        value = tool.get("function") if isinstance(tool, dict) and "function" in tool else tool
        name = value.get("name") if isinstance(value, dict) else None
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
            raise RequestError(
                f"tools.{number}: must be an object with a function that has a name of up to "
                f"{MAX_NAME} characters.",
                param=f"tools.{number}",
            )
        if (num_characters := len(json.dumps(tool))) > MAX_TOOL_CHARACTERS:
            raise RequestError(
                f"tools.{number}: has {num_characters} characters as JSON; this server reads up to "
                f"{MAX_TOOL_CHARACTERS}. Shorten its description or schema.",
                param=f"tools.{number}",
            )
    try:
        return tools_of({"tools": tools}, "tools")
    except BadRowError as error:
        raise RequestError(f"tools: {error}", param="tools") from error


def _read(turn: Mapping[str, Any], place: str) -> Message:
    _require_known(turn, place)
    if turn["role"] != "assistant":
        return _read_plain(turn, place)
    content = turn.get("content") or ""
    if not any(map(turn.get, (*CALLS, *THOUGHTS))):
        return Message("assistant", content)
    try:
        return parse_turn({**turn, "content": content, "weight": None}, OPENAI).message
    except BadRowError as error:
        raise RequestError(f"{place}: {error}", param=place) from error


def _read_plain(turn: Mapping[str, Any], place: str) -> Message:
    """A turn that is not the assistant's: text alone."""
    role, content = turn["role"], turn.get("content")
    if any(map(turn.get, CALLS)):
        raise RequestError(
            f"{place}: tool_calls belong in a turn of the assistant, this is one of '{role}'.",
            param=f"{place}.tool_calls",
        )
    if content is None:
        raise RequestError(f"{place}.content: must be text, it is null.", param=f"{place}.content")
    return Message(ROLES.get(role, role), content)


def _require_known(turn: Mapping[str, Any], place: str) -> None:
    unknown = (name for name in turn if name not in READ | IGNORED_IN_TURNS)
    for name in unknown:
        if turn[name] not in (None, "", [], {}):
            raise RequestError(
                f"{place}.{name}: this server does not read {type_name(turn[name])} under this "
                "name. Leave it out.",
                param=f"{place}.{name}",
            )


def _in_order_of_calls(
    turns: Sequence[Mapping[str, Any]], messages: Sequence[Message]
) -> Iterator[Message]:
    """The messages, with the results of a turn's calls in the order of those calls.

    Templates pair results and calls by their order, and clients by `tool_call_id`.
    """
    number = 0
    while number < len(turns):
        yield messages[number]
        after = range(number + 1, len(turns))
        results = list(itertools.takewhile(lambda n: turns[n]["role"] == "tool", after))
        places = _places(turns[number], {n: turns[n] for n in results})
        for result, place in places.items():
            _require_name(turns[result], messages[number], place, f"messages.{result}")
        yield from (messages[n] for n in sorted(results, key=lambda n: places[n]))
        number += 1 + len(results)


def _places(turn: Mapping[str, Any], results: Mapping[int, Mapping[str, Any]]) -> dict[int, int]:
    """By number of a result's turn, the place of the call that it answers."""
    given = {number: result.get("tool_call_id") for number, result in results.items()}
    if all(each is None for each in given.values()):
        return {number: place for place, number in enumerate(results)}
    ids = [call.get("id") for call in turn.get("tool_calls") or ()]
    places: dict[int, int] = {}
    for number, wanted in given.items():
        where = f"messages.{number}.tool_call_id"
        places[number] = _place_of(wanted, ids, places.values(), where)
    missing = min({*range(len(ids))} - {*places.values()}, default=len(ids))
    if missing < max(places.values()):
        raise RequestError(
            f"messages.{min(results)}: the call {ids[missing]!r} has no result, and a later one of "
            "its turn has.",
            param=f"messages.{min(results)}",
        )
    return places


def _place_of(wanted: str | None, ids: Sequence[str], taken: Collection[int], where: str) -> int:
    """The place of the call of this id, which no result before has taken."""
    if wanted is not None and wanted in ids and ids.index(wanted) not in taken:
        return ids.index(wanted)
    waiting = [each for place, each in enumerate(ids) if place not in taken]
    raise RequestError(
        f"{where}: {wanted!r} is no call that waits for a result; there are {waiting}.",
        param=where,
    )


def _require_name(turn: Mapping[str, Any], caller: Message, place: int, where: str) -> None:
    name = turn.get("name")
    called = caller.tool_calls[place].name if place < len(caller.tool_calls) else name
    if name not in (None, "", called):
        raise RequestError(
            f"{where}.name: {name!r} is not the function that was called, {called!r}.",
            param=f"{where}.name",
        )
