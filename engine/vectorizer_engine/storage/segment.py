"""A sealed segment: points that never change, in files that are never written again.

    vectors.f32   one page of header, then float32 rows; memory-mapped
    points.lmdb   `points`: offset u32 -> version u64, key, payload; `ids`: key -> offset u32 (little-endian)
    CHECKSUMS     size and CRC32C of each file above, itself checksummed

A point's place in the segment is its offset; offsets are in key order (see `keys`), so both tables are
written in their own order and a scroll reads forwards. Which offsets still count is not known here: the
manifest keeps it, and the shard.

Reading copies what it returns, and nothing is cached on the heap: the kernel keeps the pages that are used. In memory
storage, which a cluster does not have, the vectors are read to the heap once, when the segment is opened.
"""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import struct
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import google_crc32c
import lmdb
import msgspec
import numpy as np

from vectorizer_engine._native import Points
from vectorizer_engine.config import StorageType
from vectorizer_engine.errors import StoreCorrupt
from vectorizer_engine.index.base import ApproximateIndex, Offsets, Vectors
from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.live import LiveMask
from vectorizer_engine.storage.payload_index import FieldIndex

VECTORS_NAME = "vectors.f32"
POINTS_NAME = "points.lmdb"
CHECKSUMS_NAME = "CHECKSUMS"

_FORMAT = 1
_PAGE = 4096
_HEADER = struct.Struct("<8sIIQ")
_MAGIC = b"VZVECF32"
_CRC = struct.Struct("<I")
_OFFSET = struct.Struct("<I")
_VERSION = struct.Struct("<Q")
_READ_BYTES = 1024**2
_BATCH = 1024
_WINDOW = 16 * _BATCH
_BATCH_PAYLOAD_BYTES = 1024**2
_KEY_BYTES = {1: 9, 2: 17}
_STAMPS = {kind: struct.Struct(f"<Q{size}s").unpack_from for kind, size in _KEY_BYTES.items()}


class Stamp(NamedTuple):
    """Which point a row is, and the operation that last changed it."""

    key: bytes
    version: int


class StoredPoint(NamedTuple):
    """A point without its vector. `payload` is JSON; empty where there is none."""

    key: bytes
    version: int
    payload: bytes


class FileChecksum(msgspec.Struct, frozen=True, array_like=True):
    size: int
    crc32c: int


_checksums = msgspec.msgpack.Decoder(dict[str, FileChecksum])


def encode_point(point: StoredPoint) -> bytes:
    return _VERSION.pack(point.version) + point.key + point.payload


def decode_stamp(value: memoryview) -> Stamp:
    version, key = _STAMPS[value[_VERSION.size]](value)
    return Stamp(key, version)


def decode_point(value: memoryview) -> StoredPoint:
    return StoredPoint(*decode_stamp(value), bytes(value[_payload_start(value) :]))


def _payload_start(value: memoryview) -> int:
    return _VERSION.size + _KEY_BYTES[value[_VERSION.size]]


def write_segment(
    folder: Path, batches: Iterable[tuple[Sequence[StoredPoint], Vectors]], *, dimension: int, files: Files
) -> int:
    """Write *batches* of points, in key order and each key once, as a durable segment in the new *folder*.

    Returns how many points there are. Raises OSError; what it left then is for the caller to remove.
    """
    files.make_folder(folder, parents=False)  # the collection may be deleted meanwhile
    vectors = files.create(folder / VECTORS_NAME)
    try:
        with _lmdb_errors(folder / POINTS_NAME):
            count = _write_rows(folder, vectors, batches, files)
        files.write(vectors, _vectors_header(dimension, count), 0)
        files.sync(vectors)
    finally:
        os.close(vectors)
    files.sync_file(folder / POINTS_NAME)
    write_checksums(folder, (VECTORS_NAME, POINTS_NAME), files=files)
    files.sync_folder(folder.parent)
    return count


