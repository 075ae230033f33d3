"""The manifest: which segments a shard consists of, and from which record on its log still counts.

It is replaced as a whole, in one step. What it does not name does not exist, whatever lies in the folder.

    "VZMANIF1" | CRC32C u32 (of the rest) | msgpack map
"""

from __future__ import annotations

import struct
from pathlib import Path

import google_crc32c
import msgspec

from vectorizer_engine.errors import StoreCorrupt
from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.payload_index import FieldType

MANIFEST_NAME = "MANIFEST"

_MAGIC = b"VZMANIF1"
_CHECKSUM = struct.Struct("<I")


class SegmentEntry(msgspec.Struct, frozen=True):
    """A sealed segment. `deleted` is a serialised roaring bitmap of the offsets that no longer count."""

    id: int
    points: int
    deleted: bytes


class QuarantinedSegment(msgspec.Struct, frozen=True):
    """A segment that was found damaged and moved aside, with the reason in words."""

    id: int
    points: int
    reason: str


class Manifest(msgspec.Struct, frozen=True):
    """`applied`: every record of the log up to this number is in the segments.

    `logged`: the log had reached this number when the manifest was written, so a log that ends before has
    lost records. `next_segment`: the id that the next segment gets. `payload_schema`: the fields of payloads that
    are indexed, by their paths.
    """

    applied: int = 0
    logged: int = 0
    next_segment: int = 1
    segments: tuple[SegmentEntry, ...] = ()
    quarantined: tuple[QuarantinedSegment, ...] = ()
    payload_schema: dict[str, FieldType] = {}


_manifest = msgspec.msgpack.Decoder(Manifest)


def write_manifest(folder: Path, manifest: Manifest, *, files: Files) -> None:
    """Make *manifest* the durable one of *folder*.

    Raises OSError. Then either of the two may be there: the disk may have failed after it was put in its place.
    """
    body = msgspec.msgpack.encode(manifest)
    files.replace_file(folder / MANIFEST_NAME, _MAGIC + _CHECKSUM.pack(google_crc32c.value(body)) + body)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of *folder*. Raises StoreCorrupt where it is missing or damaged."""
    path = folder / MANIFEST_NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise StoreCorrupt(f"{path} is missing: restore the collection from a snapshot") from None
    start = len(_MAGIC) + _CHECKSUM.size
    body = content[start:]
    if content[:start] != _MAGIC + _CHECKSUM.pack(google_crc32c.value(body)):
        raise StoreCorrupt(f"{path} fails its checksum: restore the collection from a snapshot")
    return _manifest.decode(body)
