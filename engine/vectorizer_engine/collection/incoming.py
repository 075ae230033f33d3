"""Points and queries on their way in: checked against the collection, and as they are stored and compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vectorizer_engine.collection.payloads import encode_payload
from vectorizer_engine.collection.types import CollectionParams, Distance, PointId
from vectorizer_engine.errors import DimensionMismatch, InvalidRequest, InvalidVector
from vectorizer_engine.index.base import Vectors
from vectorizer_engine.storage.keys import encode_id

_PLAIN_SQUARES = (1e-20, 1e20)
"""Between these, a vector's squared length is exact enough to divide by it."""


class IncomingPoints(NamedTuple):
    """Points as they are stored, each key once. `vectors` is float32 [n, d] in C order, `payloads` JSON or empty."""

    keys: list[bytes]
    vectors: Vectors
    payloads: list[bytes]


def checked_points(
    collection: str,
    params: CollectionParams,
    ids: Sequence[PointId],
    vectors: Vectors,
    payloads: Sequence[Mapping[str, Any] | None],
) -> IncomingPoints:
    """Of an id that comes twice the last one wins.

    Raises InvalidRequest where there are not as many of each, DimensionMismatch, InvalidVector, InvalidPoint.
    """
    if not len(ids) == len(vectors) == len(payloads):
        raise InvalidRequest(
            f"{len(ids)} ids, {len(vectors)} vectors and {len(payloads)} payloads: expected as many of each"
        )
    keys = [encode_id(point) for point in ids]
    rows = checked_vectors(collection, params, vectors)
    texts = [encode_payload(payload) for payload in payloads]
    last = {key: row for row, key in enumerate(keys)}
    if len(last) < len(keys):
        kept = sorted(last.values())
        keys, texts, rows = [keys[row] for row in kept], [texts[row] for row in kept], rows[kept]
    return IncomingPoints(keys, rows, texts)


def checked_vectors(collection: str, params: CollectionParams, vectors: Vectors) -> Vectors:
    """*vectors* as they are stored and compared. Raises DimensionMismatch or InvalidVector."""
    if vectors.ndim != 2 or vectors.shape[1] != params.dimension:
        raise DimensionMismatch(
            collection=collection, expected=params.dimension, got=vectors.shape[-1] if vectors.ndim else 0
        )
    rows = np.ascontiguousarray(vectors, np.float32)
    if len(rows) == 1 and _PLAIN_SQUARES[0] < (square := float(np.vdot(rows, rows))) < _PLAIN_SQUARES[1]:
        # The same as below, in a quarter of the time: nearly every search has one query.
        return rows / np.float32(math.sqrt(square)) if params.distance is Distance.COSINE else rows
    squares = np.einsum("ij,ij->i", rows, rows)
    if _PLAIN_SQUARES[0] < squares.min(initial=1.0) and squares.max(initial=1.0) < _PLAIN_SQUARES[1]:
        # Nothing in them is NaN, infinite, or too large or small to be squared: nearly always so.
        return rows / np.sqrt(squares)[:, None] if params.distance is Distance.COSINE else rows
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise InvalidVector(
            f"vector {int(np.argmin(finite))} of the request holds NaN or a number beyond float32: "
            "expected finite numbers"
        )
    return _normalised(collection, rows) if params.distance is Distance.COSINE else rows


def _normalised(collection: str, rows: Vectors) -> Vectors:
    # By the largest value first, so that no square overflows or vanishes.
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
    if not largest.all():
        raise InvalidVector(
            f"vector {int(np.argmin(largest))} of the request is all zeros, which has no direction: collection "
            f"'{collection}' compares by cosine; leave the vector out or create the collection with Dot"
        )
    scaled: Vectors = rows / largest
    scaled /= np.linalg.norm(scaled, axis=1, keepdims=True)
    return scaled
