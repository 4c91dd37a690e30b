"""Answers in the shapes of Anthropic's responses: whole, and as the events of a stream."""

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from llama_factory.inference.question import Answer, AnswerPiece
from llama_factory.serving.error_responses import body_of
from llama_factory.serving.protocol.tool_calls import CallDeltas, ToolUse, message_of
from llama_factory.serving.streaming import Wire

Value = dict[str, Any]


@dataclass
class MessageReply:
    """The response to one `MessagesRequest`; see `Reply`.

    Attributes:
        use: which tools may be called.
        id: of the response.
        model: the version that answers.
    """

    use: ToolUse = field(default_factory=ToolUse)
    id: str = field(default_factory=lambda: f"msg_{uuid.uuid4().hex}")
    model: str = ""
    _deltas: CallDeltas = field(init=False)
    _num_blocks: int = 0
    _is_text_open: bool = False

    def __post_init__(self) -> None:
        self._deltas = CallDeltas(self.use)

    def whole(self, version_id: str, answers: dict[int, Answer]) -> Value:
        """A `message` object."""
        self.model = version_id
        (answer,) = answers.values()
        turn = message_of(answer.text, self.use)
        calls = turn.get("tool_calls", [])
        content: list[Value] = []
        if turn["content"] or not calls:
            content.append({"type": "text", "text": turn["content"] or ""})
        for call in calls:
            function = call["function"]
            content.append(_use(call["id"], function["name"], _arguments(function["arguments"])))
        reason = _reason(answer, has_calls=bool(calls))
        return self._message(content, reason) | {"usage": _usage(answer)}

    def begin(self, version_id: str) -> Iterator[Value]:
        """The message without content; the tokens of the prompt are told at the end."""
        self.model = version_id
        message = self._message([], None) | {"usage": {"input_tokens": 0, "output_tokens": 0}}
        yield {"type": "message_start", "message": message}

    def chunks(self, _: int, event: AnswerPiece | Answer) -> Iterator[Value]:
        """Text and calls, or why the answer ended."""
        if not isinstance(event, Answer):
            yield from self._blocks(self._deltas.push(event.text))
            return
        yield from self._blocks(self._deltas.finish())
        yield from self._close_text()
        reason = _reason(event, has_calls=self._deltas.num_calls > 0)
        delta = {"stop_reason": reason, "stop_sequence": None}
        yield {"type": "message_delta", "delta": delta, "usage": _usage(event)}

    def end(self, _: dict[int, Answer]) -> Iterator[Value]:
        """The last event."""
        yield {"type": "message_stop"}

    def _blocks(self, deltas: Iterator[Value]) -> Iterator[Value]:
        for delta in deltas:
            if text := delta.get("content"):
                if not self._is_text_open:
                    self._is_text_open = True
                    yield from self._open({"type": "text", "text": ""})
                yield self._more({"type": "text_delta", "text": text})
                continue
            for call in delta.get("tool_calls", ()):
                yield from self._call(call)

    def _call(self, call: Value) -> Iterator[Value]:
        function = call["function"]
        if "name" in function:
            yield from self._close_text()
            yield from self._open(_use(call["id"], function["name"], {}))
            return
        yield self._more({"type": "input_json_delta", "partial_json": function["arguments"]})
        yield {"type": "content_block_stop", "index": self._num_blocks - 1}

    def _open(self, block: Value) -> Iterator[Value]:
        yield {"type": "content_block_start", "index": self._num_blocks, "content_block": block}
        self._num_blocks += 1

    def _more(self, delta: Value) -> Value:
        return {"type": "content_block_delta", "index": self._num_blocks - 1, "delta": delta}

    def _close_text(self) -> Iterator[Value]:
        if self._is_text_open:
            self._is_text_open = False
            yield {"type": "content_block_stop", "index": self._num_blocks - 1}

    def _message(self, content: list[Value], reason: str | None) -> Value:
        head = {"id": self.id, "type": "message", "role": "assistant", "model": self.model}
        return head | {"content": content, "stop_reason": reason, "stop_sequence": None}


def _use(call_id: str, name: str, arguments: Any) -> Value:
    return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}


def _arguments(text: str) -> Any:
    """What a model wrote as arguments; text that is no JSON object stays under a name."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        return {"text": text}
    return found if isinstance(found, dict) else {"value": found}


def _reason(answer: Answer, *, has_calls: bool) -> str:
    if answer.finish_reason == "length":
        return "max_tokens"
    return "tool_use" if has_calls else "end_turn"


def _usage(answer: Answer) -> Value:
    return {
        "input_tokens": answer.prompt_tokens - answer.reused_tokens,
        "output_tokens": answer.completion_tokens,
        "cache_read_input_tokens": answer.reused_tokens,
        "cache_creation_input_tokens": 0,
    }


def _written(value: Value) -> str:
    return f"event: {value['type']}\ndata: {json.dumps(value, ensure_ascii=False)}\n\n"


def _failed(error: Exception) -> str:
    return _written({"type": "error", **body_of(error)})


WIRE = Wire(_written, _failed, "")
"""A stream whose events have names."""
