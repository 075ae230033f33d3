"""Which collections there are in a shared store: a numbered sequence of changes, in one order for all pods.

Any pod may change it. A change is created at the next number; where that is taken, the winner's change is seen
first and the own one is checked again. Nothing is ever deleted here, so a change that arrives late finds its number
taken. See docs/specs/SHARED_STORE.md.
"""

from __future__ import annotations

import secrets
import struct
import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType

import google_crc32c
import msgspec

from vectorizer_engine.errors import StoreCorrupt
from vectorizer_engine.storage.object_store import (
    PATIENCE,
    ObjectExists,
    ObjectMissing,
    ObjectStore,
    Refused,
    repeated,
)

PREFIX = "catalog"

_MAGIC = b"VZCAT1"
_CRC = struct.Struct("<I")
_WHOLE_EACH = 64
"""Each so many changes the whole list is written along, from which the next opening goes on."""


class Entry(msgspec.Struct, frozen=True):
    """A collection. `description` is its own affair; `deleted` ones wait for their objects to be removed."""

    path: str
    description: bytes
    deleted: bool = False


Entries = Mapping[str, Entry]
"""By token, which is never used twice."""


class _Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """*entry* None: nothing is left of the token. `nonce` tells equal changes of two pods apart."""

    nonce: bytes
    token: str
    entry: Entry | None = None
    whole: dict[str, Entry] | None = None


_change = msgspec.msgpack.Decoder(_Change)


class Unconfirmed(OSError):
    """The store did not say whether it has a change: it may be made, at once or later, or never."""


class Catalog:
    """Any thread may call. What changes something raises OSError where it is not made, and Unconfirmed."""

    def __init__(self, store: ObjectStore, *, patience: float = PATIENCE) -> None:
        """Read what there is. Raises StoreCorrupt and OSError."""
        self._store = store
        self._patience = patience
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        numbers = repeated(
            lambda: {int(name.rpartition("/")[2]) for name, _ in store.list(PREFIX)}, patience=patience
        )
        end = max(numbers, default=0)
        missing = set(range(1, end + 1)) - numbers
        if missing:
            raise StoreCorrupt(
                f"the object {_name(min(missing))} is missing, and {_name(end)} is there: the catalog of the store is "
                "damaged; restore the object"
            )
        # What the last change with a whole list says is all there is to know of those before it.
        self._next = max(1, end - end % _WHOLE_EACH)
        self._catch_up()

    @property
    def entries(self) -> Entries:
        """What is known here. See `refresh`."""
        return MappingProxyType(self._entries)

    def refresh(self) -> Entries:
        """All changes that anybody has made before this was called. Costs a request and one for each change."""
        with self._lock:
            self._catch_up()
            return self.entries

    def create(self, token: str, path: str, description: bytes, *, check: Callable[[Entries], None]) -> None:
        """Add a collection under a new *token*. *check* raises where there cannot be one, given what there is."""
        with self._lock:
            while True:
                self._catch_up()
                check(self.entries)
                if self._write(token, Entry(path, description)):
                    return

    def delete(self, token: str) -> bool:
        """Mark a collection as deleted. False where it is already."""
        with self._lock:
            while True:
                self._catch_up()
                entry = self._entries.get(token)
                if entry is None or entry.deleted:
                    return False
                if self._write(token, msgspec.structs.replace(entry, deleted=True)):
                    return True

    def forget(self, token: str) -> None:
        """Note that nothing of a deleted collection is left."""
        with self._lock:
            while True:
                self._catch_up()
                if token not in self._entries or self._write(token, None):
                    return

    def _catch_up(self) -> None:
        while True:
            name = _name(self._next)
            try:
                data = repeated(lambda name=name: self._store.read(name), patience=self._patience)  # type: ignore[misc]
            except ObjectMissing:
                return
            self._apply(_decode(data, name))

    def _write(self, token: str, entry: Entry | None) -> bool:
        """Create a change at the next number. False where somebody else was first."""
        change = _Change(secrets.token_bytes(8), token, entry)
        if self._next % _WHOLE_EACH == 0:
            change = msgspec.structs.replace(change, whole=_after(self._entries, change))
        name, data = _name(self._next), _encode(change)
        perhaps_made = False

        def attempt() -> bool:
            nonlocal perhaps_made
            try:
                self._store.create(name, data)
            except ObjectExists:
                try:
                    return self._store.read(name) == data
                except ObjectMissing:
                    raise OSError(f"the store refused to make {name}, which is not there") from None
            except Refused:
                raise
            except OSError:
                perhaps_made = True
                raise
            return True

        try:
            ours = repeated(attempt, patience=self._patience)
        except OSError as error:
            if not perhaps_made:
                raise
            raise Unconfirmed(f"the store did not confirm {name}: {error}") from error
        if ours:
            self._apply(change)
        return ours

    def _apply(self, change: _Change) -> None:
        self._entries = _after(self._entries, change) if change.whole is None else change.whole
        self._next += 1


def _after(entries: Mapping[str, Entry], change: _Change) -> dict[str, Entry]:
    after = dict(entries)
    if change.entry is None:
        after.pop(change.token, None)
    else:
        after[change.token] = change.entry
    return after


def _encode(change: _Change) -> bytes:
    body = msgspec.msgpack.encode(change)
    return _MAGIC + _CRC.pack(google_crc32c.value(body)) + body


def _decode(data: bytes, name: str) -> _Change:
    start = len(_MAGIC) + _CRC.size
    body = data[start:]
    if data[:start] != _MAGIC + _CRC.pack(google_crc32c.value(body)):
        raise StoreCorrupt(
            f"the object {name} fails its checksum: the catalog of the store is damaged; restore it"
        )
    return _change.decode(body)


def _name(number: int) -> str:
    return f"{PREFIX}/{number:020d}"
