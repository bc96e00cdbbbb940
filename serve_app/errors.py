"""Errors a client can be told about: what was wrong, which field, which HTTP status."""


class ServiceError(Exception):
    """An error with a place on the wire.

    `message` says what was wrong and what is allowed, `param` names the field, `code` is a
    stable word for programs. Positional arguments only, so that instances survive pickling.
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
    """The request can't be honoured as it is written."""

    status = 400
    type = "invalid_request_error"


class AudioError(InvalidRequest):
    """The audio can't be fetched, read or decoded, or holds no sound."""


class TooLarge(InvalidRequest):
    """The body or the recording is over a limit."""

    status = 413


class HeadTooLarge(InvalidRequest):
    """The URL and headers are over a limit."""

    status = 431


class UnsupportedMediaType(InvalidRequest):
    """A request body of a kind this path does not read."""

    status = 415


class RequestTimeout(ServiceError):
    """A synchronous request took longer than its limit."""

    status = 408
    type = "timeout_error"


class Unauthorized(InvalidRequest):
    """No API key, or one that is not configured."""

    status = 401
    type = "authentication_error"


class Forbidden(InvalidRequest):
    """A signed URL that is not as it was signed, or too old."""

    status = 403
    type = "permission_error"


class NotFound(InvalidRequest):
    """No such model, job, upload or page."""

    status = 404


class UploadNotFound(NotFound):
    """Nothing was brought under that id, or a job has it."""


class Conflict(InvalidRequest):
    """The job is not in a state that allows this."""

    status = 409


class Reused(InvalidRequest):
    """An id or idempotency key that belongs to another request."""

    status = 422


class Overloaded(ServiceError):
    """The queue is full; try again later."""

    status = 429
    type = "rate_limit_error"


class Unavailable(ServiceError):
    """A part of the service is away for the moment."""

    status = 503


class NotDelivered(Unavailable):
    """It never got what it was to do: nothing was done, and nothing was lost."""
