"""The OpenAPI description of the server: what can be asked, what comes back, which errors.

Requests are described by the very classes that read them. Responses are described here, and
`tests/serving/test_description.py` holds real ones against it.
"""

from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict
from pydantic.json_schema import models_json_schema

from llama_factory.core import __version__
from llama_factory.serving.access import DESCRIPTION_PATH, OPEN_PATHS, scopes_of

ERRORS = {
    400: "The request is wrong; the message names the field and how to mend it.",
    401: "The API key is missing or wrong, or was revoked.",
    403: "The key has not the scope that this needs.",
    404: "There is no such model.",
    408: "The body did not arrive in time.",
    413: "The body is longer than this server reads.",
    429: "The queue is full, or the key has asked as much as it may; ask again later.",
    500: "The version cannot be served.",
    503: "The engine or the keys are not there at the moment; ask again later.",
}
ERRORS_OF = {"/v1/feedback": {409: "The same Idempotency-Key came with another body."}}
"""Further errors of single paths."""

RETRIED = frozenset({429, 503})
"""Statuses whose responses say when to ask again."""

REF = "#/components/schemas/{model}"


class Response(BaseModel):
    """An object of a response: has all of its fields, and may get more."""

    model_config = ConfigDict(extra="allow")


class ErrorDetail(Response):
    """What is wrong: the message names the value seen, where it is, and how to mend it."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Response):
    """Every error."""

    error: ErrorDetail


class HealthBody(Response):
    """Who answers."""

    status: str
    version: str
    released: str
    queue: int


class ReadyBody(Response):
    """Whether answers can be given; the reasons where they cannot."""

    ready: bool
    version: str
    reasons: list[str]


class ModelBody(Response):
    """A name that a request may use, and the version it means (`root`)."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str


class ModelsBody(Response):
    """All names."""

    object: Literal["list"]
    data: list[ModelBody]


class TurnBody(Response):
    """What the assistant said."""

    role: Literal["assistant"]
    content: str | None


class ChoiceBody(Response):
    """One of the answers."""

    index: int
    message: TurnBody
    finish_reason: str


class TokenCounts(Response):
    """How long prompt and answers were."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatBody(Response):
    """The answers to a conversation; `model` is the version that gave them."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChoiceBody]
    usage: TokenCounts


class BlockBody(Response):
    """A part of an answer: text, or a call of a tool."""

    type: Literal["text", "tool_use"]


class InputCounts(Response):
    """How long prompt and answer were."""

    input_tokens: int
    output_tokens: int


class MessageBody(Response):
    """The answer to a conversation; `model` is the version that gave it."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[BlockBody]
    stop_reason: str
    usage: InputCounts


class InputCountBody(Response):
    """How long a prompt would be."""

    input_tokens: int


class TextChoiceBody(Response):
    """One of the continuations."""

    index: int
    text: str
    finish_reason: str


class CompletionBody(Response):
    """Texts that were continued; `model` is the version that did."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoiceBody]
    usage: TokenCounts


class EmbeddingBody(Response):
    """One text as a vector: numbers, or four bytes each in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsBody(Response):
    """The vectors of all inputs, in their order."""

    object: Literal["list"]
    data: list[EmbeddingBody]
    model: str


class ScoresBody(Response):
    """What a reward model makes of each text, in their order."""

    id: str
    object: Literal["score.evaluation"]
    model: str
    scores: list[float]


class TokenIdsBody(Response):
    """A prompt as token ids."""

    count: int
    tokens: list[int]
    token_strs: list[str] | None


class TextBody(Response):
    """Token ids as text."""

    prompt: str


class FeedbackBody(Response):
    """Feedback that is stored: the same for the same request."""

    id: str
    object: Literal["feedback"]
    created: int
    completion_id: str
    rating: Literal["up", "down"]
    version: str
    replaces: str | None


RESPONSES: dict[str, type[Response]] = {
    "/health": HealthBody,
    "/ready": ReadyBody,
    "/v1/models": ModelsBody,
    "/v1/models/{name}": ModelBody,
    "/v1/chat/completions": ChatBody,
    "/v1/completions": CompletionBody,
    "/v1/messages": MessageBody,
    "/v1/messages/count_tokens": InputCountBody,
    "/v1/embeddings": EmbeddingsBody,
    "/v1/score/evaluation": ScoresBody,
    "/tokenize": TokenIdsBody,
    "/detokenize": TextBody,
    "/v1/feedback": FeedbackBody,
}
"""What comes back from a path where all went well."""

TEXTS = {
    "/metrics": "text/plain",
    "/v1/load_lora_adapter": "text/plain",
    "/v1/unload_lora_adapter": "text/plain",
}
"""Paths whose response is no JSON."""

STREAMED = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/messages"})
"""Paths that answer as server-sent events where the request asks for `stream`."""


def describe(app: FastAPI) -> dict[str, Any]:
    """The description of an app's routes, as JSON."""
    description = get_openapi(
        title="LLaMA Factory",
        version=__version__,
        summary="Versions of a model, asked as OpenAI's API is.",
        routes=app.routes,
    )
    parts = description.setdefault("components", {})
    mode: Literal["serialization"] = "serialization"
    models: list[type[BaseModel]] = [ErrorBody, *dict.fromkeys(RESPONSES.values())]
    _, shapes = models_json_schema([(model, mode) for model in models], ref_template=REF)
    parts["schemas"] = parts.get("schemas", {}) | shapes.get("$defs", {})
    for name in ("HTTPValidationError", "ValidationError"):  # ours are `ErrorBody`
        parts["schemas"].pop(name, None)
    parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, methods in description["paths"].items():
        for operation in methods.values():
            _complete(path, operation)
    return description


def _complete(path: str, operation: dict[str, Any]) -> None:
    """Add to an operation what the routes do not declare."""
    operation["responses"] = {"200": _success(path)} | {
        str(status): _error(status, text)
        for status, text in (ERRORS | ERRORS_OF.get(path, {})).items()
        if path not in OPEN_PATHS or status in (400, 413, 503)
    }
    if path not in OPEN_PATHS:
        operation["security"] = [{"key": []}]
        needed = "any" if path == DESCRIPTION_PATH else " or ".join(scopes_of(path))
        operation["description"] = f"{operation.get('description', '')}\n\nScope: {needed}.".strip()


def _success(path: str) -> dict[str, Any]:
    if kind := TEXTS.get(path):
        return {"description": "Text.", "content": {kind: {"schema": {"type": "string"}}}}
    model = RESPONSES.get(path)
    schema = {"$ref": REF.format(model=model.__name__)} if model else {"type": "object"}
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if path in STREAMED:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    return {"description": "All went well.", "content": content}


def _error(status: int, text: str) -> dict[str, Any]:
    schema = {"$ref": REF.format(model=ErrorBody.__name__)}
    response: dict[str, Any] = {
        "description": text,
        "content": {"application/json": {"schema": schema}},
    }
    if status in RETRIED:
        header = {"description": "Seconds.", "schema": {"type": "integer"}}
        response["headers"] = {"Retry-After": header}
    return response
