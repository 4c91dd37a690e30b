"""Body and reply of `POST /v1/embeddings`."""

import base64
from array import array
from collections.abc import Sequence
from typing import Any, Literal

from llama_factory.inference.question import TextPrompt
from llama_factory.serving.protocol.fields import (
    ModelName,
    RequestPart,
    WholeCharacters,
    require_known,
)
from llama_factory.serving.protocol.prompts import text_prompts


class EmbeddingRequest(WholeCharacters, RequestPart):
    """Body of `POST /v1/embeddings`."""

    model: ModelName
    input: Any
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None

    def prompts(self) -> tuple[TextPrompt, ...]:
        """The texts.

        Raises:
            RequestError: a field is not supported, or the input cannot be read.
        """
        require_known(self.model_extra or {}, type(self).model_fields)
        return text_prompts(self.input, "input")

    def reply(
        self, version_id: str, vectors: Sequence[tuple[float, ...]], num_tokens: int
    ) -> dict[str, Any]:
        """A list of `embedding` objects."""
        is_packed = self.encoding_format == "base64"
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": _packed(vector) if is_packed else list(vector),
            }
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
        return {"object": "list", "data": data, "model": version_id, "usage": usage}


def _packed(vector: Sequence[float]) -> str:
    """Four bytes a number, the lowest first, whatever this machine's own order is."""
    numbers = array("f", vector)
    if array("H", [1]).tobytes()[0] == 0:
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()
