"""`.npy`: an array of floats [n, dimension]. A row's number, from 0, is its point's id; points have no payload."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import google_crc32c
import numpy as np

from vectorizer_engine.collection.types import CollectionParams
from vectorizer_engine.ingest.batch import (
    Batch,
    FileIncomplete,
    FileRefused,
    Progress,
    batch_points,
    wrong_dimension,
)

_MAGIC = b"\x93NUMPY"
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_FLOATS = (2, 4, 8)
"""Bytes of a number: float16, float32, float64."""


def read_npy(file: BinaryIO, since: Progress, params: CollectionParams) -> Iterator[Batch]:
    """See `ReadBatches`. Nothing is mapped: a file that somebody cuts short must not end the engine."""
    array = _header(file)
    _check(array, params.dimension, os.fstat(file.fileno()).st_size)
    if since.position == 0:
        file.seek(0)
        since = Progress(position=array.start, crc=google_crc32c.value(file.read(array.start)))
    row_bytes = params.dimension * array.dtype.itemsize
    while since.rows < array.rows:
        rows = min(batch_points(params.dimension), array.rows - since.rows)
        file.seek(since.position)
        data = file.read(rows * row_bytes)
        if len(data) < rows * row_bytes:
            raise FileIncomplete(f"it ended at row {since.rows + len(data) // row_bytes} while it was read")
        numbers = list(range(since.rows, since.rows + rows))
        since = Progress(
            position=since.position + len(data),
            crc=google_crc32c.extend(since.crc, data),
            rows=since.rows + rows,
        )
        with np.errstate(
            over="ignore"
        ):  # what float32 cannot hold becomes infinite, which the collection refuses
            vectors = np.frombuffer(data, array.dtype).reshape(rows, -1).astype(np.float32)
        yield Batch(numbers, [*numbers], vectors, [None] * rows, [], since)


class _Array(NamedTuple):
    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype[np.generic]
    start: int

    @property
    def rows(self) -> int:
        return self.shape[0]


def _header(file: BinaryIO) -> _Array:
    file.seek(0)
    magic = file.read(len(_MAGIC))
    if not _MAGIC.startswith(magic):
        raise FileRefused("is no .npy file: write it with numpy.save")
    file.seek(0)
    try:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise FileRefused(f"has .npy format {version[0]}.{version[1]}: write it with numpy.save")
        shape, by_columns, dtype = _HEADERS[version](file)
    except ValueError as error:
        if str(error).startswith("EOF"):
            raise FileIncomplete("its header has no end") from None
        raise FileRefused(f"has a header that cannot be read ({error}): write it with numpy.save") from None
    return _Array(shape, by_columns, dtype, file.tell())


def _check(array: _Array, dimension: int, size: int) -> None:
    if array.dtype.kind != "f" or array.dtype.itemsize not in _FLOATS:
        raise FileRefused(f"holds {array.dtype} numbers: expected float32, float16 or float64")
    if len(array.shape) != 2:
        raise FileRefused(
            f"holds an array of shape {array.shape}: expected two axes, points and {dimension} numbers"
        )
    if array.shape[1] != dimension:
        raise FileRefused(wrong_dimension(dimension, array.shape[1]))
    if array.by_columns and array.rows > 1:
        raise FileRefused("holds its array by columns: save numpy.ascontiguousarray of it")
    expected = array.start + array.rows * dimension * array.dtype.itemsize
    if size < expected:
        raise FileIncomplete(f"it has {size} of the {expected} bytes that its header promises")
    if size > expected:
        raise FileRefused(f"has {size} bytes, and its header promises {expected}: save one array in a file")
