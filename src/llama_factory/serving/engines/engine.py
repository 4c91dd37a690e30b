"""What the server asks of whatever makes the tokens: this process, vLLM, or another server."""

from collections.abc import AsyncGenerator
from typing import Protocol

from llama_factory.inference.question import Answer, AnswerPiece, Options, Prompt
from llama_factory.versions.version import ModelVersion


class AnswerEngine(Protocol):
    """Answers with versions that were loaded. All methods are called on the event loop.

    It knows versions by their ids, which never change what they mean; aliases, keys, limits and
    canaries are the server's.
    """

    @property
    def loaded(self) -> frozenset[str]:
        """Ids of the versions that answer now; the base version always does."""

    @property
    def unavailable(self) -> str:
        """Why nothing can be answered at the moment, such as a restart; empty where it can."""

    async def load(self, version: ModelVersion) -> None:
        """Make a version ready and prove that its answers are its own; see `serving/proof.py`.

        Answers in progress go on meanwhile. A version that is ready stays as it is.

        Raises:
            FactoryError: it cannot be read, or its answers are not its own. It leaves no trace.
        """

    async def unload(self, version_id: str) -> None:
        """Free what a version holds. Nobody is being answered by it."""

    def answer(
        self, version_id: str, prompt: Prompt, options: Options
    ) -> AsyncGenerator[AnswerPiece | Answer, None]:
        """Pieces of text as soon as each is final, then the whole answer; closing it cancels.

        Raises:
            RequestError: the prompt is too long or does not fit the chat template.
            EngineDownError: the engine is not there; another try may succeed.
        """

    async def tokens(self, version_id: str, prompt: Prompt) -> tuple[int, ...]:
        """The token ids that a version would be asked with.

        Raises:
            RequestError: the prompt does not fit the chat template.
        """

    async def text(self, ids: tuple[int, ...]) -> str:
        """The text of token ids."""

    async def embed(self, version_id: str, prompt: Prompt) -> tuple[float, ...]:
        """The mean of the prompt's last hidden states, scaled to length 1.

        Raises:
            RequestError: this engine gives no embeddings.
        """

    async def score(self, version_id: str, text: str, max_tokens: int | None) -> float:
        """The score of a text by a reward model.

        Args:
            version_id: a version that was loaded.
            text: as the model reads it.
            max_tokens: of its beginning; None: as many as the model reads.

        Raises:
            RequestError: the version is no reward model, or this engine gives no scores.
        """

    async def close(self) -> None:
        """End what runs; answers in progress are cut."""
