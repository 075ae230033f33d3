"""The objects of a shared log, as bytes. What they mean is told by docs/specs/SHARED_STORE.md.

    "VZOL" | CRC32C u32 of all that follows | kind u8 | number u64 | first record u64 | records u32
           | last checkpoint u64 | writer 16 bytes | body

little-endian. The body is a msgpack array of records, or a msgpack map of a checkpoint, or nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import google_crc32c
import msgspec

from vectorizer_engine.errors import StoreCorrupt

_MAGIC = b"VZOL"
_CRC = struct.Struct("<I")
_HEADER = struct.Struct("<BQQIQ16s")
_START = len(_MAGIC) + _CRC.size
_BODY = _START + _HEADER.size

_records = msgspec.msgpack.Decoder(list[bytes])


class Kind(IntEnum):
    RECORDS = 1
    CLAIM = 2
    CHECKPOINT = 3
    VOID = 4


@dataclass(frozen=True, slots=True)
class Frame:
    """One object of a log. `first`: the number of its first record, or that the next one will have."""

    kind: Kind
    number: int
    first: int
    count: int
    checkpoint: int
    writer: bytes
    body: bytes

    @property
    def next_record(self) -> int:
        return self.first + self.count

    @property
    def newest_checkpoint(self) -> int:
        """The number of the last checkpoint up to this frame; 0 where there was none."""
        return self.number if self.kind is Kind.CHECKPOINT else self.checkpoint

    def records(self) -> list[bytes]:
        return _records.decode(self.body) if self.kind is Kind.RECORDS else []


class Checkpoint(msgspec.Struct, frozen=True):
    """`applied`: records up to this one are in `state`. `start`: the first frame that is still needed.

    `claims`: the numbers of the claims below `start`, which are never deleted.
    """

    applied: int
    start: int
    claims: tuple[int, ...]
    state: bytes


_checkpoint = msgspec.msgpack.Decoder(Checkpoint)

NO_CHECKPOINT = Checkpoint(0, 1, (), b"")
"""In the place of the last one, where there was none yet."""


def encode_frame(frame: Frame) -> bytes:
    header = _HEADER.pack(frame.kind, frame.number, frame.first, frame.count, frame.checkpoint, frame.writer)
    checksum = google_crc32c.extend(google_crc32c.value(header), frame.body)
    return b"".join((_MAGIC, _CRC.pack(checksum), header, frame.body))


def decode_frame(data: bytes, *, name: str, number: int) -> Frame:
    """The frame that the object *name* holds. Raises StoreCorrupt where it is not as it was written."""
    if len(data) < _BODY or data[: len(_MAGIC)] != _MAGIC:
        raise StoreCorrupt(f"the object {name} is no frame of a log: restore the collection from a snapshot")
    if _CRC.unpack_from(data, len(_MAGIC))[0] != google_crc32c.value(data[_START:]):
        raise StoreCorrupt(f"the object {name} fails its checksum: restore the collection from a snapshot")
    kind, found, first, count, checkpoint, writer = _HEADER.unpack_from(data, _START)
    if found != number:
        raise StoreCorrupt(
            f"the object {name} holds frame {found}, expected {number}: objects were renamed or copied; restore "
            "the collection from a snapshot"
        )
    return Frame(Kind(kind), number, first, count, checkpoint, writer, data[_BODY:])


def encode_records(records: Sequence[bytes]) -> bytes:
    return msgspec.msgpack.encode(records)


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    return msgspec.msgpack.encode(checkpoint)


def decode_checkpoint(frame: Frame) -> Checkpoint:
    return _checkpoint.decode(frame.body)
