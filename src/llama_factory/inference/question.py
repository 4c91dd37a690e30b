"""Questions and answers as text: what is asked, how to answer, what is refused. No model here."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from llama_factory.core.errors import ServingError
from llama_factory.core.types import Message
from llama_factory.inference.request import Constraint, Sampling


class RequestError(ServingError):
    """The request itself cannot be answered; sending it again changes nothing."""

    status: ClassVar[int] = 400
    type: ClassVar[str] = "invalid_request_error"
    param: ClassVar[str | None] = None
    code: ClassVar[str | None] = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        """Say why; `param` names the field that is wrong."""
        super().__init__(message)
        self.place = param or self.param


class PromptTooLongError(RequestError):
    """The conversation leaves no room for an answer."""

    param = "messages"
    code = "context_length_exceeded"


@dataclass(frozen=True)
class Question:
    """A conversation that is to be answered; the version's chat template makes it a prompt.

    Attributes:
        messages: the turns, oldest first.
        tools: JSON list of the tools the assistant may call, as text; empty for none.
        enable_thinking: whether to think first; None for what the version was taught with.
    """

    messages: tuple[Message, ...]
    tools: str = ""
    enable_thinking: bool | None = None


@dataclass(frozen=True)
class TextPrompt:
    """A text that is to be continued as it is, without a chat template.

    Attributes:
        text: the text, or its token ids.
    """

    text: str | tuple[int, ...]


Prompt = Question | TextPrompt


@dataclass(frozen=True)
class Options:
    """How to answer.

    Attributes:
        max_tokens: longest answer in tokens.
        temperature: 0 always takes the likeliest token; higher varies more.
        top_p: draw only from the likeliest tokens that make up this share of the probability.
        stop: the answer ends before the first of these strings; one string alone will do.
        seed: of the draws; the same seed gives the same answer. None draws afresh.
        top_k: draw only from so many of the likeliest tokens; 0 for all.
        min_p: draw only from tokens at least this fraction as likely as the likeliest.
        repetition_penalty: above 1 makes tokens of prompt and answer less likely.
        presence_penalty: above 0 makes tokens less likely that the answer holds.
        frequency_penalty: the same, as often as it holds them.
        logit_bias: added to the logits of these token ids.
        min_tokens: no end before so many tokens.
        stop_token_ids: token ids that end the answer beside the model's own.
        ignore_eos: whether the model's own end tokens end nothing.
        constraint: what the answer must match.
        num_logprobs: how many of the likeliest tokens are reported beside each token; 0 for the
            token alone, None for no log-probabilities.

    Raises:
        RequestError: a value is out of its range.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    constraint: Constraint | None = None
    num_logprobs: int | None = None

    def __post_init__(self) -> None:
        several = isinstance(self.stop, list | tuple)
        stop = tuple(self.stop) if several else () if self.stop is None else (self.stop,)
        object.__setattr__(self, "stop", stop)
        _require("max_tokens", self.max_tokens, _is_whole(self.max_tokens, 1), WHOLE.format(1))
        _require("min_tokens", self.min_tokens, _is_whole(self.min_tokens, 0), WHOLE.format(0))
        _require("top_k", self.top_k, _is_whole(self.top_k, 0), WHOLE.format(0))
        for name, least, most, what in _RANGES:
            value = getattr(self, name)
            _require(name, value, _is_between(value, least, most), what)
        are_texts = all(isinstance(each, str) and each for each in stop)
        _require("stop", self.stop, are_texts, "a text that is not empty, or several")

    @property
    def sampling(self) -> Sampling:
        """How the engine chooses tokens."""
        return Sampling(
            self.temperature,
            self.top_p,
            self.top_k,
            self.min_p,
            self.repetition_penalty,
            self.presence_penalty,
            self.frequency_penalty,
            self.logit_bias,
            self.seed,
        )


WHOLE = "a whole number from {}"
_RANGES: tuple[tuple[str, float, float, str], ...] = (
    ("temperature", 0, sys.float_info.max, "a number from 0"),
    ("top_p", 0, 1, "a number from 0 to 1"),
    ("min_p", 0, 1, "a number from 0 to 1"),
    ("repetition_penalty", sys.float_info.min, sys.float_info.max, "a number above 0"),
    ("presence_penalty", -sys.float_info.max, sys.float_info.max, "a number"),
    ("frequency_penalty", -sys.float_info.max, sys.float_info.max, "a number"),
)


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_between(value: Any, least: float, most: float) -> bool:
    """Whether it is a number in a range, its ends included."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and least <= value <= most


def _require(name: str, value: Any, holds: bool, what: str) -> None:
    if not holds:
        raise RequestError(f"{name}: must be {what}; it is {value!r}.", param=name)


@dataclass(frozen=True)
class TokenLogprob:
    """The log-probability of one token of an answer, and of the likeliest in its place.

    Attributes:
        text: the token alone, as text; half a character is a replacement character.
        logprob: in nats, under the model's own distribution.
        bytes: of the token in UTF-8, as far as they are known.
        alternatives: the likeliest tokens, the likeliest first, without alternatives themselves.
    """

    text: str
    logprob: float
    bytes: tuple[int, ...] | None = None
    alternatives: tuple["TokenLogprob", ...] = ()


@dataclass(frozen=True)
class AnswerPiece:
    """Text of an answer that is final, with the log-probabilities of tokens since the last piece.

    The text may be empty where only log-probabilities are due.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Answer:
    """A whole answer.

    Attributes:
        text: what the pieces add up to.
        prompt_tokens: tokens of the rendered conversation.
        completion_tokens: tokens generated, the end token included.
        finish_reason: `stop` at an end token or stop string, `length` where tokens ran out.
        reused_tokens: prompt tokens that were not read again.
        logprobs: of every token whose text counts, where they were asked for.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: Literal["stop", "length"]
    reused_tokens: int = field(default=0, compare=False)
    logprobs: tuple[TokenLogprob, ...] = ()
