"""Which status code each error becomes, and the bodies of errors: Qdrant's envelope.

An error that the engine did not raise on purpose is a bug: it is logged with its traceback and answered with
500 and no details.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from vectorizer_engine import errors

logger = logging.getLogger(__name__)


class ValidationFailed(errors.InvalidRequest):
    """A value of the right type outside its range, which Qdrant answers with 422 instead of 400."""


class HttpError(errors.EngineError):
    """A refusal that HTTP itself is about: status code, message, headers."""

    def __init__(self, status: int, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


RETRY_SOON = ((b"retry-after", b"1"),)

STATUS_CODES: tuple[tuple[type[Exception], int], ...] = (
    (ValidationFailed, 422),
    (errors.ClusterConfigViolation, 422),
    (errors.CacheMemoryLimitExceeded, 422),
    (errors.InvalidRequest, 400),
    (errors.CollectionGone, 410),
    (errors.NotFound, 404),
    (errors.CollectionExists, 409),
    (errors.StorageFull, 507),
    (errors.StoreClosed, 503),
)
"""The first class that fits decides."""


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """What an error is answered with."""

    status: int
    body: dict[str, Any]
    headers: tuple[tuple[bytes, bytes], ...] = ()


def answer_error(error: Exception, *, seconds: float) -> ErrorAnswer:
    """The answer to a request that *error* ended after *seconds*."""
    if isinstance(error, HttpError):
        return ErrorAnswer(error.status, envelope(str(error), seconds), error.headers)
    if isinstance(error, errors.AnsweredElsewhere):
        return ErrorAnswer(error.status, error.body)
    for kind, status in STATUS_CODES:
        if isinstance(error, kind):
            headers = RETRY_SOON if status == 503 else ()
            return ErrorAnswer(status, envelope(str(error), seconds) | _details(error), headers)
    if isinstance(error, RecursionError):
        return ErrorAnswer(400, envelope("the JSON body is nested too deeply", seconds))
    if isinstance(error, errors.EngineError):
        logger.error("a request failed: %s", error)
        return ErrorAnswer(500, envelope(str(error), seconds))
    logger.error("a request failed for a reason that is a bug", exc_info=error)
    return ErrorAnswer(500, envelope("internal error: the engine's log says more", seconds))


def envelope(message: str, seconds: float) -> dict[str, Any]:
    return {"status": {"error": message}, "time": seconds}


def _details(error: Exception) -> dict[str, Any]:
    """The members that the violation of a rule adds to the envelope."""
    if isinstance(error, errors.ClusterConfigViolation):
        first = error.violations[0]
        return {
            "error": first.error_type,
            "message": str(error),
            "code": first.code,
            "details": {
                "violation": first.path,
                "current_value": first.current_value,
                "required_value": first.required_value,
                "fix": first.fix,
            },
        }
    if isinstance(error, errors.CacheMemoryLimitExceeded):
        return {
            "error": "CacheMemoryLimitExceeded",
            "message": str(error),
            "code": error.code,
            "details": {
                "violation": error.setting,
                "current_value": error.requested,
                "required_value": f"1..{error.limit} bytes",
                "fix": error.fix,
            },
        }
    return {}
