"""What the shared store is to the engine: objects by name, made once, read, listed and removed.

`ObjectStore` is the interface. `CloudStore` is S3, GCS or Azure through obstore; a folder is `folder_store`'s
affair. What the objects mean, and why create-if-absent is enough to share them, is told by
docs/specs/SHARED_STORE.md.

A name is `a/b/c`, relative to where the store was opened. Nothing is cached here, and nothing is ever overwritten.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import obstore
import obstore.store
from obstore import exceptions

from vectorizer_engine.errors import StoreUnsuitable

logger = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds for which a call that fails is repeated."""

_REQUEST_SECONDS = 10
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0
_LIST_CHUNK = 1000

_Answer = TypeVar("_Answer")


class ObjectExists(Exception):
    """The name is taken, or the store had another reason for saying so: read it to know."""


class ObjectMissing(Exception):
    """There is no object of that name."""


class Listed(NamedTuple):
    name: str
    size: int


class ObjectStore(Protocol):
    """Any thread may call. Besides what is named, everything raises OSError, without having been repeated for long:
    whoever calls knows best how long that is worth while.
    """

    def create(self, name: str, data: bytes) -> None:
        """Make *data* the durable content of *name*, which nobody has made. Raises ObjectExists.

        After an OSError it may have happened, or may still happen.
        """
        ...

    def upload(self, name: str, file: Path) -> None:
        """Make the content of *file* that of *name*, which nobody else makes. May be repeated."""
        ...

    def read(self, name: str) -> bytes:
        """Raises ObjectMissing."""
        ...

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """*length* bytes from *start* on, all of which exist. Raises ObjectMissing."""
        ...

    def list(self, prefix: str, *, after: str = "") -> Iterator[Listed]:
        """The objects whose names begin with *prefix* and a slash, in no order.

        With *after*, only those with a name behind it.
        """
        ...

    def delete(self, names: Sequence[str]) -> None:
        """Remove objects. Those that are not there are no error."""
        ...


class Refused(OSError):
    """Nothing was done, and sending it again changes nothing: no permission, no space, a wrong setting."""


def repeated(call: Callable[[], _Answer], *, patience: float = PATIENCE) -> _Answer:
    """What *call* returns, which is repeated with growing pauses while it raises OSError and *patience* lasts.

    The pauses are random up to twice the last, so that pods do not come back all at once.
    """
    deadline = time.monotonic() + patience
    longest = _FIRST_PAUSE
    while True:
        try:
            return call()
        except (Refused, FileNotFoundError):  # the latter tells of a local file: see ObjectMissing
            raise
        except OSError as error:
            pause = random.uniform(longest / 2, longest)
            if time.monotonic() + pause > deadline:
                raise
            logger.info("the store failed, and is asked again in %.2f s: %s", pause, error)
        time.sleep(pause)
        longest = min(2 * longest, _LONGEST_PAUSE)


def prove_create_if_absent(store: ObjectStore, *, url: str) -> None:
    """Try what everything else relies on. Raises StoreUnsuitable that names what was seen, and OSError."""
    name = f"probe/{secrets.token_hex(16)}"
    repeated(lambda: _create_first(store, name, url))
    try:
        try:
            store.create(name, b"second")
        except ObjectExists:
            pass
        else:
            raise StoreUnsuitable(
                f"the store {url} made the object {name} twice: it ignores create-if-absent (If-None-Match: *), "
                "without which two pods would overwrite each other's writes; use a store that has it"
            )
        found = repeated(lambda: store.read(name))
        if found != b"first":
            raise StoreUnsuitable(
                f"the store {url} gave back {found!r} for the object {name}, expected b'first': it refused the "
                "second create and kept it all the same"
            )
        if name not in {listed.name for listed in repeated(lambda: list(store.list("probe")))}:
            raise StoreUnsuitable(
                f"the store {url} does not list the object {name} that it has just made: its listings lag behind; "
                "use one that is consistent (for a shared folder, one without attribute caching)"
            )
    finally:
        with suppress(OSError):
            store.delete([name])


def _create_first(store: ObjectStore, name: str, url: str) -> None:
    with suppress(ObjectExists):  # a repeated call whose first answer was lost
        store.create(name, b"first")