@contextmanager
def _lmdb_errors(path: Path) -> Iterator[None]:
    """Let LMDB fail as other files do."""
    try:
        yield
    except (lmdb.CorruptedError, lmdb.InvalidError, lmdb.NotFoundError) as error:
        raise StoreCorrupt(f"{path} cannot be read: {error}") from error
    except lmdb.DiskError as error:
        raise OSError(errno.ENOSPC, str(error)) from error
    except lmdb.Error as error:
        raise OSError(errno.EIO, str(error)) from error


def _write_rows(
    folder: Path, vectors: int, batches: Iterable[tuple[Sequence[StoredPoint], Vectors]], files: Files
) -> int:
    position = _PAGE
    count = 0
    # The map is address space, not memory or disk: the file grows as it is filled.
    environment = lmdb.open(
        str(folder / POINTS_NAME), map_size=2**40, subdir=False, lock=False, sync=False, max_dbs=2
    )
    try:
        points = environment.open_db(b"points", integerkey=True)
        ids = environment.open_db(b"ids")
        for batch, rows in batches:
            files.write(vectors, np.ascontiguousarray(rows, np.float32).data, position)
            position += rows.nbytes
            # Short transactions: LMDB keeps what a transaction has written on the heap.
            with environment.begin(write=True) as transaction:
                for offset, point in enumerate(batch, start=count):
                    number = _OFFSET.pack(offset)
                    transaction.put(number, encode_point(point), db=points, append=True)
                    transaction.put(point.key, number, db=ids, append=True)
            count += len(batch)
        environment.sync(True)
    finally:
        environment.close()
    return count


def _vectors_header(dimension: int, count: int) -> bytes:
    head = _HEADER.pack(_MAGIC, _FORMAT, dimension, count)
    return (head + _CRC.pack(google_crc32c.value(head))).ljust(_PAGE, b"\0")


def write_checksums(folder: Path, names: Sequence[str], *, files: Files) -> None:
    body = msgspec.msgpack.encode({name: checksum_of(folder / name) for name in names})
    files.replace_file(folder / CHECKSUMS_NAME, _CRC.pack(google_crc32c.value(body)) + body)


def checksum_of(path: Path) -> FileChecksum:
    """Size and CRC32C of a file, read in bounded pieces."""
    crc = 0
    size = 0
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_READ_BYTES):
            crc = google_crc32c.extend(crc, piece)
            size += len(piece)
    return FileChecksum(size, crc)


def verify_segment(folder: Path) -> None:
    """Read every byte of a segment. Raises StoreCorrupt that names the file that is not as it was written."""
    path = folder / CHECKSUMS_NAME
    try:
        content = path.read_bytes()
        body = content[_CRC.size :]
        if content[: _CRC.size] != _CRC.pack(google_crc32c.value(body)):
            raise StoreCorrupt(f"{path} fails its checksum")
        for name, expected in _checksums.decode(body).items():
            path = folder / name
            found = checksum_of(path)
            if found != expected:
                raise StoreCorrupt(
                    f"{path} fails its checksum: expected {expected.size} bytes with CRC32C "
                    f"{expected.crc32c:08x}, found {found.size} bytes with {found.crc32c:08x}"
                )
    except FileNotFoundError:
        raise StoreCorrupt(f"{path} is missing") from None
    except OSError as error:
        if error.errno != errno.EIO:
            raise  # too many open files, say: nothing is wrong with the segment
        raise StoreCorrupt(f"{path} cannot be read: {error.strerror}") from error


