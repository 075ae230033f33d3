"""The write-ahead log: a write is acknowledged when its record is here, and nowhere else before that.

`Log` is what a collection needs of one; `FileLog` keeps it in a folder of append-only files. What a record
means is not the log's affair, and neither is who waits for it (see `commit`).

A file is named by the number of its first record and holds frames:

    "VZLF" | length u32 | CRC32C u32 | first record's number u64 | msgpack array of records (bytes)

little-endian; the checksum covers all that follows it and the length.

A frame is what one `append` wrote and fsynced, so only the last frame of a log can be torn by a crash: any
valid frame behind a broken one proves that the broken one had once been on the disk. Then the log is corrupt
and is refused, never guessed.

So that the last frame has such a proof too, a frame without records is written behind each once its fsync has
succeeded. It is not fsynced itself, which would double the cost of a write: it is safe from a crash of the
process at once, from one of the machine when the kernel has written it back, or with the next append. Closing
the log writes one more, fsynced.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import google_crc32c
import msgspec

from vectorizer_engine.errors import StoreCorrupt
from vectorizer_engine.storage.files import Files

logger = logging.getLogger(__name__)

_MAGIC = b"VZLF"
_HEADER = struct.Struct("<4sIIQ")
_SUFFIX = ".log"

_records = msgspec.msgpack.Decoder(list[bytes])


class Record(NamedTuple):
    """An entry of the log: its number, counted from 1 without gaps, and what was appended."""

    number: int
    data: bytes


class InDoubt(OSError):
    """Nobody knows yet whether the records of an append are in the log. `first` is the first one's number, if they are.

    Nothing else is appended before `settle` has said whether they are. It is given the seconds for which what fails
    may be repeated (None: as the log likes), and raises OSError where it is still unknown then.
    """

    def __init__(self, message: str, *, first: int, settle: Callable[[float | None], bool]) -> None:
        super().__init__(message)
        self.first = first
        self.settle = settle


class Log(Protocol):
    """A durable sequence of records. One thread at a time may use it."""

    def append(self, records: Sequence[bytes]) -> int:
        """Make *records* durable, all or none, and return the number of the first of them.

        After an OSError none of them is in the log, and the next append may be tried. A log that cannot promise
        that raises InDoubt.
        """
        ...

    def replay(self, *, after: int) -> Iterator[Record]:
        """Every record with a number above *after*, in order. Raises StoreCorrupt."""
        ...

    def roll(self) -> None:
        """Note that what was appended so far may soon be forgotten together."""
        ...

    def forget(self, *, through: int) -> None:
        """Records up to number *through* are no longer needed. Some of them may be kept."""
        ...

    @property
    def next_number(self) -> int:
        """The number that the next record gets."""
        ...

    @property
    def crowded(self) -> bool:
        """Whether so many appends came since the last `roll` that replaying them one by one would take long."""
        ...

    def confirm(self, *, within: float) -> None:
        """Make sure that nobody else had written here as of *within* seconds ago. Any thread may call.

        Raises Fenced and OSError.
        """
        ...

    def close(self) -> None: ...


class FileLog:
    """A log in *folder*, which must exist. The records below *first* are no longer needed.

    Raises StoreCorrupt where a record from *first* on is damaged or missing.
    """

    def __init__(self, folder: Path, *, first: int, files: Files) -> None:
        self._folder = folder
        self._files = files
        self._starts: list[int] = []
        self._open: int | None = None
        self._size = 0
        self._next = first
        self._recover(first)

    @property
    def next_number(self) -> int:
        return self._next

    @property
    def crowded(self) -> bool:
        return False  # a file is read in one go, however many appends made it

    def append(self, records: Sequence[bytes]) -> int:
        first = self._next
        header, body = _encode_frame(first, records)
        descriptor = self._open_file()
        try:
            self._files.write(descriptor, header, self._size)
            self._files.write(descriptor, body, self._size + len(header))
            self._files.sync(descriptor)
        except OSError:
            self._undo_append(descriptor)
            raise
        self._size += len(header) + len(body)
        self._next += len(records)
        self._vouch(descriptor)
        return first

    def replay(self, *, after: int) -> Iterator[Record]:
        starts = list(self._starts)  # what was read may be forgotten meanwhile
        for index, start in enumerate(starts):
            end = starts[index + 1] if index + 1 < len(starts) else self._next
            if end <= after + 1:
                continue
            for frame in _frames(self._path(start)):
                for number, data in enumerate(frame.records, start=frame.first):
                    # A file that follows starts where appending to this one had failed.
                    if after < number < end:
                        yield Record(number, data)

    def roll(self) -> None:
        if self._open is not None:
            os.close(self._open)
            self._open = None

    def forget(self, *, through: int) -> None:
        if through + 1 == self._next:
            self.roll()  # nothing in the last file is needed either
        while self._starts:
            end = self._starts[1] if len(self._starts) > 1 else self._next
            if end > through + 1 or (len(self._starts) == 1 and self._open is not None):
                break
            path = self._path(self._starts.pop(0))
            try:
                self._files.remove(path)
            except OSError as error:
                logger.warning("%s is no longer needed, and stays until the next start: %s", path, str(error))

    def confirm(self, *, within: float) -> None:
        """Nothing: the data folder is locked."""

    def close(self) -> None:
        if self._open is not None:
            with contextlib.suppress(OSError):
                self._files.write(self._open, b"".join(_encode_frame(self._next, ())), self._size)
                self._files.sync(self._open)
            self.roll()

    def _path(self, start: int) -> Path:
        return self._folder / f"{start:020d}{_SUFFIX}"

    def _open_file(self) -> int:
        """The file that frames are appended to. A new one where there is none: a file is never reopened."""
        if self._open is None:
            descriptor = self._files.create(self._path(self._next))
            try:
                self._files.sync_folder(self._folder)
            except OSError:
                os.close(descriptor)
                raise
            self._open = descriptor
            self._size = 0
            if self._next not in self._starts:
                self._starts.append(self._next)
        return self._open

    def _vouch(self, descriptor: int) -> None:
        """Note behind a frame that it was on the disk. Not more than a note: it may fail."""
        proof = b"".join(_encode_frame(self._next, ()))
        with contextlib.suppress(OSError):
            self._files.write(descriptor, proof, self._size)
            self._size += len(proof)

    def _undo_append(self, descriptor: int) -> None:
        """Cut off what a failed append left, so that it is not read back as if it had been acknowledged.

        The file is given up either way: after a failed fsync the kernel no longer says what of it is on the
        disk. Frames go on in a new file, whose name says from which number on the old one does not count.
        """
        try:
            self._files.truncate(descriptor, self._size)
            self._files.sync(descriptor)
        except OSError as error:
            logger.warning("could not cut a failed append off %s: %s", self._path(self._starts[-1]), error)
        self.roll()

    def _recover(self, first: int) -> None:
        """Find the number that the next record gets. *first* is the least that may be missing here."""
        self._starts = sorted(int(path.stem) for path in self._folder.glob(f"*{_SUFFIX}"))
        while len(self._starts) > 1 and self._starts[1] <= first:
            # Forgotten before a crash, which may have brought back some of them and not others.
            self._files.remove(self._path(self._starts.pop(0)))
        if self._starts and self._starts[0] > first:
            raise StoreCorrupt(self._gap(self._starts[0], first))
        reached = self._starts[0] if self._starts else first
        for index, start in enumerate(self._starts):
            if start != reached:
                raise StoreCorrupt(self._gap(start, reached))
            following = self._starts[index + 1] if index + 1 < len(self._starts) else None
            for frame in _frames(self._path(start)):
                if following is not None and frame.first >= following:
                    break  # its append had failed, and the next file has taken its numbers
                if frame.first != reached:
                    raise StoreCorrupt(self._gap(frame.first, reached))
                reached += len(frame.records)
        self._next = max(reached, first)
        if reached <= first:
            self.forget(through=first - 1)

    def _gap(self, found: int, expected: int) -> str:
        return (
            f"the log in {self._folder} goes on with record {found}, expected {expected}: records between are "
            "missing; restore the collection from a snapshot"
        )


class _Frame(NamedTuple):
    first: int
    records: list[bytes]
    end: int


def _encode_frame(first: int, records: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Header and body, which may be long."""
    body = msgspec.msgpack.encode(records)
    return _HEADER.pack(_MAGIC, len(body), _checksum(first, body), first), body


