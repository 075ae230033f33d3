"""Object stores that behave as a real one may: one in memory, and one that fails, loses answers and is late."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path

from vectorizer_engine.storage.object_store import Listed, ObjectExists, ObjectMissing, ObjectStore


class MemoryStore:
    """The contract of `ObjectStore`, and nothing else."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def create(self, name: str, data: bytes) -> None:
        with self._lock:
            if name in self.objects:
                raise ObjectExists
            self.objects[name] = bytes(data)

    def upload(self, name: str, file: Path) -> None:
        self.objects[name] = file.read_bytes()

    def read(self, name: str) -> bytes:
        try:
            return self.objects[name]
        except KeyError:
            raise ObjectMissing(name) from None

    def read_range(self, name: str, start: int, length: int) -> bytes:
        return self.read(name)[start : start + length]

    def list(self, prefix: str, *, after: str = "") -> Iterator[Listed]:
        for name, data in list(self.objects.items()):
            if name.startswith(f"{prefix}/") and name > after:
                yield Listed(name, len(data))

    def delete(self, names: Sequence[str]) -> None:
        for name in names:
            self.objects.pop(name, None)


class Fault(StrEnum):
    """What becomes of one call."""

    NONE = "none"
    UNAVAILABLE = "unavailable"
    """500, 503, 429, a refused connection: nothing was done."""
    LOST_ANSWER = "lost answer"
    """Done, and the connection broke."""
    LATE = "late"
    """The caller gave up; it is done later, see `deliver`."""
    CONFLICT = "conflict"
    """A create is refused although nothing is there (S3's 409)."""


class FaultyStore:
    """*store* as one process sees it. `faults` are used up by the calls that follow, one each."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.faults: deque[Fault] = deque()
        self.calls: list[str] = []
        self._late: list[Callable[[], None]] = []

    def create(self, name: str, data: bytes) -> None:
        fault = self._next("create", name)
        if fault is Fault.CONFLICT:
            raise ObjectExists
        if fault is Fault.LATE:
            self._late.append(lambda: self.store.create(name, data))
            raise OSError("timed out")
        self.store.create(name, data)
        if fault is Fault.LOST_ANSWER:
            raise OSError("connection reset")

    def upload(self, name: str, file: Path) -> None:
        fault = self._next("upload", name)
        self.store.upload(name, file)
        if fault is not Fault.NONE:
            raise OSError("connection reset")

    def read(self, name: str) -> bytes:
        self._may_fail("read", name)
        return self.store.read(name)

    def read_range(self, name: str, start: int, length: int) -> bytes:
        self._may_fail("read", name)
        return self.store.read_range(name, start, length)

    def list(self, prefix: str, *, after: str = "") -> Iterator[Listed]:
        self._may_fail("list", prefix)
        return self.store.list(prefix, after=after)

    def delete(self, names: Sequence[str]) -> None:
        self._may_fail("delete", f"{len(names)} objects")
        self.store.delete(names)

    def deliver(self) -> None:
        """Do what was late."""
        late, self._late = self._late, []
        for create in late:
            with contextlib.suppress(ObjectExists):
                create()

    def _may_fail(self, call: str, what: str) -> None:
        if self._next(call, what) is not Fault.NONE:
            raise OSError("service unavailable")

    def _next(self, call: str, what: str) -> Fault:
        self.calls.append(f"{call} {what}")
        fault = self.faults.popleft() if self.faults else Fault.NONE
        if fault is Fault.UNAVAILABLE:
            raise OSError("service unavailable")
        return fault
