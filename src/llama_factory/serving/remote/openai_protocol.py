"""Questions, options and answers in the words of OpenAI's protocol. Pure: no connection."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from llama_factory.inference.question import (
    Answer,
    AnswerPiece,
    Options,
    Prompt,
    Question,
    RequestError,
    TextPrompt,
    TokenLogprob,
)
from llama_factory.serving.errors import EngineDownError

CHAT, TEXT = "/chat/completions", "/completions"
UNKNOWN = (
    "top_k",
    "min_p",
    "repetition_penalty",
    "min_tokens",
    "stop_token_ids",
    "ignore_eos",
)
"""Options that OpenAI's protocol has no word for: servers would pass over them in silence."""
MAX_STOPS, MAX_PENALTY = 4, 2.0


def request(model: str, prompt: Prompt, options: Options) -> tuple[str, dict[str, Any]]:
    """The path and the body that ask a server.

    Raises:
        RequestError: the protocol has no word for something that is asked for.
    """
    _require_known(options)
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": options.max_tokens,
        "temperature": options.temperature,
        "top_p": options.top_p,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    given = {
        "seed": options.seed,
        "stop": list(options.stop) or None,
        "logit_bias": {str(token): value for token, value in options.logit_bias.items()} or None,
    }
    body |= {name: value for name, value in given.items() if value is not None}
    body |= _response_format(options)
    if isinstance(prompt, TextPrompt):
        text = prompt.text
        logprobs = {} if options.num_logprobs is None else {"logprobs": options.num_logprobs}
        return TEXT, body | {"prompt": text if isinstance(text, str) else list(text)} | logprobs
    return CHAT, body | {"messages": _messages(prompt)} | _chat_logprobs(options)


def _require_known(options: Options) -> None:
    usual: Any = Options(max_tokens=1)
    for name in UNKNOWN:
        if getattr(options, name) != getattr(usual, name):
            raise _unknown(name)
    if len(options.stop) > MAX_STOPS:
        raise RequestError(f"stop: at most {MAX_STOPS} strings; there are {len(options.stop)}.")
    for name in ("presence_penalty", "frequency_penalty"):
        if abs(getattr(options, name)) > MAX_PENALTY:
            raise RequestError(f"{name}: must be a number from -2 to 2.", param=name)


def _unknown(name: str) -> RequestError:
    return RequestError(
        f"{name}: this server's engine is another server, asked in OpenAI's protocol, which has no "
        "word for it. Leave it out.",
        param=name,
    )


def _response_format(options: Options) -> dict[str, Any]:
    constraint = options.constraint
    if constraint is None:
        return {}
    if constraint.kind == "json":
        return {"response_format": {"type": "json_object"}}
    if constraint.kind != "json_schema":
        raise _unknown("structured_outputs")
    schema = {"name": "answer", "schema": json.loads(constraint.text), "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _messages(question: Question) -> list[dict[str, Any]]:
    """The turns as they are.

    Raises:
        RequestError: tools are to be called, or a thought is to be switched.
    """
    if question.tools:
        raise _unknown("tools")
    if question.enable_thinking is not None:
        raise _unknown("enable_thinking")
    if any(turn.tool_calls or turn.role == "tool" for turn in question.messages):
        raise _unknown("messages.tool_calls")
    return [{"role": turn.role, "content": turn.content} for turn in question.messages]


def _chat_logprobs(options: Options) -> dict[str, Any]:
    if options.num_logprobs is None:
        return {}
    return {"logprobs": True, "top_logprobs": options.num_logprobs}


class OpenaiReader:
    """Events of a streamed answer -> pieces of text, then the whole answer."""

    def __init__(self) -> None:
        """Nothing came yet."""
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._reason: Literal["stop", "length"] | None = None
        self._usage: Mapping[str, Any] = {}

    def take(self, event: Mapping[str, Any]) -> Iterator[AnswerPiece]:
        """The piece of one event, if it brings any."""
        self._usage = event.get("usage") or self._usage
        for choice in event.get("choices") or ():
            if reason := choice.get("finish_reason"):
                self._reason = "length" if reason == "length" else "stop"
            text = str((choice.get("delta") or choice).get("content") or choice.get("text") or "")
            listed = tuple(_logprobs(choice.get("logprobs") or {}))
            self._texts.append(text)
            self._logprobs += listed
            if text or listed:
                yield AnswerPiece(text, listed)

    def answer(self) -> Answer:
        """The whole of it.

        Raises:
            EngineDownError: the end has not come.
        """
        if self._reason is None:
            raise EngineDownError("the engine ended an answer before it was whole. Ask again.")
        details = self._usage.get("prompt_tokens_details") or {}
        return Answer(
            text="".join(self._texts),
            prompt_tokens=int(self._usage.get("prompt_tokens") or 0),
            completion_tokens=int(self._usage.get("completion_tokens") or 0),
            finish_reason=self._reason,
            reused_tokens=int(details.get("cached_tokens") or 0),
            logprobs=tuple(self._logprobs),
        )


def _logprobs(given: Mapping[str, Any]) -> Iterator[TokenLogprob]:
    """Of chat (a list of objects), or of completions (lists beside each other)."""
    for each in given.get("content") or ():
        yield _logprob(each, tuple(_logprob(other) for other in each.get("top_logprobs") or ()))
    tokens, values = given.get("tokens") or (), given.get("token_logprobs") or ()
    tops = given.get("top_logprobs") or [None] * len(tokens)
    for token, value, top in zip(tokens, values, tops, strict=True):
        others = sorted((top or {}).items(), key=lambda pair: -pair[1])
        yield TokenLogprob(token, value, None, tuple(TokenLogprob(*pair) for pair in others))


def _logprob(each: Mapping[str, Any], alternatives: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
    data = each.get("bytes")
    shown = None if data is None else tuple(map(int, data))
    return TokenLogprob(str(each["token"]), float(each["logprob"]), shown, alternatives)
