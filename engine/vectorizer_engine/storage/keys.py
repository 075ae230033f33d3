"""Point ids as bytes: how an id is written in the log and in segments, and how ids sort.

A key is one tag byte and the id in big-endian order, so that byte order is id order: all integers ascending,
then all UUIDs, which is the order in which Qdrant scrolls.
"""

from __future__ import annotations

import uuid

from vectorizer_engine.errors import InvalidPoint

PointId = int | uuid.UUID
"""An unsigned 64-bit integer or a UUID, as in Qdrant."""

_INTEGER = b"\x01"
_UUID = b"\x02"
_LARGEST = 2**64 - 1


def encode_id(point: PointId) -> bytes:
    """The key of *point*: 9 bytes for an integer, 17 for a UUID.

    Raises InvalidPoint for an integer that is negative or needs more than 64 bits.
    """
    if isinstance(point, uuid.UUID):
        return _UUID + point.bytes
    if not 0 <= point <= _LARGEST:
        raise InvalidPoint(f"point id {point} is out of range: use an integer from 0 to {_LARGEST} or a UUID")
    return _INTEGER + point.to_bytes(8, "big")


def decode_id(key: bytes) -> PointId:
    """The id that `encode_id` made *key* of."""
    return int.from_bytes(key[1:], "big") if key[:1] == _INTEGER else uuid.UUID(bytes=bytes(key[1:]))