class Segment:
    """A sealed segment, open for reading. Any number of threads may read at once.

    The files are let go when the last reader has gone.
    """

    def __init__(
        self, folder: Path, *, id: int, dimension: int, storage: StorageType = StorageType.MMAP
    ) -> None:
        """Open the segment in *folder*. Raises StoreCorrupt where its files do not fit together, and OSError.

        The content is not read: see `verify_segment`.
        """
        self.folder = folder
        self.id = id
        self.index: ApproximateIndex | None = None
        """Set once it is built. What is read before that is searched exactly."""
        self.fields: Mapping[tuple[str | int | None, ...], FieldIndex] = {}
        """The indexes of payload fields, by the steps of their paths. Replaced as a whole."""
        self.vectors = _open_vectors(folder / VECTORS_NAME, dimension, storage)
        self.count = len(self.vectors)
        self.heap_bytes = self.vectors.nbytes if storage is StorageType.MEMORY else 0
        """What memory storage keeps of it outside of the cache limit."""
        path = folder / POINTS_NAME
        with _lmdb_errors(path):
            self._environment = _open_environment(path)
            self._points = self._environment.open_db(b"points", integerkey=True, create=False)
            self._ids = self._environment.open_db(b"ids", create=False)
            with self._environment.begin() as transaction:
                entries = transaction.stat(self._points)["entries"]
        if entries != self.count:
            raise StoreCorrupt(f"{path} holds {entries} points, but {VECTORS_NAME} holds {self.count}")
        self._native = _open_points(path)

    def find(self, keys: Iterable[bytes]) -> list[int | None]:
        """The offset of each key, None for those that are not here."""
        with self._environment.begin(db=self._ids) as transaction:
            values = [transaction.get(key) for key in keys]
        return [None if value is None else _OFFSET.unpack(value)[0] for value in values]

    def points(self, offsets: Iterable[int]) -> list[StoredPoint]:
        """The points at *offsets*, which must exist."""
        with self._values() as value:
            return [decode_point(value(offset)) for offset in offsets]

    def stamps(self, offsets: Sequence[int]) -> list[Stamp]:
        """Keys and versions at *offsets*, which must exist. A long payload beside them is not touched."""
        found = None if self._native is None else self._native.stamps(np.array(offsets, np.int64))
        if found is not None:
            return list(map(Stamp._make, found))
        with self._values() as value:
            return [decode_stamp(value(offset)) for offset in offsets]

    def hits(self, offsets: Offsets, scores: Vectors, counts: Offsets) -> list[bytes] | None:
        """JSON lists of id, version and score, of so many points each as *counts* says (int64 [lists]).

        *offsets* (int64 [n]), which must exist, and *scores* (float32 [n]) are those of all lists, one after the other.
        None where they can be had through LMDB only, or the file is damaged, which LMDB tells.
        """
        return None if self._native is None else self._native.hits(offsets, scores, counts)

    def payload_size(self, offset: int) -> int:
        """How long the payload at *offset* is. It is not touched."""
        with self._values() as value:
            found = value(offset)
            return len(found) - _payload_start(found)

    def payload(self, offset: int, start: int = 0, end: int | None = None) -> bytes:
        """The payload at *offset*, or its bytes from *start* to *end*; nothing else of it is touched."""
        with self._values() as value:
            found = value(offset)
            return bytes(found[_payload_start(found) :][start:end])

    def scan(self, live: LiveMask, start: bytes = b"") -> Iterator[tuple[int, StoredPoint]]:
        """Offset and point of every row in *live*, in key order, from the first key not below *start*.

        Reads ahead a little, by number and by size, and holds no transaction meanwhile.
        """
        for offsets in self._live_batches(live, start):
            position = 0
            while position < len(offsets):
                points: list[StoredPoint] = []
                nbytes = 0
                with self._values() as value:
                    for offset in offsets[position:]:
                        points.append(decode_point(value(offset)))
                        nbytes += len(points[-1].payload)
                        if nbytes >= _BATCH_PAYLOAD_BYTES:
                            break
                yield from zip(offsets[position : position + len(points)], points, strict=True)
                position += len(points)

    def scan_keys(self, live: LiveMask, start: bytes = b"") -> Iterator[tuple[int, bytes]]:
        """`scan` for those who need no payloads: offset and key."""
        for offsets in self._live_batches(live, start):
            yield from zip(offsets, (stamp.key for stamp in self.stamps(offsets)), strict=True)

    def _live_batches(self, live: LiveMask, start: bytes) -> Iterator[list[int]]:
        first = self._first_offset(start) if start else 0
        for begin in range(first, self.count, _WINDOW):
            offsets = live.offsets(begin, begin + _WINDOW).tolist()
            for position in range(0, len(offsets), _BATCH):
                yield offsets[position : position + _BATCH]

    @contextmanager
    def _values(self) -> Iterator[Callable[[int], memoryview]]:
        """A function that gives what is stored at an offset, in place and as long as the context lasts."""
        with self._environment.begin(db=self._points, buffers=True) as transaction:

            def value(offset: int) -> memoryview:
                found: memoryview | None = transaction.get(_OFFSET.pack(offset))
                assert found is not None, "offsets that were handed out exist"
                return found

            yield value

    def _first_offset(self, start: bytes) -> int:
        with self._environment.begin(db=self._ids) as transaction, transaction.cursor() as cursor:
            if not cursor.set_range(start):
                return self.count
            offset: int = _OFFSET.unpack(cursor.value())[0]
            return offset


