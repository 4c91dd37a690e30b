"""Body of `POST /v1/feedback`."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from llama_factory.serving.feedback import Given
from llama_factory.serving.protocol.fields import half_character

MAX_ID_CHARACTERS = 200
MAX_TEXT_CHARACTERS = 20_000
MAX_COMMENT_CHARACTERS = 4_000
MAX_TAGS = 20
MAX_TAG_CHARACTERS = 64
MAX_USER_CHARACTERS = 256
MAX_INDEX = 1000


class FeedbackRequest(BaseModel):
    """What a caller says of an answer.

    Attributes:
        completion_id: the `id` of the answer.
        rating: `up` or `down`.
        index: which of the answers, where the request asked for several.
        correction: what the answer should have been.
        tags: what is wrong, in a word each.
        comment: the same at length, for people.
        user: who says so, where many share a key; the request's `user` where it is left out.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    completion_id: str = Field(min_length=1, max_length=MAX_ID_CHARACTERS)
    rating: Literal["up", "down"]
    index: int = Field(0, ge=0, le=MAX_INDEX)
    correction: str | None = Field(None, max_length=MAX_TEXT_CHARACTERS)
    tags: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=MAX_TAG_CHARACTERS)]],
            Field(max_length=MAX_TAGS),
        ]
        | None
    ) = None
    comment: str | None = Field(None, max_length=MAX_COMMENT_CHARACTERS)
    user: str | None = Field(None, max_length=MAX_USER_CHARACTERS)

    @model_validator(mode="before")
    @classmethod
    def _holds_whole_characters(cls, body: Any) -> Any:
        if place := half_character(body):
            text = "{place}: holds half of a character; an emoji was cut in two. Remove it"
            raise PydanticCustomError("half_character", text, {"place": place})
        return body

    @field_validator("correction")
    @classmethod
    def _is_an_answer(cls, correction: str | None) -> str | None:
        if correction is not None and not correction.strip():
            raise ValueError("is blank. Write the right answer, or leave it out")
        return correction

    def given(self) -> Given:
        """The same without anything of HTTP."""
        return Given(
            self.completion_id,
            self.rating,
            self.index,
            self.correction or "",
            tuple(self.tags or ()),
            self.comment or "",
            self.user or "",
        )
