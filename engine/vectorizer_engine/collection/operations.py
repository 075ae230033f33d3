"""What a shard writes to its log, and the steps by which each write becomes visible.

Only two things are ever logged: points as they are from now on, and keys that are gone. A write that depends
on what is there (a payload change, a delete by filter) is turned into one of them when it is prepared, where
nothing else is written. So replaying a record twice is the same as once, and the order of the log is all that
recovery needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from vectorizer_engine.cache.memory_manager import Charge
from vectorizer_engine.index.base import Vectors

if TYPE_CHECKING:
    from vectorizer_engine.collection.view import Accepts, Place
    from vectorizer_engine.collection.write_path import WritePath
    from vectorizer_engine.storage.head import Head
    from vectorizer_engine.storage.segment import StoredPoint


class UpsertRecord(msgspec.Struct, frozen=True, array_like=True, tag="u"):
    """Points in full: `vectors` is float32 little-endian [n, d], a payload is JSON or empty."""

    keys: list[bytes]
    vectors: memoryview
    payloads: list[bytes]


class DeleteRecord(msgspec.Struct, frozen=True, array_like=True, tag="d"):
    keys: list[bytes]


LogRecord = UpsertRecord | DeleteRecord

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(LogRecord)


def decode_record(data: bytes) -> LogRecord:
    record: LogRecord = _decoder.decode(data)
    return record


class Upsert:
    """Insert or replace points. *charge* holds what the head needs for them."""

    reads = False

    def __init__(
        self,
        path: WritePath,
        keys: Sequence[bytes],
        vectors: Vectors,
        payloads: Sequence[bytes],
        charge: Charge,
    ) -> None:
        self.keys = keys
        self.vectors = vectors
        self.payloads = payloads
        self.charge = charge
        self.head: Head | None = None
        self._path = path

    @property
    def size(self) -> int:
        return self.vectors.nbytes + sum(map(len, self.payloads))

    def prepare(self) -> bytes | None:
        rows = self.vectors.reshape(-1).data.cast("B")
        record = _encoder.encode(UpsertRecord(list(self.keys), rows, list(self.payloads)))
        # The last thing that may fail: rows that stay staged would be taken for those of the next operation.
        self._stage()
        return record

    def apply(self, number: int) -> None:
        self._path.apply_upsert(self, number)

    def apply_again(self, number: int) -> None:
        """Carry out what is in the log already. Raises StorageFull, StorageFailure."""
        try:
            self._stage()
        except BaseException:
            self.abandon()
            raise
        self.apply(number)

    def _stage(self) -> None:
        self.head = self._path.stage(self.vectors, self.payloads)

    def abandon(self) -> None:
        if self.head is not None:
            self.head.unstage()
        self.charge.release()


class ChangePayload(Upsert):
    """Give points that exist another payload, and keep their vectors.

    Left out are keys that are gone and, where there is *accepts*, points that it does not take.
    """

    reads = True

    def __init__(
        self,
        path: WritePath,
        keys: Sequence[bytes],
        change: Callable[[bytes], bytes],
        charge: Charge,
        accepts: Accepts | None,
    ) -> None:
        super().__init__(path, keys, np.empty((0, 0), np.float32), (), charge)
        self._change = change
        self._accepts = accepts

    def prepare(self) -> bytes | None:
        keys: list[bytes] = []
        payloads: list[bytes] = []
        vectors: list[Vectors] = []
        for place, point in _accepted(self._path.find(self.keys), self._accepts):
            keys.append(point.key)
            payloads.append(self._change(point.payload))
            vectors.append(place.vector)
        if not keys:
            self.charge.release()
            return None
        self.keys, self.payloads, self.vectors = keys, payloads, np.stack(vectors)
        return super().prepare()


class Delete:
    """Remove points by key, those that *accepts* takes where it is given. Unknown keys are no error."""

    def __init__(self, path: WritePath, keys: Sequence[bytes], accepts: Accepts | None) -> None:
        self.keys = keys
        self.size = sum(map(len, keys))
        self.reads = accepts is not None
        self._accepts = accepts
        self._path = path

    def prepare(self) -> bytes | None:
        if self._accepts is not None:
            self.keys = [point.key for _, point in _accepted(self._path.find(self.keys), self._accepts)]
        return _encoder.encode(DeleteRecord(list(self.keys))) if self.keys else None

    def apply(self, number: int) -> None:
        self._path.apply_delete(self.keys, number)

    apply_again = apply

    def abandon(self) -> None:
        """Nothing was staged."""


def decode_operation(data: bytes, path: WritePath, admit: Callable[[int], Charge]) -> Upsert | Delete:
    """What was logged as *data*, to be applied again to *path*. *admit* reserves what so many points need in a head."""
    record = decode_record(data)
    if isinstance(record, DeleteRecord):
        return Delete(path, record.keys, None)
    vectors = np.frombuffer(record.vectors, np.float32).reshape(len(record.keys), -1)
    return Upsert(path, record.keys, vectors, record.payloads, admit(len(record.keys)))


def _accepted(places: Sequence[Place | None], accepts: Accepts | None) -> Iterator[tuple[Place, StoredPoint]]:
    """One at a time, since payloads may be long."""
    for place in places:
        if place is not None:
            point = place.point
            if accepts is None or accepts(point):
                yield place, point
