"""Body of `POST /v1/completions`: texts that are continued as they are."""

from typing import Any

from pydantic import Field

from llama_factory.inference.question import Options, Prompt, RequestError
from llama_factory.serving.outcome import Caller
from llama_factory.serving.protocol.fields import MAX_CHOICES, MAX_TOP_LOGPROBS, AnswerRequest
from llama_factory.serving.protocol.prompts import text_prompts

USUAL_TOKENS = 16
"""Longest answer where the request does not say, as OpenAI has it."""


class CompletionRequest(AnswerRequest):
    """Body of `POST /v1/completions`."""

    prompt: Any
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)

    def choices(self) -> tuple[tuple[Prompt, Options], ...]:
        """What is continued and how: the `n` answers of each prompt, one after the other.

        Raises:
            RequestError: a field is not supported, or a value cannot be read.
        """
        self.require_known()
        prompts = text_prompts(self.prompt, "prompt")
        if len(prompts) * self.num_choices > MAX_CHOICES:
            raise RequestError(
                f"n: {len(prompts)} prompts with {self.num_choices} answers each are more than "
                f"the {MAX_CHOICES} answers of one request.",
                param="n",
            )
        longest = self.max_tokens or USUAL_TOKENS
        options = self.options_of(longest, num_logprobs=self.logprobs)
        return tuple((prompt, each) for prompt in prompts for each in options)

    def caller(self, key_id: str) -> Caller:
        """Who asks; a text that is continued is a conversation of its own."""
        return Caller(key_id, self.user or "")
