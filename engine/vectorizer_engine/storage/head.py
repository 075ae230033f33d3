"""The head of a shard: the points that came last, and are only in the log and here.

Vectors and payloads lie in one unnamed scratch file: rows at fixed places, mapped for reading, payloads
behind them. It needs no fsync, because recovery fills it again from the log. On the heap are the ids alone.

Writing is in two steps, because what fails must fail before the log has the record: `stage` writes rows where
nobody looks yet and may fail for want of disk, `publish` makes them findable and cannot fail. One thread at a
time writes; any number read what was published before they began.
"""

from __future__ import annotations

import mmap
import os
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from vectorizer_engine.index.base import Vectors
from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.live import LiveMask
from vectorizer_engine.storage.segment import Stamp, StoredPoint

POINT_BYTES = 240
"""Heap bytes of one point at most: its key, its places in the lists and in the dictionary just after that has
grown, and the sort that sealing makes. Measured: 214 with UUIDs, and 18 that the allocator rounds up."""


class Head:
    """Up to *capacity* rows of *dimension* float32 values. A row is never overwritten once published."""

    def __init__(self, folder: Path, *, dimension: int, capacity: int, files: Files) -> None:
        """Raises OSError where *folder* takes no file."""
        self.capacity = capacity
        self.count = 0
        self.payload_bytes = 0
        self._staged = 0
        self._staged_payload_bytes = 0
        self._files = files
        self._row_bytes = 4 * dimension
        self._payloads_start = _whole_pages(capacity * self._row_bytes)
        self._descriptor = files.scratch(folder)
        try:
            files.truncate(self._descriptor, self._payloads_start)
            mapping = mmap.mmap(self._descriptor, self._payloads_start, prot=mmap.PROT_READ)
        except BaseException:
            os.close(self._descriptor)
            raise
        # Readers of an older view may still be here, so the file goes when the last of them has gone.
        weakref.finalize(self, os.close, self._descriptor)
        rows = np.frombuffer(mapping, np.float32, capacity * dimension)
        self._rows: Vectors = rows.reshape(capacity, dimension)
        self._keys: list[bytes] = []
        self._versions = array("Q")
        # Where each payload ends, counted from the first one's start.
        self._payload_ends = array("Q")
        self._offsets: dict[bytes, int] = {}

    @property
    def vectors(self) -> Vectors:
        """The published rows, float32 [count, d], mapped."""
        return self._rows[: self.count]

    @property
    def has_staged(self) -> bool:
        """Whether rows were staged that are not published yet."""
        return self._staged > 0

    def fits(self, points: int) -> bool:
        """Whether so many rows can be staged."""
        return self.count + self._staged + points <= self.capacity

    def stage(self, vectors: Vectors, payloads: Sequence[bytes]) -> None:
        """Write rows behind those that are published and staged. Raises OSError; then nothing is staged."""
        row = self.count + self._staged
        text = b"".join(payloads)
        position = self._payloads_start + self.payload_bytes + self._staged_payload_bytes
        self._files.write(self._descriptor, vectors.data, row * self._row_bytes)
        self._files.write(self._descriptor, text, position)
        self._staged += len(vectors)
        self._staged_payload_bytes += len(text)

    def unstage(self) -> None:
        """Forget what was staged and never published."""
        self._staged = 0
        self._staged_payload_bytes = 0

    def publish(self, keys: Sequence[bytes], payloads: Sequence[bytes], *, version: int) -> range:
        """Make the rows that were staged first findable by their keys. Returns their offsets."""
        offsets = range(self.count, self.count + len(keys))
        self._keys.extend(keys)
        for payload in payloads:
            self.payload_bytes += len(payload)
            self._staged_payload_bytes -= len(payload)
            self._payload_ends.append(self.payload_bytes)
        self._versions.extend([version] * len(keys))
        self._offsets.update(zip(keys, offsets, strict=True))
        self._staged -= len(keys)
        self.count += len(keys)
        return offsets

    def find(self, keys: Iterable[bytes]) -> list[int | None]:
        """The newest offset of each key, None for those that were never here."""
        return [self._offsets.get(key) for key in keys]

    def rows_of(self, keys: frozenset[bytes], rows: int) -> list[int]:
        """Which of the first *rows* have one of *keys*, overwritten ones included."""
        return [row for row, key in enumerate(self._keys[:rows]) if key in keys]

    def points(self, offsets: Iterable[int]) -> list[StoredPoint]:
        """The points at *offsets*, which must be published."""
        return [StoredPoint(self._keys[o], self._versions[o], self.payload(o)) for o in offsets]

    def stamps(self, offsets: Iterable[int]) -> list[Stamp]:
        """Keys and versions at *offsets*, which must be published."""
        return [Stamp(self._keys[o], self._versions[o]) for o in offsets]

    def payload_size(self, offset: int) -> int:
        """How long the payload at *offset* is."""
        return self._payload_ends[offset] - self._payload_start(offset)

    def payload(self, offset: int, start: int = 0, end: int | None = None) -> bytes:
        """The payload at *offset*, or its bytes from *start* to *end*."""
        size = self.payload_size(offset)
        size = (size if end is None else min(end, size)) - start
        position = self._payloads_start + self._payload_start(offset) + start
        return os.pread(self._descriptor, size, position) if size > 0 else b""

    def scan(self, live: LiveMask, start: bytes = b"") -> Iterator[tuple[int, StoredPoint]]:
        """Offset and point of every row in *live*, in key order, from the first key not below *start*."""
        for offset, _ in self.scan_keys(live, start):
            yield offset, self.points((offset,))[0]

    def scan_keys(self, live: LiveMask, start: bytes = b"") -> Iterator[tuple[int, bytes]]:
        """`scan` for those who need no payloads: offset and key."""
        offsets = [o for o in live.offsets().tolist() if self._keys[o] >= start]
        offsets.sort(key=self._keys.__getitem__)
        for offset in offsets:
            yield offset, self._keys[offset]

    def _payload_start(self, offset: int) -> int:
        return self._payload_ends[offset - 1] if offset else 0


def _whole_pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