def _open_points(path: Path) -> Points | None:
    """What reads the points without LMDB, if it knows the format of the file in *path*. Raises OSError."""
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    mapping.madvise(mmap.MADV_RANDOM)
    try:
        return Points(mapping)
    except ValueError:
        return None


_environments: weakref.WeakValueDictionary[tuple[int, int], lmdb.Environment] = weakref.WeakValueDictionary()
_environments_lock = threading.Lock()

_LETTING_GO_ATTEMPTS = 200
_LETTING_GO_SECONDS = 0.01
"""Together more than it takes to close a file."""


def _open_environment(path: Path) -> lmdb.Environment:
    """The environment of *path*. LMDB opens a file once in a process, and an earlier reader may have it open yet."""
    for attempt in itertools.count():
        status = path.stat()
        file = status.st_dev, status.st_ino
        with _environments_lock:
            environment = _environments.get(file)
            try:
                if environment is None:
                    environment = lmdb.open(
                        str(path),
                        map_size=max(status.st_size, _PAGE),
                        subdir=False,
                        readonly=True,
                        lock=False,
                        readahead=False,
                        max_dbs=2,
                    )
                    _environments[file] = environment
                return environment
            except lmdb.Error as error:
                # Another thread lets go of it in this moment, or of one whose file is gone, and whose number this has.
                if "already open" not in str(error) or attempt == _LETTING_GO_ATTEMPTS:
                    raise
        time.sleep(_LETTING_GO_SECONDS)
    raise AssertionError("there is always another attempt")


def _open_vectors(path: Path, dimension: int, storage: StorageType) -> Vectors:
    """The rows of a vectors file, mapped or read, read-only."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER.size + _CRC.size)
            size = path.stat().st_size
            if len(head) < _HEADER.size + _CRC.size:
                raise StoreCorrupt(f"{path} is shorter than its header")
            magic, version, stored_dimension, count = _HEADER.unpack_from(head)
            checksum = _CRC.pack(google_crc32c.value(head[: _HEADER.size]))
            if magic != _MAGIC or head[_HEADER.size :] != checksum:
                raise StoreCorrupt(f"{path} does not begin with the header of a vectors file")
            if version != _FORMAT or stored_dimension != dimension:
                raise StoreCorrupt(
                    f"{path} has format {version} and dimension {stored_dimension}, expected {_FORMAT} and "
                    f"{dimension}"
                )
            if size != _PAGE + 4 * dimension * count:
                raise StoreCorrupt(f"{path} has {size} bytes, expected {_PAGE + 4 * dimension * count}")
            if storage is StorageType.MEMORY:
                return _read_vectors(file, count, dimension)
            mapping = mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ)
    except FileNotFoundError:
        raise StoreCorrupt(f"{path} is missing") from None
    mapping.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(mapping, np.float32, count * dimension, _PAGE).reshape(count, dimension)


def _read_vectors(file: BinaryIO, count: int, dimension: int) -> Vectors:
    try:
        rows: Vectors = np.empty((count, dimension), np.float32)
    except MemoryError:
        raise OSError(errno.ENOMEM, f"no memory for {4 * count * dimension} bytes of vectors") from None
    file.seek(_PAGE)
    file.readinto(rows.data.cast("B"))  # type: ignore[attr-defined] # of a buffered reader: all of it
    rows.flags.writeable = False
    return rows
