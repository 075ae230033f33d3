"""Who may call: API keys by `api-key` header or bearer token, compared in constant time."""

from __future__ import annotations

import hmac
from enum import Enum, auto

from vectorizer_engine.api.errors import HttpError
from vectorizer_engine.config import AuthConfig

_BEARER = b"bearer "


class Access(Enum):
    """What a route asks of its caller."""

    OPEN = auto()
    """Nothing: probes carry no key."""
    READ = auto()
    WRITE = auto()


class Authenticator:
    """Holds a request's key against the configured ones. Without a configured `api_key` everybody may do all."""

    def __init__(self, config: AuthConfig) -> None:
        self._full = config.api_key.get_secret_value().encode() if config.api_key else None
        self._read_only = (
            config.read_only_api_key.get_secret_value().encode() if config.read_only_api_key else None
        )

    @property
    def required(self) -> bool:
        return self._full is not None or self._read_only is not None

    def check(self, key: bytes | None, access: Access) -> None:
        """Raises HttpError 401 for a missing or wrong key and 403 for writing with the read-only key."""
        if access is Access.OPEN or not self.required:
            return
        # Both comparisons always run, so that the time taken says nothing about either key.
        full = hmac.compare_digest(key or b"", self._full or b"\0")
        read_only = hmac.compare_digest(key or b"", self._read_only or b"\0")
        if full or (read_only and access is Access.READ):
            return
        if read_only:
            raise HttpError(403, "this API key may only read: use the full key to write")
        raise HttpError(
            401,
            "an API key is needed: send it as the header 'api-key: KEY' or 'authorization: Bearer KEY'"
            if key is None
            else "the API key is not valid",
        )


def presented_key(headers: list[tuple[bytes, bytes]]) -> bytes | None:
    """The key in *headers* (lower-case names): `api-key` comes before a bearer token."""
    bearer = None
    for name, value in headers:
        if name == b"api-key":
            return value
        if name == b"authorization" and value[: len(_BEARER)].lower() == _BEARER:
            bearer = value[len(_BEARER) :].strip()
    return bearer
