"""What an engine is asked, what it gives back, and what it refuses. No model and no HTTP here."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from llama_factory.core.errors import ServingError
from llama_factory.core.types import Message
from llama_factory.versions.version import ModelVersion


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
    """What is to be answered.

    Attributes:
        messages: the turns, oldest first.
        tools: JSON list of the tools the assistant may call, as text; empty for none.
        enable_thinking: whether to think first; None for what the version was taught with.
    """

    messages: tuple[Message, ...]
    tools: str = ""
    enable_thinking: bool | None = None


@dataclass(frozen=True)
class Options:
    """How to answer.

    Attributes:
        max_tokens: longest answer in tokens.
        temperature: 0 always takes the likeliest token; higher varies more.
        top_p: draw only from the likeliest tokens that make up this share of the probability.
        stop: the answer ends before the first of these strings; one string alone will do.
        seed: of the draws; the same seed gives the same answer. None draws afresh.

    Raises:
        RequestError: a value is out of its range.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        several = isinstance(self.stop, list | tuple)
        stop = tuple(self.stop) if several else () if self.stop is None else (self.stop,)
        object.__setattr__(self, "stop", stop)
        whole = isinstance(self.max_tokens, int) and not isinstance(self.max_tokens, bool)
        _require(
            "max_tokens", self.max_tokens, whole and self.max_tokens >= 1, "a whole number from 1"
        )
        is_range = _is_between(self.temperature, 0, sys.float_info.max)
        _require("temperature", self.temperature, is_range, "a number from 0")
        _require("top_p", self.top_p, _is_between(self.top_p, 0, 1), "a number from 0 to 1")
        are_texts = all(isinstance(each, str) and each for each in stop)
        _require("stop", self.stop, are_texts, "a text that is not empty, or several")


def _is_between(value: Any, least: float, most: float) -> bool:
    """Whether it is a number in a range, its ends included."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and least <= value <= most


def _require(name: str, value: Any, holds: bool, what: str) -> None:
    if not holds:
        raise RequestError(f"{name}: must be {what}; it is {value!r}.", param=name)


@dataclass(frozen=True)
class Answer:
    """A whole answer.

    Attributes:
        text: what the pieces add up to.
        prompt_tokens: tokens of the rendered conversation.
        completion_tokens: tokens generated, the end token included.
        finish_reason: `stop` at an end token or stop string, `length` where tokens ran out.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: Literal["stop", "length"]


class Engine(Protocol):
    """Whatever runs the model. Its methods block and are called on one thread.

    `load` may be called by the `should_stop` of an answer in progress, which goes on undisturbed.
    """

    @property
    def loaded(self) -> frozenset[str]:
        """Ids of the versions that can answer now; the base version always can. For any thread."""

    def load(self, version: ModelVersion) -> None:
        """Make a version ready to answer and prove that it does; one that is ready stays as it is.

        Raises:
            FactoryError: it cannot be read, or computes no answer. It leaves no trace.
        """

    def unload(self, version_id: str) -> None:
        """Free what a version holds."""

    def generate(
        self,
        version_id: str,
        question: Question,
        options: Options,
        on_text: Callable[[str], None],
        should_stop: Callable[[], bool],
    ) -> Answer:
        """Answer a conversation with a loaded version.

        Args:
            version_id: which version answers.
            question: the conversation, with what goes into its prompt.
            options: how to answer.
            on_text: called with each piece of text as soon as it is final.
            should_stop: called at every token; True ends the answer there.

        Raises:
            RequestError: the conversation is too long or does not fit the chat template.
        """
