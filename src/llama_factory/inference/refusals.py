"""Why a request is refused, with what OpenAI's clients expect for it. No HTTP here.

RequestError             400  the request itself is wrong
├── PromptTooLongError   400
├── KeyRefusedError      401
├── UnknownModelError    404
├── BodyTooSlowError     408
├── BodyTooLargeError    413
├── QueueFullError       429  the same request may be answered later
└── ShuttingDownError    503  perhaps another server answers it
"""

from typing import ClassVar

from llama_factory.core.errors import ServingError


class RequestError(ServingError):
    """The request itself cannot be answered; sending it again changes nothing."""

    status: ClassVar[int] = 400
    type: ClassVar[str] = "invalid_request_error"
    param: ClassVar[str | None] = None
    code: ClassVar[str | None] = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        """Say why; `param` names the field that is wrong."""
        super().__init__(message)
        self.place = param or self.param


class PromptTooLongError(RequestError):
    """The conversation leaves no room for an answer."""

    param = "messages"
    code = "context_length_exceeded"


class KeyRefusedError(RequestError):
    """The API key is missing or wrong."""

    status = 401
    code = "invalid_api_key"


class UnknownModelError(RequestError):
    """The request names a model that is not here."""

    status = 404
    param = "model"
    code = "model_not_found"


class BodyTooSlowError(RequestError):
    """The body did not arrive in time."""

    status = 408
    code = "request_timeout"


class BodyTooLargeError(RequestError):
    """The body is longer than this server reads."""

    status = 413
    code = "request_too_large"


class QueueFullError(RequestError):
    """As many requests wait as may."""

    status = 429
    type = "rate_limit_error"
    code = "queue_full"


class ShuttingDownError(RequestError):
    """The server was told to stop before the answer was complete."""

    status = 503
    type = "server_error"
    code = "shutting_down"
