"""Body of `POST /v1/messages`, as Anthropic's clients send it, read into a request for chat."""

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from llama_factory.inference.question import Question, RequestError
from llama_factory.serving.protocol.chat import MAX_MESSAGES, MAX_TOOLS, ChatRequest
from llama_factory.serving.protocol.fields import (
    MAX_STOPS,
    ModelName,
    RequestPart,
    Stop,
    WholeCharacters,
    require_known,
)
from llama_factory.serving.protocol.values import short

Blocks = str | list[dict[str, Any]]
CHOICES = {"auto": "auto", "any": "required", "none": "none"}
"""What `tool_choice` is called there and in chat; `tool` names one."""
THOUGHTS = ("thinking", "redacted_thinking")
"""Blocks of earlier answers that are not read again."""


class MessagesTurn(RequestPart):
    """One turn of the conversation."""

    role: Literal["user", "assistant"]
    content: Blocks


class MessagesTurns(WholeCharacters, RequestPart):
    """Body of `POST /v1/messages/count_tokens`: what is asked, not how."""

    model: ModelName
    messages: list[MessagesTurn] = Field(min_length=1, max_length=MAX_MESSAGES)
    system: Blocks | None = None
    tools: list[dict[str, Any]] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None

    def chat(self) -> ChatRequest:
        """The same as a request for chat.

        Raises:
            RequestError: a field is not supported, or a value cannot be read.
        """
        require_known(self.model_extra or {}, type(self).model_fields)
        try:
            return ChatRequest.model_validate(self._chat())
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(map(str, problem["loc"]))
            raise RequestError(f"{place}: {problem['msg']}.", param=place) from error

    def question(self) -> Question:
        """What is asked.

        Raises:
            RequestError: see `chat`.
        """
        return self.chat().question()

    def _chat(self) -> dict[str, Any]:
        return {"model": self.model, "messages": list(self._turns())} | self._tools()

    def _turns(self) -> Iterator[dict[str, Any]]:
        if self.system:
            yield {"role": "system", "content": _text(self.system, "system")}
        for number, turn in enumerate(self.messages):
            place = f"messages.{number}.content"
            if turn.role == "assistant":
                yield _answer(turn.content, place)
            else:
                yield from _asked(turn.content, place)

    def _tools(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.tools:
            found["tools"] = [_tool(tool, f"tools.{n}") for n, tool in enumerate(self.tools)]
        if self.thinking is not None:
            found["enable_thinking"] = self.thinking.get("type") != "disabled"
        if (choice := self.tool_choice) is None:
            return found
        kind = choice.get("type")
        if kind == "tool" and isinstance(choice.get("name"), str):
            found["tool_choice"] = {"type": "function", "function": {"name": choice["name"]}}
        elif kind in CHOICES:
            found["tool_choice"] = CHOICES[kind]
        else:
            raise RequestError(
                "tool_choice: must be an object whose type is auto, any, none, or tool with a "
                f"name; it is {short(choice)}.",
                param="tool_choice",
            )
        if choice.get("disable_parallel_tool_use"):
            found["parallel_tool_calls"] = False
        return found


class MessagesRequest(MessagesTurns):
    """Body of `POST /v1/messages`."""

    max_tokens: int = Field(ge=1)
    temperature: float | None = Field(None, ge=0, le=1)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0)
    stop_sequences: Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    metadata: dict[str, Any] | None = None

    def _chat(self) -> dict[str, Any]:
        who = (self.metadata or {}).get("user_id")
        how = {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "stop": self.stop_sequences or None,
            "user": who if isinstance(who, str) else None,
        }
        return super()._chat() | how


def _blocks(content: Blocks) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _text(content: Blocks, place: str) -> str:
    """Blocks of text, joined.

    Raises:
        RequestError: one is of another type.
    """
    return "".join(_of_text(block, f"{place}.{n}") for n, block in enumerate(_blocks(content)))


def _of_text(block: Mapping[str, Any], place: str) -> str:
    if block.get("type") != "text" or not isinstance(block.get("text"), str):
        raise RequestError(
            f"{place}: a block of type {short(block.get('type'))} cannot be read here: send "
            '{"type": "text", "text": "..."}.',
            param=place,
        )
    return str(block["text"])


def _asked(content: Blocks, place: str) -> Iterator[dict[str, Any]]:
    """A turn of the user: results of tools, each a turn of its own, then what is said."""
    spoken = []
    for number, block in enumerate(_blocks(content)):
        where = f"{place}.{number}"
        if block.get("type") == "tool_result":
            result = block.get("content") or ""
            if not isinstance(result, str | list):
                raise RequestError(f"{where}.content: must be text or blocks.", param=where)
            text = _text(result, f"{where}.content")
            yield {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": text}
        else:
            spoken.append(_of_text(block, where))
    if spoken:
        yield {"role": "user", "content": "".join(spoken)}


def _answer(content: Blocks, place: str) -> dict[str, Any]:
    """An earlier answer: its text and its calls."""
    spoken, calls = [], []
    for number, block in enumerate(_blocks(content)):
        if block.get("type") == "tool_use":
            arguments = json.dumps(block.get("input") or {}, ensure_ascii=False)
            function = {"name": block.get("name"), "arguments": arguments}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        elif block.get("type") not in THOUGHTS:
            spoken.append(_of_text(block, f"{place}.{number}"))
    turn: dict[str, Any] = {"role": "assistant", "content": "".join(spoken)}
    return turn | {"tool_calls": calls} if calls else turn


def _tool(tool: Mapping[str, Any], place: str) -> dict[str, Any]:
    """A tool as chat has it.

    Raises:
        RequestError: it is one that the provider runs itself.
    """
    if tool.get("type") not in (None, "custom"):
        raise RequestError(
            f"{place}: a tool of type {short(tool['type'])} would be run by the server, and this "
            "one runs none. Leave it out, or describe it by name and input_schema.",
            param=place,
        )
    schema = tool.get("input_schema") or {"type": "object"}
    function = {"name": tool.get("name"), "parameters": schema}
    if tool.get("description"):
        function["description"] = tool["description"]
    return {"type": "function", "function": function}
