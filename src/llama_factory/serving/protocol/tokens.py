"""Bodies of `POST /tokenize` and `/detokenize`, in vLLM's shapes."""

from typing import Annotated, Any

from pydantic import Field

from llama_factory.inference.question import Prompt, RequestError
from llama_factory.serving.protocol.chat import MAX_MESSAGES, ChatMessage, ChatTurns
from llama_factory.serving.protocol.fields import (
    ModelName,
    RequestPart,
    WholeCharacters,
    require_known,
)
from llama_factory.serving.protocol.prompts import text_prompts, token_ids
from llama_factory.versions.releases import PRODUCTION

Turns = Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]


class TokenizeRequest(WholeCharacters, ChatTurns):
    """Body of `POST /tokenize`: a text, or turns as for chat."""

    model: ModelName = PRODUCTION
    messages: Turns | None = None  # type: ignore[assignment]
    prompt: Any = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None

    def asked(self) -> Prompt:
        """What would be asked.

        Raises:
            RequestError: there is neither a prompt nor turns, or both.
        """
        require_known(self.model_extra or {}, type(self).model_fields)
        if (self.prompt is None) == (self.messages is None):
            raise RequestError("prompt: send either a prompt or messages.", param="prompt")
        if self.add_special_tokens is False and self.prompt is not None:
            raise RequestError(
                "add_special_tokens: a text is read as this server reads prompts.",
                param="add_special_tokens",
            )
        return self.question() if self.messages else text_prompts(self.prompt, "prompt")[0]


class DetokenizeRequest(WholeCharacters, RequestPart):
    """Body of `POST /detokenize`."""

    model: ModelName = PRODUCTION
    tokens: Any

    def ids(self) -> tuple[int, ...]:
        """The token ids.

        Raises:
            RequestError: they are none, or a field is not supported.
        """
        require_known(self.model_extra or {}, type(self).model_fields)
        return token_ids(self.tokens, "tokens")
