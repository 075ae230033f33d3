"""`.parquet`: a column `id`, a column `vector` (lists of floats); every other column is a key of the payload.

Needs pyarrow, which is not installed with the engine but with the extra `parquet`. A table cannot be read from
the middle, so an interrupted one is read again from its beginning.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from itertools import count
from typing import Any, BinaryIO

import numpy as np

from vectorizer_engine.collection.filters import parse_id
from vectorizer_engine.collection.types import CollectionParams, Payload, PointId
from vectorizer_engine.errors import InvalidRequest
from vectorizer_engine.ingest.batch import (
    BadRow,
    Batch,
    FileIncomplete,
    FileRefused,
    Progress,
    batch_points,
    checksums,
    wrong_dimension,
)

_MAGIC = b"PAR1"
_BUFFER_BYTES = 1024**2


def read_parquet(file: BinaryIO, since: Progress, params: CollectionParams) -> Iterator[Batch]:
    """See `ReadBatches`. A row in a message is counted from 0, as in the table."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise FileRefused(
            "needs pyarrow, which is not installed: pip install 'vectorizer-operator[parquet]', or write the "
            "points as .jsonl"
        ) from None
    size = os.fstat(file.fileno()).st_size
    if since.position == size > 0:
        return
    _check_ends(file, size)
    # Of the whole file and before it is read: whatever is written to it meanwhile makes it a changed one.
    nothing = np.empty((0, params.dimension), np.float32)
    crc = 0
    for crc in checksums(file, size):  # noqa: B007 - the last one is that of the whole file
        yield Batch([], [], nothing, [], [], Progress())  # the caller may want to stop before the end of it
    try:
        table = parquet.ParquetFile(file, buffer_size=_BUFFER_BYTES)
        _check_columns(table.schema_arrow)
        rows = 0
        for part in table.iter_batches(batch_points(params.dimension), use_threads=False):
            rows += part.num_rows
            yield _batch(part, rows - part.num_rows, params.dimension)
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # from the file itself: pyarrow's own have no number
        raise FileRefused(f"cannot be read as Parquet: {error}") from None
    yield Batch([], [], nothing, [], [], Progress(position=size, crc=crc, rows=rows))


def _check_ends(file: BinaryIO, size: int) -> None:
    file.seek(0)
    if not _MAGIC.startswith(file.read(len(_MAGIC))):
        raise FileRefused("is no Parquet file")
    file.seek(max(0, size - len(_MAGIC)))
    if size < 12 or file.read() != _MAGIC:
        raise FileIncomplete("its footer is missing")


def _check_columns(schema: Any) -> None:
    from pyarrow import types

    for column in ("id", "vector"):
        if schema.get_field_index(column) < 0:
            raise FileRefused(f"has the columns {', '.join(schema.names)}: expected one named {column}")
    vector = schema.field("vector").type
    is_list = types.is_list(vector) or types.is_large_list(vector) or types.is_fixed_size_list(vector)
    if not is_list or not types.is_floating(vector.value_type):
        raise FileRefused(f"has a column vector of type {vector}: expected lists of float or double")


def _batch(part: Any, first: int, dimension: int) -> Batch:
    from pyarrow import compute

    lengths = compute.list_value_length(part.column("vector")).to_pylist()
    bad: list[BadRow] = []
    ids: list[PointId] = []
    kept: list[int] = []
    for row, length, value in zip(count(), lengths, part.column("id").to_pylist()):
        try:
            point = value if isinstance(value, uuid.UUID) else parse_id(value, where="id")
        except InvalidRequest as error:
            bad.append(BadRow(first + row, str(error)))
            continue
        if length != dimension:
            reason = "has no vector" if length is None else wrong_dimension(dimension, length)
            bad.append(BadRow(first + row, reason))
            continue
        ids.append(point)
        kept.append(row)
    chosen = part.take(kept) if len(kept) < part.num_rows else part
    numbers = chosen.column("vector").flatten().to_numpy(zero_copy_only=False)  # a null becomes NaN: refused
    with np.errstate(over="ignore"):
        vectors = numbers.astype(np.float32).reshape(-1, dimension)
    others = [name for name in part.schema.names if name not in ("id", "vector")]
    payloads = [_payload(fields) for fields in chosen.select(others).to_pylist()]
    return Batch([first + row for row in kept], ids, vectors, payloads, bad, Progress())


def _payload(fields: dict[str, Any]) -> Payload | None:
    """A null is how a table says that there is no such key."""
    return {key: value for key, value in fields.items() if value is not None} or None
