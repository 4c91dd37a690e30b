"""OpenAI's request and response shapes for chat. No engine and no HTTP here.

A field that changes the answer and is dropped in silence gives a wrong answer that nobody notices:
what other servers know and this one does not is listed here, and refused.
"""

import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from llama_factory.core.errors import suggest
from llama_factory.inference.question import Answer, Options, Question, RequestError
from llama_factory.serving.request_turns import read_tools, read_turns

SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a character that takes two in UTF-16; JSON can spell it alone, no text may hold it."""

MAX_STOPS = 4
MAX_STOP_CHARACTERS = 1000


NEUTRAL: dict[str, tuple[Any, ...]] = {
    # OpenAI's
    "n": (1,),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "reasoning_effort": (),
    "verbosity": ("medium",),
    "parallel_tool_calls": (True,),
    # of vLLM, SGLang, llama.cpp and LLaMA-Factory
    "do_sample": (True,),
    "top_k": (0, -1),
    "min_p": (0,),
    "typical_p": (1,),
    "top_a": (0,),
    "repetition_penalty": (1,),
    "repeat_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "length_penalty": (1,),
    "early_stopping": (False,),
    "best_of": (1,),
    "num_beams": (1,),
    "use_beam_search": (False,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "stop_token_ids": ([],),
    "include_stop_str_in_output": (False,),
    "bad_words": ([],),
    "allowed_token_ids": ([],),
    "logits_processors": ([],),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "prompt_logprobs": (0,),
    "truncate_prompt_tokens": (),
    "echo": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "add_special_tokens": (False,),
    "chat_template": (),
    "documents": ([],),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "regex": (),
    "ebnf": (),
    "grammar": ("",),
    "json_schema": (),
}
"""Fields that change the answer and are not supported, with the values that change nothing. Null
changes nothing in any of them."""

IGNORED = frozenset(
    {
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prediction",
        "priority",
        "request_id",
        "cache_salt",
        "cache_prompt",
        "keep_alive",
        "guided_decoding_backend",
    }
)
"""Fields that say who asks, or how to compute the same answer faster."""


def require_known(extra: Mapping[str, Any], known: set[str]) -> None:
    """Refuse what would change the answer.

    Args:
        extra: the fields of a request that are no parameters of this server.
        known: the fields that are.

    Raises:
        RequestError: a field is not supported, or nobody knows it.
    """
    for name, value in extra.items():
        if value is None or name in IGNORED:
            continue
        if name not in NEUTRAL:
            nearest = suggest(name, [*known, *NEUTRAL, *IGNORED])
            raise RequestError(
                f"{name}: this server does not know the field.{nearest} Leave it out.", param=name
            )
        if not any(_is_same(value, neutral) for neutral in NEUTRAL[name]):
            raise RequestError(
                f"{name}: {_short(value)} is not supported by this server. Leave {name} out.",
                param=name,
            )


def _is_same(value: Any, neutral: Any) -> bool:
    """Equal, where true is not 1 nor 0 false."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _text(content: Any) -> Any:
    """Content as text: a string, or a list of parts of type `text`, joined as training does."""
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ValueError("must be a string or a list of parts")
    return "".join(map(_part_text, content))


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
    content: Annotated[str | None, BeforeValidator(_text)] = None


class StreamOptions(_Shape):
    """What a stream carries besides text."""

    include_usage: bool | None = None


class TemplateOptions(BaseModel):
    """What the chat template is given besides the turns."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    enable_thinking: bool | None = None


Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]


class ChatRequest(_Shape):
    """Body of `POST /v1/chat/completions`."""

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    stop: Annotated[
        Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None, BeforeValidator(_listed)
    ] = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    tools: list[Any] | None = None
    tool_choice: Any = None
    enable_thinking: bool | None = None
    chat_template_kwargs: TemplateOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _holds_whole_characters(cls, body: Any) -> Any:
        if place := _half_character(body):
            raise PydanticCustomError(
                "half_character",
                "{place}: holds half of a character; an emoji was cut in two. Remove it",
                {"place": place},
            )
        return body

    def question(self) -> Question:
        """What is asked.

        Raises:
            RequestError: a turn or a tool cannot be read, or a field is not supported.
        """
        require_known(self.model_extra or {}, set(type(self).model_fields))
        turns = [turn.model_dump(exclude_unset=True) for turn in self.messages]
        tools = read_tools(self.tools, self.tool_choice)
        return Question(read_turns(turns), tools, self._thinking())

    def options(self, max_tokens: int) -> Options:
        """How to answer; `max_tokens` counts where the request does not say."""
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

    def _thinking(self) -> bool | None:
        options = self.chat_template_kwargs or TemplateOptions()
        given = {self.enable_thinking, options.enable_thinking} - {None}
        if len(given) > 1:
            raise RequestError(
                "enable_thinking: chat_template_kwargs says the opposite. Leave one out.",
                param="enable_thinking",
            )
        return next(iter(given), None)


def _half_character(body: Any) -> str:
    """Where a value holds a surrogate, which no text may; empty where none does."""
    waiting: list[tuple[str, Any]] = [("", body)]
    while waiting:  # a loop: what is nested deeply must not exhaust the stack
        place, value = waiting.pop()
        if isinstance(value, str) and not value.isascii() and SURROGATE.search(value):
            return place or "the body"
        if isinstance(value, dict):
            waiting += [(f"a name in {place or 'the body'}", name) for name in value]
            waiting += [(_inside(place, name), each) for name, each in value.items()]
        elif isinstance(value, list):
            waiting += [(_inside(place, number), each) for number, each in enumerate(value)]
    return ""


def _inside(place: str, name: object) -> str:
    return f"{place}.{name}" if place else str(name)


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
