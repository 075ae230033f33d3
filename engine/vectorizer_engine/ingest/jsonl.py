"""`.jsonl`: a point a line, {"id": …, "vector": […], "payload": {…}}, read while it is still being written.

A line counts once its newline is there. The last line may lack one: as an object is no JSON before its closing
brace, it counts as soon as it can be parsed. What is appended later is read from there on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, BinaryIO

import google_crc32c
import msgspec
import numpy as np

from vectorizer_engine.collection.filters import parse_id
from vectorizer_engine.collection.types import CollectionParams, Payload, PointId
from vectorizer_engine.errors import InvalidRequest
from vectorizer_engine.ingest.batch import (
    BATCH_BYTES,
    BadRow,
    Batch,
    FileIncomplete,
    Progress,
    batch_points,
    wrong_dimension,
)

MAX_LINE_BYTES = 32 * 1024**2
"""As the largest request: a longer line is skipped."""


class _Line(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    id: int | str
    vector: list[float]
    payload: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(_Line).decode
_decode_any = msgspec.json.Decoder().decode


def read_jsonl(file: BinaryIO, since: Progress, params: CollectionParams) -> Iterator[Batch]:
    """See `ReadBatches`. Reads to where the file ends now, and not what is appended meanwhile."""
    end = os.fstat(file.fileno()).st_size
    file.seek(since.position)
    lines = _Lines(file, since)
    line: bytes | None = b"\n"
    while line is not None and lines.progress.position < end:
        rows = _Rows(params.dimension)
        while not rows.full and lines.progress.position < end and (line := lines.take()) is not None:
            rows.add(line, lines.progress.rows)
        yield rows.batch(lines.progress)
    if lines.torn:
        raise FileIncomplete(f"line {lines.progress.rows + 1} has no end")


class _Lines:
    """Takes whole lines off a file. `progress` is behind the last one taken."""

    def __init__(self, file: BinaryIO, since: Progress) -> None:
        self._file = file
        self.progress = since
        self.torn = False

    def take(self) -> bytes | None:
        """The next line, b"" for one that is too long, or None where it is not whole (`torn`) or the file ends."""
        line = self._file.readline(MAX_LINE_BYTES)
        if line.endswith(b"\n"):
            self._taken(line)
            return line
        if len(line) == MAX_LINE_BYTES:
            return self._take_long(line)
        self.torn = bool(line) and not _is_json(line)
        if self.torn or not line:
            return None
        self._taken(line)
        return line

    def _take_long(self, line: bytes) -> bytes | None:
        """Step over the rest of a line that is not read into memory as a whole."""
        position, crc = self.progress.position, self.progress.crc
        while line:
            position += len(line)
            crc = google_crc32c.extend(crc, line)
            if line.endswith(b"\n"):
                self.progress = Progress(position=position, crc=crc, rows=self.progress.rows + 1)
                return b""
            line = self._file.readline(MAX_LINE_BYTES)
        self.torn = True
        return None

    def _taken(self, line: bytes) -> None:
        self.progress = Progress(
            position=self.progress.position + len(line),
            crc=google_crc32c.extend(self.progress.crc, line),
            rows=self.progress.rows + 1,
        )


class _Rows:
    """A batch in the making."""

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self._vectors = np.empty((batch_points(dimension), dimension), np.float32)
        self._numbers: list[int] = []
        self._ids: list[PointId] = []
        self._payloads: list[Payload | None] = []
        self._bad: list[BadRow] = []
        self._bytes = 0

    @property
    def full(self) -> bool:
        return len(self._ids) == len(self._vectors) or self._bytes >= BATCH_BYTES

    def add(self, line: bytes, number: int) -> None:
        self._bytes += len(line)
        if line.isspace():
            return
        if not line:
            self._bad.append(BadRow(number, f"is longer than {MAX_LINE_BYTES} bytes"))
            return
        try:
            point = _decode(line)
            point_id = parse_id(point.id, where="id")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InvalidRequest) as error:
            self._bad.append(BadRow(number, str(error)))
            return
        if len(point.vector) != self._dimension:
            self._bad.append(BadRow(number, wrong_dimension(self._dimension, len(point.vector))))
            return
        with np.errstate(
            over="ignore"
        ):  # what float32 cannot hold becomes infinite, which the collection refuses
            self._vectors[len(self._ids)] = point.vector
        self._numbers.append(number)
        self._ids.append(point_id)
        self._payloads.append(point.payload)

    def batch(self, progress: Progress) -> Batch:
        vectors = self._vectors[: len(self._ids)]
        return Batch(self._numbers, self._ids, vectors, self._payloads, self._bad, progress)


def _is_json(line: bytes) -> bool:
    try:
        _decode_any(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