class CloudStore:
    """A bucket or container, from `s3://bucket/prefix`, `gs://…` or `az://…` on."""

    def __init__(
        self, url: str, settings: Mapping[str, Any], *, request_seconds: float = _REQUEST_SECONDS
    ) -> None:
        """*settings* are obstore's, for the kind of store that *url* names.

        Raises StoreUnsuitable where they do not fit.
        """
        endpoint = str(settings.get("endpoint", ""))
        open_url: Any = obstore.store.from_url  # its overloads want to know which kind of store it is
        try:
            self._store: Any = open_url(
                url,
                config=dict(settings),
                client_options={
                    "timeout": f"{request_seconds}s",
                    "connect_timeout": "3s",
                    "allow_http": endpoint.startswith("http://"),
                },
                # Repeated by `repeated`, which all stores share; a create is not for obstore to repeat.
                retry_config={"max_retries": 0},
            )
        except (exceptions.BaseError, ValueError) as error:
            raise StoreUnsuitable(f"the store {url} cannot be opened: {_first_line(error)}") from error

    def create(self, name: str, data: bytes) -> None:
        self._put(name, data, mode="create", use_multipart=False)

    def upload(self, name: str, file: Path) -> None:
        self._put(name, file, max_concurrency=4)

    def _put(self, name: str, content: bytes | Path, **options: Any) -> None:
        try:
            self._call(lambda: obstore.put(self._store, name, content, **options))
        except ObjectMissing as error:
            if isinstance(content, Path) and not content.exists():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(content)) from None
            raise Refused(f"{error}: make the bucket first") from error

    def read(self, name: str) -> bytes:
        return self._call(lambda: bytes(obstore.get(self._store, name).bytes()))

    def read_range(self, name: str, start: int, length: int) -> bytes:
        return self._call(lambda: bytes(obstore.get_range(self._store, name, start=start, length=length)))

    def list(self, prefix: str, *, after: str = "") -> Iterator[Listed]:
        stream = obstore.list(self._store, prefix, offset=after or None, chunk_size=_LIST_CHUNK)
        while chunk := self._call(lambda: next(stream, None)):
            for entry in chunk:
                yield Listed(entry["path"], entry["size"])

    def delete(self, names: Sequence[str]) -> None:
        try:
            self._call(lambda: obstore.delete(self._store, list(names)))
        except ObjectMissing:  # stores without a call for many stop at the first that is gone
            for name in names:
                with suppress(ObjectMissing):
                    self._call(lambda name=name: obstore.delete(self._store, name))  # type: ignore[misc]

    @staticmethod
    def _call(call: Callable[[], _Answer]) -> _Answer:
        try:
            return call()
        except exceptions.AlreadyExistsError as error:
            raise ObjectExists from error
        except (exceptions.NotFoundError, FileNotFoundError) as error:
            if _BUCKET_MISSING.search(str(error)):
                raise Refused(f"{_first_line(error)}: make the bucket first") from error
            raise ObjectMissing(_first_line(error)) from error
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise Refused(f"{_first_line(error)}: check the credentials of the store") from error
        except exceptions.BaseError as error:
            raise (Refused if _is_final(error) else OSError)(_first_line(error)) from error


_BUCKET_MISSING = re.compile("NoSuchBucket|ContainerNotFound|The specified bucket does not exist")
"""What S3, Azure and GCS say."""

_STATUS = re.compile(r"status code: (\d+)")
_REASON = re.compile(r"<Code>(.*?)</Code>\s*<Message>(.*?)</Message>", re.DOTALL)
_WORTH_REPEATING = {408, 409, 425, 429}


def _is_final(error: Exception) -> bool:
    """Whether the store found the request itself wrong. obstore keeps the status in its text alone."""
    status = _STATUS.search(str(error))
    return status is not None and 400 <= int(status[1]) < 500 and int(status[1]) not in _WORTH_REPEATING


def _first_line(error: Exception) -> str:
    """What obstore says and the store's reason, without the dump of the request."""
    text = str(error)
    reason = _REASON.search(text)
    first = text.partition("\n")[0].partition(": <?xml")[0]
    return f"{first}: {reason[1]}, {reason[2]}" if reason else first
