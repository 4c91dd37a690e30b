"""Tools in requests and replies: which may or must be called, and the calls in OpenAI's shapes."""

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llama_factory.core.types import ToolCall
from llama_factory.inference.question import RequestError
from llama_factory.inference.request import Constraint
from llama_factory.model.chat.tool_calls import CallReader, Spoken
from llama_factory.serving.protocol.values import short

CHOICES = ("none", "auto", "required")


@dataclass(frozen=True)
class ToolUse:
    """Which tools an answer may call.

    Attributes:
        names: of the tools; empty where none may be called.
        constraint: what the answer must match where a call is demanded.
        is_parallel: whether it may call several at once.
    """

    names: tuple[str, ...] = ()
    constraint: Constraint | None = None
    is_parallel: bool = True


def tool_use(tools: Sequence[Any] | None, choice: Any, is_parallel: bool | None) -> ToolUse:
    """What a request allows and demands of tools that were read already.

    Raises:
        RequestError: the choice cannot be read, or demands a tool that is not there.
    """
    functions = {each["name"]: each for each in map(_function, tools or ())}
    wanted = _wanted(choice)
    if wanted == "none" or (wanted == "auto" and not functions):
        return ToolUse()
    if wanted == "auto":
        return ToolUse(tuple(functions), None, is_parallel is not False)
    if wanted != "required" and wanted not in functions:
        known = ", ".join(functions) or "no tools"
        raise RequestError(
            f"tool_choice: there is no tool {short(wanted)}; there are: {known}.",
            param="tool_choice",
        )
    if not functions:
        raise RequestError(
            "tool_choice: a call is required and there are no tools.", param="tool_choice"
        )
    chosen = list(functions.values()) if wanted == "required" else [functions[wanted]]
    return ToolUse(tuple(functions), _demand(chosen), is_parallel=False)


def _function(tool: Any) -> dict[str, Any]:
    return dict(tool.get("function", tool))


def _wanted(choice: Any) -> str:
    """`none`, `auto`, `required`, or the name of the tool that must be called."""
    if choice is None:
        return "auto"
    if isinstance(choice, str) and choice in CHOICES:
        return choice
    if isinstance(choice, dict) and choice.get("type") == "function":
        name = _function(choice).get("name") if isinstance(choice.get("function"), dict) else None
        if isinstance(name, str):
            return name
    raise RequestError(
        f"tool_choice: must be one of {', '.join(CHOICES)}, or an object that names a function; "
        f"it is {short(choice)}.",
        param="tool_choice",
    )


def _demand(functions: Sequence[dict[str, Any]]) -> Constraint:
    """The answer must be one call, as a JSON object on a line of its own."""
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": each["name"]},
                "arguments": each.get("parameters") or {"type": "object"},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for each in functions
    ]
    schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
    return Constraint("json_schema", json.dumps(schema, ensure_ascii=False))


class CallDeltas:
    """One answer's text and calls, as a stream carries them."""

    def __init__(self, use: ToolUse) -> None:
        self._reader = CallReader(use.names) if use.names else None
        self._is_parallel = use.is_parallel
        self.num_calls = 0

    def push(self, text: str) -> Iterator[dict[str, Any]]:
        """The deltas that are sure once more text has come."""
        yield from self._deltas(self._reader.push(text) if self._reader else [Spoken(text)])

    def finish(self) -> Iterator[dict[str, Any]]:
        """The deltas of what was held back."""
        yield from self._deltas(self._reader.finish() if self._reader else [])

    def _deltas(self, pieces: Sequence[Spoken | ToolCall]) -> Iterator[dict[str, Any]]:
        for piece in pieces:
            if isinstance(piece, Spoken):
                if piece.text:
                    yield {"content": piece.text}
            elif self._is_parallel or not self.num_calls:
                head = {"index": self.num_calls, **_call(piece.name, "")}
                yield {"tool_calls": [head]}
                more = {"index": self.num_calls, "function": {"arguments": piece.arguments}}
                yield {"tool_calls": [more]}
                self.num_calls += 1


def message_of(text: str, use: ToolUse) -> dict[str, Any]:
    """A whole answer as a turn of the assistant."""
    deltas = CallDeltas(use)
    pieces = [*deltas.push(text), *deltas.finish()]
    spoken = "".join(each.get("content", "") for each in pieces)
    parts = [each["tool_calls"][0]["function"] for each in pieces if "tool_calls" in each]
    calls = [
        _call(head["name"], body["arguments"])
        for head, body in zip(parts[::2], parts[1::2], strict=True)
    ]
    turn = {"role": "assistant", "content": spoken, "refusal": None}
    return turn | {"content": spoken or None, "tool_calls": calls} if calls else turn


def _call(name: str, arguments: str) -> dict[str, Any]:
    head = {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function"}
    return head | {"function": {"name": name, "arguments": arguments}}
