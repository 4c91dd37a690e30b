"""What clients are refused with; `error_responses.py` writes it as OpenAI's clients read it.

RequestError             400  the request itself is wrong (of the engine)
├── PromptTooLongError   400  (of the engine)
├── BodyNotPlainError    400  its JSON is too deep or too large
├── KeyRefusedError      401
├── ScopeMissingError    403
├── UnknownModelError    404
├── UnknownCompletionError 404  no answer of this id is kept
├── BodyTooSlowError     408
├── KeyReusedError       409  another body came with this idempotency key
├── BodyTooLargeError    413
├── QueueFullError       429  the same request may be answered later
├── RateLimitedError     429  the key has asked as much as it may for a while
├── KeysUnreadableError  503  the file of keys is damaged, so nobody is let in
├── ShuttingDownError    503  perhaps another server answers it
├── NotStoredError       503  the disk takes no feedback
└── EngineDownError      503  the engine is being started again; ask again later
"""

from llama_factory.inference.question import RequestError


class KeyRefusedError(RequestError):
    """The API key is missing or wrong."""

    status = 401
    code = "invalid_api_key"


class ScopeMissingError(RequestError):
    """The key may not ask this."""

    status = 403
    type = "permission_error"
    code = "missing_scope"


class KeysUnreadableError(RequestError):
    """Nobody can be let in for the moment."""

    status = 503
    type = "server_error"
    code = "keys_unreadable"
    retry_seconds = 5


class UnknownModelError(RequestError):
    """The request names a model that is not here."""

    status = 404
    param = "model"
    code = "model_not_found"


class UnknownCompletionError(RequestError):
    """No answer of the last days has this id."""

    status = 404
    param = "completion_id"
    code = "completion_not_found"


class BodyTooSlowError(RequestError):
    """The body did not arrive in time."""

    status = 408
    code = "request_timeout"


class KeyReusedError(RequestError):
    """The same idempotency key came with another body before."""

    status = 409
    param = "Idempotency-Key"
    code = "idempotency_key_reused"


class BodyTooLargeError(RequestError):
    """The body is longer than this server reads."""

    status = 413
    code = "request_too_large"


class QueueFullError(RequestError):
    """As many requests wait as may."""

    status = 429
    type = "rate_limit_error"
    code = "queue_full"
    retry_seconds = 1


class ShuttingDownError(RequestError):
    """The server was told to stop before the answer was complete."""

    status = 503
    type = "server_error"
    code = "shutting_down"


class EngineDownError(RequestError):
    """What makes the tokens is not there; it is being started again."""

    status = 503
    type = "server_error"
    code = "engine_down"
    retry_seconds = 1


class NotStoredError(RequestError):
    """The disk takes nothing more; nothing was stored."""

    status = 503
    type = "server_error"
    code = "not_stored"
    retry_seconds = 30
