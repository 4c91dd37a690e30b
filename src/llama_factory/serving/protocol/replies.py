"""Answers in the shapes of OpenAI's responses: whole, and as the chunks of a stream."""

import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

from llama_factory.inference.question import Answer, AnswerPiece, TokenLogprob
from llama_factory.serving.protocol.chat import ChatRequest
from llama_factory.serving.protocol.completions import CompletionRequest
from llama_factory.serving.protocol.tool_calls import CallDeltas, ToolUse, message_of


def usage(answers: Iterable[Answer], num_choices: int = 1) -> dict[str, Any]:
    """The token counts of a response.

    Args:
        answers: by number.
        num_choices: answers to each prompt, one after the other; a prompt's tokens count once.
    """
    listed = list(answers)
    prompts = listed[::num_choices]
    prompt_tokens = sum(each.prompt_tokens for each in prompts)
    completion_tokens = sum(each.completion_tokens for each in listed)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(each.reused_tokens for each in prompts)},
    }


@dataclass
class ChatReply:
    """The response to one `ChatRequest`; see `Reply`."""

    num_choices: int
    wants_logprobs: bool
    wants_usage: bool
    use: ToolUse = field(default_factory=ToolUse)
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    model: str = ""
    deltas: dict[int, CallDeltas] = field(default_factory=dict)

    @classmethod
    def to(cls, request: ChatRequest) -> Self:
        """The shape that answers a request."""
        use = request.tool_use()
        return cls(request.num_choices, bool(request.logprobs), request.wants_usage, use)

    def whole(self, version_id: str, answers: dict[int, Answer]) -> dict[str, Any]:
        """A `chat.completion` object."""
        self.model = version_id
        ordered = dict(sorted(answers.items()))
        choices = [self._choice(index, answer) for index, answer in ordered.items()]
        used = usage(ordered.values(), self.num_choices)
        return self._object("chat.completion", choices) | {"usage": used}

    def begin(self, version_id: str) -> Iterator[dict[str, Any]]:
        """Every answer begins with its role."""
        self.model = version_id
        for index in range(self.num_choices):
            yield self._chunk(index, {"role": "assistant", "content": ""})

    def chunks(self, index: int, event: AnswerPiece | Answer) -> Iterator[dict[str, Any]]:
        """Text and calls, or why an answer ended."""
        deltas = self.deltas.setdefault(index, CallDeltas(self.use))
        if isinstance(event, Answer):
            for delta in deltas.finish():
                yield self._chunk(index, delta)
            yield self._chunk(index, {}, _reason(event, has_calls=deltas.num_calls > 0))
            return
        logprobs = event.logprobs
        for delta in deltas.push(event.text):
            yield self._chunk(index, delta, logprobs=logprobs)
            logprobs = ()
        if logprobs:  # their text is held back
            yield self._chunk(index, {"content": ""}, logprobs=logprobs)

    def end(self, answers: dict[int, Answer]) -> Iterator[dict[str, Any]]:
        """The chunk without choices that carries the token counts, where it was asked for."""
        if self.wants_usage:
            used = usage([answers[index] for index in sorted(answers)], self.num_choices)
            yield self._object("chat.completion.chunk", []) | {"usage": used}

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        message = message_of(answer.text, self.use)
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(answer.logprobs),
            "finish_reason": _reason(answer, has_calls="tool_calls" in message),
        }

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        finish_reason: str | None = None,
        *,
        logprobs: tuple[TokenLogprob, ...] = (),
    ) -> dict[str, Any]:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": self._logprobs(logprobs) if logprobs else None,
            "finish_reason": finish_reason,
        }
        return self._object("chat.completion.chunk", [choice])

    def _logprobs(self, tokens: tuple[TokenLogprob, ...]) -> dict[str, Any] | None:
        if not self.wants_logprobs:
            return None
        content = [_token(each) | {"top_logprobs": _tokens(each)} for each in tokens]
        return {"content": content, "refusal": None}

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return head | {"choices": choices}


def _reason(answer: Answer, *, has_calls: bool) -> str:
    return "tool_calls" if has_calls and answer.finish_reason == "stop" else answer.finish_reason


def _tokens(token: TokenLogprob) -> list[dict[str, Any]]:
    return [_token(each) for each in token.alternatives]


def _token(token: TokenLogprob) -> dict[str, Any]:
    raw = token.text.encode() if token.bytes is None else token.bytes
    return {"token": token.text, "logprob": token.logprob, "bytes": list(raw)}


@dataclass
class CompletionReply:
    """The response to one `CompletionRequest`; see `Reply`."""

    num_choices: int
    wants_logprobs: bool
    wants_usage: bool
    id: str = field(default_factory=lambda: f"cmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    model: str = ""
    offsets: dict[int, int] = field(default_factory=dict)

    @classmethod
    def to(cls, request: CompletionRequest) -> Self:
        """The shape that answers a request."""
        return cls(request.num_choices, request.logprobs is not None, request.wants_usage)

    def whole(self, version_id: str, answers: dict[int, Answer]) -> dict[str, Any]:
        """A `text_completion` object."""
        self.model = version_id
        ordered = dict(sorted(answers.items()))
        choices = [
            self._choice(index, answer.text, answer.finish_reason, answer.logprobs)
            for index, answer in ordered.items()
        ]
        return self._object(choices) | {"usage": usage(ordered.values(), self.num_choices)}

    def begin(self, version_id: str) -> Iterator[dict[str, Any]]:
        """Nothing comes before the text."""
        self.model = version_id
        yield from ()

    def chunks(self, index: int, event: AnswerPiece | Answer) -> Iterator[dict[str, Any]]:
        """A piece of text, or why an answer ended."""
        if isinstance(event, Answer):
            yield self._object([self._choice(index, "", event.finish_reason, ())])
        else:
            yield self._object([self._choice(index, event.text, None, event.logprobs)])

    def end(self, answers: dict[int, Answer]) -> Iterator[dict[str, Any]]:
        """The chunk without choices that carries the token counts, where it was asked for."""
        if self.wants_usage:
            used = usage([answers[index] for index in sorted(answers)], self.num_choices)
            yield self._object([]) | {"usage": used}

    def _choice(
        self, index: int, text: str, reason: str | None, logprobs: tuple[TokenLogprob, ...]
    ) -> dict[str, Any]:
        shown = self._logprobs(index, logprobs) if self.wants_logprobs else None
        return {"index": index, "text": text, "logprobs": shown, "finish_reason": reason}

    def _logprobs(self, index: int, tokens: tuple[TokenLogprob, ...]) -> dict[str, Any]:
        offsets = []
        for token in tokens:
            offsets.append(self.offsets.get(index, 0))
            self.offsets[index] = offsets[-1] + len(token.text)
        return {
            "tokens": [each.text for each in tokens],
            "token_logprobs": [each.logprob for each in tokens],
            "top_logprobs": [{a.text: a.logprob for a in each.alternatives} for each in tokens],
            "text_offset": offsets,
        }

    def _object(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        head = {"id": self.id, "object": "text_completion", "created": self.created}
        return head | {"model": self.model, "choices": choices}
