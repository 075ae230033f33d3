"""A shared store whose calls are counted: requests to it cost money."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from vectorizer_engine.storage.object_store import Listed, ObjectStore

ObserveCall = Callable[[str, int, int], None]
"""Told of each call: its kind, the bytes that were sent, and those that came. Kinds are those of `CALLS`."""

CALLS = ("create", "upload", "read", "list", "delete")


class CountedStore:
    """Does what *store* does, and says so to *observe*, also of calls that failed. See `ObjectStore`."""

    def __init__(self, store: ObjectStore, observe: ObserveCall) -> None:
        self._store = store
        self._observe = observe

    def create(self, name: str, data: bytes) -> None:
        self._observe("create", len(data), 0)
        self._store.create(name, data)

    def upload(self, name: str, file: Path) -> None:
        self._observe("upload", file.stat().st_size, 0)
        self._store.upload(name, file)

    def read(self, name: str) -> bytes:
        data = b""
        try:
            data = self._store.read(name)
        finally:
            self._observe("read", 0, len(data))
        return data

    def read_range(self, name: str, start: int, length: int) -> bytes:
        self._observe("read", 0, length)
        return self._store.read_range(name, start, length)

    def list(self, prefix: str, *, after: str = "") -> Iterator[Listed]:
        self._observe("list", 0, 0)
        return self._store.list(prefix, after=after)

    def delete(self, names: Sequence[str]) -> None:
        self._observe("delete", 0, 0)
        self._store.delete(names)
