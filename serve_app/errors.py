"""Errors that clients receive: what was wrong, which field, which HTTP status."""


class ServiceError(Exception):
    """An error that is reported to the client.

    `message`: what was wrong and what is allowed. `param`: the field. `code`: a stable identifier for programs.
    Pass arguments by position, so that instances can be pickled.
    """

    status = 500
    type = "server_error"

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message, param, code)
        self.message = message
        self.param = param
        self.code = code

    def __str__(self) -> str:
        return self.message


class InvalidRequest(ServiceError):
    """The request is invalid."""

    status = 400
    type = "invalid_request_error"


class AudioError(InvalidRequest):
    """The audio can't be fetched, read or decoded, or the file has no audio."""


class TooLarge(InvalidRequest):
    """The request body or the recording exceeds a limit."""

    status = 413


class HeadersTooLarge(InvalidRequest):
    """The URL and headers exceed a limit."""

    status = 431


class UnsupportedMediaType(InvalidRequest):
    """The content type of the request body is not supported on this path."""

    status = 415


class RequestTimeout(ServiceError):
    """A synchronous request took longer than its limit."""

    status = 408
    type = "timeout_error"


class Unauthorized(InvalidRequest):
    """The API key is missing or unknown."""

    status = 401
    type = "authentication_error"


class Forbidden(InvalidRequest):
    """A signed URL is invalid or has expired."""

    status = 403
    type = "permission_error"


class NotFound(InvalidRequest):
    """The model, job, upload or path does not exist."""

    status = 404


class UploadNotFound(NotFound):
    """No file was uploaded under this id, or a job has already claimed it."""


class Conflict(InvalidRequest):
    """The job's state does not allow this."""

    status = 409


class IdempotencyConflict(InvalidRequest):
    """The job id or idempotency key was already used for a different request."""

    status = 422


class Overloaded(ServiceError):
    """The queue is full: the client should try again later."""

    status = 429
    type = "rate_limit_error"


class Unavailable(ServiceError):
    """A part of the service is temporarily unavailable."""

    status = 503


class NotDelivered(Unavailable):
    """The call was not delivered: nothing was executed, so it is safe to retry."""
