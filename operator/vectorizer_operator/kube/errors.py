"""What the API server may answer instead of an object, in the words that callers act upon."""

from __future__ import annotations

import json


class ApiError(Exception):
    """The API server refused a request, or could not be reached (`status` 0)."""

    def __init__(
        self, request: str, status: int, reason: str, message: str, retry_after: float | None = None
    ):
        super().__init__(f"{request}: {status or 'no answer'} {reason}: {message}".rstrip(": "))
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        """Seconds that the API server asked to wait, if it did."""

    @property
    def is_final(self) -> bool:
        """Whether the same request will be refused again until a person changes something."""
        return self.status in (400, 403, 405, 413, 415, 422)


class NotFound(ApiError):
    """404: the object or its kind does not exist."""


class Conflict(ApiError):
    """409: the object changed since it was read, or exists already: observe again."""


class TooManyRequests(ApiError):
    """429: the API server wants to be left alone for `retry_after` seconds."""


class Unreachable(ApiError):
    """No answer: the connection was refused, broke, or took too long."""


_BY_STATUS: dict[int, type[ApiError]] = {404: NotFound, 409: Conflict, 429: TooManyRequests}


def error_of(request: str, status: int, body: bytes, retry_after: str | None) -> ApiError:
    """The error that an answer stands for. *retry_after* is the header's value."""
    reason, message, seconds = "", body[:500].decode(errors="replace"), None
    try:
        answer = json.loads(body)
        reason, message = answer.get("reason", ""), answer.get("message", "")
        seconds = (answer.get("details") or {}).get("retryAfterSeconds")
    except (ValueError, AttributeError):
        pass  # a proxy's page, not the API server's Status
    if retry_after is not None and retry_after.isdigit():
        seconds = int(retry_after)
    return _BY_STATUS.get(status, ApiError)(
        request, status, reason, message, None if seconds is None else float(seconds)
    )