def _checksum(first: int, body: bytes) -> int:
    checksum: int = google_crc32c.extend(google_crc32c.value(struct.pack("<IQ", len(body), first)), body)
    return checksum


def _frames(path: Path) -> Iterator[_Frame]:
    """The valid frames of a file up to its torn tail. Raises StoreCorrupt where valid ones follow damage."""
    with path.open("rb") as file:
        size = path.stat().st_size
        position = 0
        while position < size:
            frame = _frame_at(file.fileno(), position)
            if frame is None:
                _check_torn(path, file.fileno(), position)
                return
            if frame.records:
                yield frame
            position = frame.end


def _frame_at(descriptor: int, position: int) -> _Frame | None:
    head = os.pread(descriptor, _HEADER.size, position)
    if len(head) < _HEADER.size:
        return None
    magic, length, checksum, first = _HEADER.unpack(head)
    if magic != _MAGIC or position + _HEADER.size + length > os.fstat(descriptor).st_size:
        return None
    body = os.pread(descriptor, length, position + _HEADER.size)
    if _checksum(first, body) != checksum:
        return None
    return _Frame(first, _records.decode(body), position + _HEADER.size + length)


def _check_torn(path: Path, descriptor: int, position: int) -> None:
    """A broken frame is a torn tail only if no valid frame follows it."""
    with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as content:
        size = len(content)
        offset = content.find(_MAGIC, position + 1)
        while offset >= 0:
            if _frame_at(descriptor, offset) is not None:
                raise StoreCorrupt(
                    f"{path} is damaged at byte {position}: acknowledged records follow at byte {offset}, "
                    "so this is no torn tail; restore the collection from a snapshot"
                )
            offset = content.find(_MAGIC, offset + 1)
    logger.warning(
        "%s ends with %d bytes of something that was never acknowledged: they are ignored",
        path,
        size - position,
    )
