"""A file of named sections that is written once, front to back, and then only mapped.

    8 bytes   "VZSECTN1"
    sections  each begins at a multiple of 8
    footer    msgpack: {meta, sections: {name: [position, size]}, crc32c of everything before the footer}
    tail      footer's size u32, footer's CRC32C u32, "VZSECTN1"

What the sections mean is for whoever writes and reads them. Files are derived data: one that is damaged is removed
and made again.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import google_crc32c
import msgspec

from vectorizer_engine.errors import StoreCorrupt
from vectorizer_engine.storage.files import Files

_MAGIC = b"VZSECTN1"
_TAIL = struct.Struct("<II8s")
_ALIGNMENT = 8
_PIECE_BYTES = 128 * 1024
"""What is written or checked at once."""


class _Footer(msgspec.Struct, frozen=True):
    meta: dict[str, Any]
    sections: dict[str, tuple[int, int]]
    crc32c: int


_footer = msgspec.msgpack.Decoder(_Footer)


class SectionWriter:
    """Writes one file, as a context manager. It is whole, and durable, only after `finish`. Raises OSError."""

    def __init__(self, path: Path, *, files: Files) -> None:
        self._files = files
        self._descriptor = files.create(path)
        self._sections: dict[str, tuple[int, int]] = {}
        self._begun: tuple[str, int] | None = None
        self._position = 0
        self._crc = 0
        self._buffer = bytearray()
        self.write(_MAGIC)

    def __enter__(self) -> SectionWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def begin(self, name: str) -> None:
        """What is written from now on is the section *name*."""
        self._end()
        self.write(b"\0" * (-self._position % _ALIGNMENT))
        self._begun = (name, self._position)

    def write(self, data: bytes | memoryview) -> None:
        for start in range(0, len(data), _PIECE_BYTES):
            piece = data[start : start + _PIECE_BYTES]
            self._position += len(piece)
            self._buffer += piece
            if len(self._buffer) >= _PIECE_BYTES:
                self._flush()

    def finish(self, meta: Mapping[str, Any]) -> None:
        """Write *meta*, which msgpack must be able to hold, and wait until the file's content is on the disk."""
        self._end()
        self._flush()
        footer = msgspec.msgpack.encode(_Footer(dict(meta), self._sections, self._crc))
        self.write(footer)
        self.write(_TAIL.pack(len(footer), google_crc32c.value(footer), _MAGIC))
        self._flush()
        self._files.sync(self._descriptor)

    def _end(self) -> None:
        if self._begun is not None:
            name, start = self._begun
            self._sections[name] = (start, self._position - start)
            self._begun = None

    def _flush(self) -> None:
        self._files.write(self._descriptor, bytes(self._buffer), self._position - len(self._buffer))
        self._crc = google_crc32c.extend(self._crc, bytes(self._buffer))
        self._buffer.clear()


class SectionFile:
    """A file of sections, mapped. Any number of threads may read."""

    def __init__(self, path: Path) -> None:
        """Map *path*, after reading and checking every byte of it. Raises StoreCorrupt."""
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size < len(_MAGIC) + _TAIL.size:
                    raise StoreCorrupt(f"{path} is shorter than its header: {REBUILT}")
                self._view = memoryview(mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ))
        except OSError as error:
            raise StoreCorrupt(f"{path} cannot be read: {error.strerror or error}: {REBUILT}") from error
        footer = self._checked_footer(path)
        self.meta = footer.meta
        self._sections = footer.sections

    def __getitem__(self, name: str) -> memoryview:
        position, size = self._sections[name]
        return self._view[position : position + size]

    def _checked_footer(self, path: Path) -> _Footer:
        view = self._view
        length, checksum, magic = _TAIL.unpack(view[-_TAIL.size :])
        end = len(view) - _TAIL.size - length
        if magic != _MAGIC or view[: len(_MAGIC)] != _MAGIC or end < len(_MAGIC):
            raise StoreCorrupt(f"{path} is not a whole file of sections: {REBUILT}")
        encoded = bytes(view[end : end + length])
        if google_crc32c.value(encoded) != checksum:
            raise StoreCorrupt(f"{path} fails the checksum of its footer: {REBUILT}")
        footer = _footer.decode(encoded)
        crc = 0
        for start in range(0, end, _PIECE_BYTES):
            crc = google_crc32c.extend(crc, bytes(view[start : min(start + _PIECE_BYTES, end)]))
        if crc != footer.crc32c:
            raise StoreCorrupt(
                f"{path} fails its checksum: expected CRC32C {footer.crc32c:08x}, found {crc:08x}: {REBUILT}"
            )
        return footer


REBUILT = "it is removed at the next start and built again"
