"""Events of a streamed completion -> pieces of text, then the whole answer."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from llama_factory.inference.question import Answer, AnswerPiece, TokenLogprob
from llama_factory.serving.errors import EngineDownError
from llama_factory.serving.vllm.protocol import finish_reason_of, logprobs_of


class CompletionReader:
    """What came of one answer."""

    def __init__(
        self,
        make: Callable[[int, float], TokenLogprob],
        most: int,
        ends: frozenset[int],
        num_prompt: int,
    ) -> None:
        """Nothing came yet.

        Args:
            make: names a token with its log-probability.
            most: how many of the likeliest are reported beside a token.
            ends: end tokens, which are no text.
            num_prompt: tokens of the prompt.
        """
        self._make, self._most, self._ends, self._num_prompt = make, most, ends, num_prompt
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._reason: Literal["stop", "length"] | None = None
        self._usage: Mapping[str, Any] = {}

    def take(self, event: Mapping[str, Any]) -> Iterator[AnswerPiece]:
        """The piece of one event, if it brings any."""
        self._usage = event.get("usage") or self._usage
        for choice in event.get("choices") or ():
            self._reason = finish_reason_of(choice) or self._reason
            listed = logprobs_of(choice, self._make, self._most)
            shown = tuple(each for token, each in listed if token not in self._ends)
            text = str(choice.get("text") or "")
            self._texts.append(text)
            self._logprobs += shown
            if text or shown:
                yield AnswerPiece(text, shown)

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
            prompt_tokens=int(self._usage.get("prompt_tokens", self._num_prompt)),
            completion_tokens=int(self._usage.get("completion_tokens", 0)),
            finish_reason=self._reason,
            reused_tokens=int(details.get("cached_tokens") or 0),
            logprobs=tuple(self._logprobs),
        )
