"""Body and reply of `POST /v1/score/evaluation`, as LLaMA-Factory's clients know them."""

import uuid
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from llama_factory.inference.question import RequestError
from llama_factory.serving.protocol.fields import (
    ModelName,
    RequestPart,
    WholeCharacters,
    require_known,
)

MOST_TEXTS = 128
"""Texts of one request."""


class ScoreRequest(WholeCharacters, RequestPart):
    """Body of `POST /v1/score/evaluation`."""

    model: ModelName
    messages: list[str]
    max_length: int | None = Field(None, ge=1)

    def texts(self) -> list[str]:
        """What is to be scored.

        Raises:
            RequestError: a field is not supported, or there is no text, or there are too many.
        """
        require_known(self.model_extra or {}, type(self).model_fields)
        if not 0 < len(self.messages) <= MOST_TEXTS:
            raise RequestError(
                f"messages: must be 1 to {MOST_TEXTS} texts; there are {len(self.messages)}.",
                param="messages",
            )
        return self.messages

    def reply(self, version_id: str, scores: Sequence[float]) -> dict[str, Any]:
        """The scores, in the order of the texts."""
        head = {"id": f"scoreval-{uuid.uuid4().hex}", "object": "score.evaluation"}
        return head | {"model": version_id, "scores": [*scores]}
