"""OpenAI's request and response shapes for chat. No engine and no HTTP here."""

import time
import uuid
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from llama_factory.core.types import Message
from llama_factory.serving.generation import Answer, Options, Question
from llama_factory.serving.refusals import RequestError

ROLES = {"developer": "system"}
"""Roles under another name than chat templates know."""

NEUTRAL: dict[str, Any] = {
    "n": 1,
    "tools": [],
    "functions": [],
    "logprobs": False,
    "top_logprobs": 0,
    "logit_bias": {},
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "response_format": {"type": "text"},
}
"""Fields of OpenAI's that change the answer and are not supported, with the value that does not."""


def _text(content: Any) -> Any:
    """Content as text: a string, or a list of parts of type `text`."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise ValueError("must be a string or a list of parts")
    return "\n".join(_part_text(part) for part in content)


def _part_text(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text" or not isinstance(part.get("text"), str):
        raise ValueError(
            f'a part of type {kind!r} cannot be read: send {{"type": "text", "text": "..."}}'
        )
    return str(part["text"])


def _listed(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", frozen=True)


class ChatMessage(_Shape):
    """One turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str, BeforeValidator(_text)] = ""


class StreamOptions(_Shape):
    """What a stream carries besides text."""

    include_usage: bool | None = None


class ChatRequest(_Shape):
    """Body of `POST /v1/chat/completions`. Fields that it does not know are ignored."""

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    stop: Annotated[list[Annotated[str, Field(min_length=1)]] | None, BeforeValidator(_listed)] = (
        None
    )
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def question(self) -> Question:
        """What is asked."""
        turns = (Message(ROLES.get(turn.role, turn.role), turn.content) for turn in self.messages)
        return Question(tuple(turns))

    def options(self, max_tokens: int) -> Options:
        """How to answer; `max_tokens` counts where the request does not say.

        Raises:
            RequestError: a field asks for something that is not supported.
        """
        self._require_supported()
        return Options(
            max_tokens=self.max_completion_tokens or self.max_tokens or max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            stop=tuple(self.stop or ()),
            seed=self.seed,
        )

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def _require_supported(self) -> None:
        for name, value in (self.model_extra or {}).items():
            if value is not None and name in NEUTRAL and value != NEUTRAL[name]:
                raise RequestError(
                    f"{name}: {value!r} is not supported by this server. Leave {name} out."
                )


@dataclass(frozen=True)
class Reply:
    """What all parts of one response share.

    Attributes:
        model: the version that answers.
    """

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answer: Answer) -> dict[str, Any]:
        """A `chat.completion` object."""
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": None,
            "finish_reason": answer.finish_reason,
        }
        return self._object("chat.completion", [choice]) | {"usage": _usage(answer)}

    def chunk(self, delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
        """A `chat.completion.chunk` object."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._object("chat.completion.chunk", [choice])

    def usage_chunk(self, answer: Answer) -> dict[str, Any]:
        """The chunk without choices that carries the token counts."""
        return self._object("chat.completion.chunk", []) | {"usage": _usage(answer)}

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return head | {"choices": choices}


def _usage(answer: Answer) -> dict[str, int]:
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "total_tokens": answer.prompt_tokens + answer.completion_tokens,
    }
