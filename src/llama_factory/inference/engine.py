"""What runs a model for the server and the chat: one answer at a time."""

from collections.abc import Callable
from typing import Protocol

from llama_factory.inference.question import Answer, Options, Question
from llama_factory.versions.version import ModelVersion


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
