"""A conversation with a version in this process. Prints nothing: the command line does."""

from collections.abc import Callable
from dataclasses import dataclass, field

from llama_factory.core.types import Message
from llama_factory.inference.engine import Answer, Engine, Options, Question
from llama_factory.inference.engines.transformers import TransformersEngine
from llama_factory.model.chat.prompt_format import USUAL, PromptFormat
from llama_factory.model.settings import ModelSettings
from llama_factory.versions.version import ModelVersion


@dataclass
class ChatSession:
    """What was said so far, and who answers.

    Attributes:
        engine: runs the model; the version is loaded.
        version_id: the version that answers.
        options: how it answers.
        history: the turns, oldest first.
    """

    engine: Engine
    version_id: str
    options: Options
    history: list[Message] = field(default_factory=list)

    def answer(self, text: str, on_text: Callable[[str], None]) -> Answer:
        """Answer what the user says; an answer that fails or is interrupted is not remembered.

        Args:
            text: the user's turn.
            on_text: called with each piece of the answer as it comes.

        Raises:
            RequestError: the conversation has grown too long.
        """
        turns = [*self.history, Message("user", text)]
        question = Question(tuple(turns))
        answer = self.engine.generate(
            self.version_id, question, self.options, on_text, should_stop=lambda: False
        )
        self.history = [*turns, Message("assistant", answer.text)]
        return answer

    def reset(self) -> None:
        """Begin a new conversation."""
        self.history = []


def open_session(
    settings: ModelSettings,
    version: ModelVersion,
    *,
    max_tokens: int,
    usual: PromptFormat = USUAL,
) -> ChatSession:
    """Load a version to talk to; it gives its likeliest answers.

    Args:
        settings: the base model.
        version: who answers.
        max_tokens: longest answer.
        usual: how it is asked where nothing was written down beside it.

    Raises:
        FactoryError: the model or the version cannot be loaded.
    """
    engine = TransformersEngine(settings, usual)
    engine.load(version)
    return ChatSession(engine, version.id, Options(max_tokens=max_tokens, temperature=0.0))
