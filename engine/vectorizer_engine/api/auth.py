"""Who calls, and what they may: API keys by `api-key` header or bearer token, compared in constant time.

Without tenants a key says how much its bearer may do. With tenants it also says whose collections a request is about;
`auth.api_key` is then the key of whoever runs the engine, with collections of their own.
"""

from __future__ import annotations

import hashlib
import secrets
from enum import Enum, auto
from typing import NamedTuple

from pydantic import SecretStr

from vectorizer_engine.api.errors import HttpError
from vectorizer_engine.config import Config
from vectorizer_engine.tenants import NO_TENANT

_BEARER = b"bearer "


class Access(Enum):
    """What a route asks of its caller."""

    OPEN = auto()
    """Nothing: probes carry no key."""
    ENGINE = auto()
    """A key that is no tenant's: the call tells about the engine as a whole."""
    MEMBER = auto()
    """The cluster's own key, which allows nothing else."""
    READ = auto()
    WRITE = auto()


class _Caller(NamedTuple):
    tenant: str
    may_write: bool


class Authenticator:
    """Holds a request's key against the configured ones. Where none is configured everybody may do all."""

    def __init__(self, config: Config) -> None:
        # Keys are compared by a hash that nobody outside can foresee: how long it takes to look one up says nothing.
        self._salt = secrets.token_bytes(32)
        self._callers: dict[bytes, _Caller] = {}
        internal = config.cluster.internal_key
        self._member = None if internal is None else self._hash(internal.get_secret_value().encode())
        self._add(config.auth.read_only_api_key, _Caller(NO_TENANT, may_write=False))
        self._add(config.auth.api_key, _Caller(NO_TENANT, may_write=True))
        for tenant in config.active_tenants:
            self._add(tenant.read_only_api_key_file, _Caller(tenant.name, may_write=False))
            self._add(tenant.api_key_file, _Caller(tenant.name, may_write=True))

    @property
    def required(self) -> bool:
        return bool(self._callers)

    def check(self, key: bytes | None, access: Access) -> str:
        """The tenant that a request with *key* comes from, NO_TENANT for whoever runs the engine.

        Raises HttpError 401 for a missing or wrong key, and 403 for one that may not do what *access* asks for.
        """
        if access is Access.MEMBER:
            if key is None or self._hash(key) != self._member:
                raise HttpError(
                    401, "this call is for the members of the cluster: it needs cluster.internal_key"
                )
            return NO_TENANT
        if access is Access.OPEN or not self.required:
            return NO_TENANT
        caller = self._callers.get(self._hash(key)) if key is not None else None
        if caller is None:
            raise HttpError(
                401,
                "an API key is needed: send it as the header 'api-key: KEY' or 'authorization: Bearer KEY'"
                if key is None
                else "the API key is not valid",
            )
        if access is Access.WRITE and not caller.may_write:
            raise HttpError(403, "this API key may only read: use the full key to write")
        if access is Access.ENGINE and caller.tenant != NO_TENANT:
            raise HttpError(
                403, "this call tells about all tenants: it needs the key of whoever runs the engine"
            )
        return caller.tenant

    def _add(self, key: SecretStr | None, caller: _Caller) -> None:
        if key is not None:
            self._callers[self._hash(key.get_secret_value().encode())] = caller

    def _hash(self, key: bytes) -> bytes:
        return hashlib.blake2b(key, digest_size=32, key=self._salt).digest()


def presented_key(headers: list[tuple[bytes, bytes]]) -> bytes | None:
    """The key in *headers* (lower-case names): `api-key` comes before a bearer token."""
    bearer = None
    for name, value in headers:
        if name == b"api-key":
            return value
        if name == b"authorization" and value[: len(_BEARER)].lower() == _BEARER:
            bearer = value[len(_BEARER) :].strip()
    return bearer
