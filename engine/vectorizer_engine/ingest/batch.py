"""What every format of points is read into, and the two ways in which a file may not be readable.

A batch is bounded in points and in bytes, so a file of any size is loaded in the same memory. Whether a vector
or an id can be stored is the collection's to say; a format refuses only what it cannot read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple, Protocol

import google_crc32c
import msgspec

from vectorizer_engine.collection.types import CollectionParams, Payload, PointId
from vectorizer_engine.errors import EngineError
from vectorizer_engine.index.base import Vectors

BATCH_POINTS = 1_000
BATCH_BYTES = 4 * 1024**2
"""A batch ends at so many points, or at so many bytes of vectors or of text, whichever comes first."""

_CHUNK = 1024**2


class FileIncomplete(EngineError):
    """The file's end is missing: probably somebody is still writing it."""


class FileRefused(EngineError):
    """Nothing of the file can be loaded until it changes."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a file was loaded: its first *position* bytes, which have CRC32C *crc* and hold *rows* rows.

    A row is a line, empty and skipped ones included, or a row of an array or table.
    """

    position: int = 0
    crc: int = 0
    rows: int = 0


class BadRow(NamedTuple):
    """A row that cannot be loaded, counted from the format's first, and why."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Points in the file's order. *numbers* are their rows, *vectors* float32 of shape [n, dimension].

    *progress* is where the file is loaded up to once this batch is.
    """

    numbers: list[int]
    ids: list[PointId]
    vectors: Vectors
    payloads: list[Payload | None]
    bad_rows: list[BadRow]
    progress: Progress

    def halves(self) -> tuple[Batch, Batch]:
        """Both halves of the points, without the bad rows, which are told once."""
        middle = len(self.ids) // 2
        return self._part(slice(None, middle)), self._part(slice(middle, None))

    def _part(self, rows: slice) -> Batch:
        return Batch(
            self.numbers[rows], self.ids[rows], self.vectors[rows], self.payloads[rows], [], self.progress
        )


class ReadBatches(Protocol):
    """How a format is read: *file*, from *since* on, for a collection of these *params*.

    Raises FileRefused at once, or FileIncomplete after the batches before the missing part.
    """

    def __call__(self, file: BinaryIO, since: Progress, params: CollectionParams) -> Iterator[Batch]: ...


def batch_points(dimension: int) -> int:
    """How many points of *dimension* a batch holds at most."""
    return max(1, min(BATCH_POINTS, BATCH_BYTES // (4 * dimension)))


def wrong_dimension(expected: int, got: int) -> str:
    return f"has a vector of dimension {got}, and the collection's have {expected}"


def checksums(file: BinaryIO, length: int) -> Iterator[int]:
    """CRC32C of the first bytes of *file*, growing a megabyte at a time up to *length* or the file's end."""
    file.seek(0)
    crc = 0
    while length > 0 and (chunk := file.read(min(length, _CHUNK))):
        crc = google_crc32c.extend(crc, chunk)
        length -= len(chunk)
        yield crc
