"""A model that answers in this process, and conversations with it. Prints nothing."""

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from llama_factory.core.types import Message
from llama_factory.inference.question import Answer, Options, Question, RequestError
from llama_factory.inference.settings import InferenceSettings
from llama_factory.inference.version_engine import VersionEngine
from llama_factory.model.chat.prompt_format import USUAL, PromptFormat
from llama_factory.model.settings import ModelSettings
from llama_factory.serving.request_turns import read_turns
from llama_factory.versions.version import ModelVersion

Conversation = str | Sequence[Message | Mapping[str, Any]]
"""What a user says, or all turns: `[{"role": "user", "content": "..."}]`, as in OpenAI's API."""


@dataclass(frozen=True)
class ChatModel:
    """A model that is ready to answer; it remembers nothing between calls.

    Attributes:
        engine: runs the model; the version is loaded.
        version_id: the version that answers.
        options: how it answers unless a call says otherwise: the likeliest answer.
    """

    engine: VersionEngine
    version_id: str
    options: Options

    def chat(self, messages: Conversation, **options: Any) -> str:
        """The answer to a text or a conversation.

        Args:
            messages: what the user says, or all turns so far.
            **options: fields of `Options`, such as max_tokens, temperature, top_p, stop, seed.

        Raises:
            RequestError: the conversation is too long, or cannot be read; or an option is out of
                range.

        Example:
            >>> lf.load("my-bot").chat("How long is the warranty?", max_tokens=50)
        """
        return self.answer(messages, replace(self.options, **options)).text

    def stream(self, messages: Conversation, **options: Any) -> Iterator[str]:
        """The answer piece by piece, as soon as each is final; to leave the loop ends it.

        Args:
            messages: see `chat`.
            **options: see `chat`.

        Raises:
            RequestError: the conversation is too long, or cannot be read; or an option is out of
                range.
        """
        return self._pieces(messages, replace(self.options, **options))

    def _pieces(self, messages: Conversation, options: Options) -> Iterator[str]:
        pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        is_left = threading.Event()
        with ThreadPoolExecutor(1, "answering") as thread:
            done = thread.submit(self.answer, messages, options, pieces.put, is_left.is_set)
            done.add_done_callback(lambda _: pieces.put(None))
            try:
                yield from iter(pieces.get, None)
            finally:
                is_left.set()
            done.result()

    def answer(
        self,
        messages: Conversation,
        options: Options | None = None,
        on_text: Callable[[str], None] = lambda _: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Answer:
        """The answer with its number of tokens and why it ended; see `VersionEngine.answer`."""
        question = Question(_read(messages))
        return self.engine.answer(
            self.version_id, question, options or self.options, on_text, should_stop
        )

    def conversation(self) -> "ChatSession":
        """A conversation with this model that has not begun."""
        return ChatSession(self)


def writer_of(model: ChatModel) -> Callable[[Mapping[str, Any]], str]:
    """What answers requests of chat completions with their text, nothing where it was cut off."""

    def write(request: Mapping[str, Any]) -> str:
        options = {name: request[name] for name in ("max_tokens", "temperature", "seed")}
        answer = model.answer(request["messages"], replace(model.options, **options))
        return "" if answer.finish_reason == "length" else answer.text

    return write


@dataclass
class ChatSession:
    """A conversation: who answers, and the turns so far, oldest first."""

    model: ChatModel
    history: list[Message] = field(default_factory=list)

    def answer(self, text: str, on_text: Callable[[str], None] = lambda _: None) -> Answer:
        """Answer what the user says; an answer that fails or is interrupted is not remembered.

        Args:
            text: the user's turn.
            on_text: called with each piece of the answer as it comes.

        Raises:
            RequestError: the conversation has grown too long.
        """
        turns = [*self.history, Message("user", text)]
        answer = self.model.answer(turns, on_text=on_text)
        self.history = [*turns, Message("assistant", answer.text)]
        return answer

    def reset(self) -> None:
        """Begin a new conversation."""
        self.history = []


def open_model(
    settings: ModelSettings,
    version: ModelVersion,
    *,
    max_tokens: int,
    usual: PromptFormat = USUAL,
    inference: InferenceSettings | None = None,
) -> ChatModel:
    """Load a version that gives its likeliest answers.

    Args:
        settings: the base model.
        version: who answers.
        max_tokens: longest answer.
        usual: how it is asked where nothing was written down beside it.
        inference: number format and memory.

    Raises:
        FactoryError: the model or the version cannot be loaded.
    """
    engine = VersionEngine(settings, usual, inference)
    engine.load(version)
    return ChatModel(engine, version.id, Options(max_tokens=max_tokens, temperature=0.0))


def _read(messages: Conversation) -> tuple[Message, ...]:
    if isinstance(messages, str):
        return (Message("user", messages),)
    turns = [each for each in messages if not isinstance(each, Message)]
    if not turns:
        return tuple(each for each in messages if isinstance(each, Message))
    for number, turn in enumerate(messages):
        if not (isinstance(turn, Mapping) and isinstance(turn.get("role"), str)):
            raise RequestError(f"messages.{number}: must have a role and a content; it is {turn}.")
    return read_turns(turns)
