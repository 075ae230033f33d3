"""One index in one file, in faiss' format, that is written once and then only mapped.

    page 0    header: magic, format version, layout, distance, dimension, count, size and CRC32C of the body, recipe
              (little-endian, see `_HEADER`), zeros, and in its last four bytes the CRC32C of the page
    page 1 …  body: the index as faiss serialises it, or would

The body is read in place: graph, lists and codes stay pages of the file, which the kernel takes back as it needs to.
What is copied to the heap instead is small; each backend states it.

What an index means, and how it is searched, is for the backends. The *recipe* tells with what parameters one of them
built it: any is good enough to be searched, but only a file of the present version is handed to others.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from hashlib import blake2b
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from vectorizer_engine.errors import StoreCorrupt, StoreVersionError
from vectorizer_engine.index.base import Distance
from vectorizer_engine.index.native import faiss
from vectorizer_engine.storage.files import Files

FORMAT = 2
"""1 had no HNSW with integer codes, for which queries are scaled; what is of format 1 is read as ever."""
_PAGE = 4096
_MAGIC = b"VZINDEX\0"
_HEADER = struct.Struct("<8sIHHIQQI8s")
_RECIPE_BYTES = 8
_CRC = struct.Struct("<I")
PIECE_BYTES = 128 * 1024
"""What is read or written at once."""


class FileLayout(IntEnum):
    """Which backend wrote a file. The numbers are on disk: never reuse one."""

    HNSW_SQ8 = 1
    IVF_RABITQ = 2


_ADVICE = {
    FileLayout.HNSW_SQ8: mmap.MADV_RANDOM,  # a walk through a graph: what lies beside a node is of no use
    FileLayout.IVF_RABITQ: mmap.MADV_NORMAL,  # lists are read from end to end
}
_DISTANCE_CODES = {Distance.COSINE: 1, Distance.DOT: 2, Distance.EUCLID: 3}


@dataclass(frozen=True, slots=True)
class IndexShape:
    """What an index file holds, and what it must hold to be used with a segment's vectors."""

    layout: FileLayout
    distance: Distance
    dimension: int
    count: int

    def __str__(self) -> str:
        return (
            f"{self.layout.name} for {self.count} vectors of dimension {self.dimension} "
            f"compared by {self.distance.value}"
        )


def recipe_of(*parameters: int | float) -> bytes:
    """What stands for these parameters in a file."""
    return blake2b(repr(parameters).encode(), digest_size=_RECIPE_BYTES).digest()


def version_name(recipe: bytes, *, format: int = FORMAT) -> str:
    """What tells files apart that were not built in the same way, as a part of a name."""
    return f"{format}-{recipe.hex()}"


def version_in(path: Path) -> str:
    """The `version_name` of the file in *path*. Raises StoreCorrupt where it is no index file, and OSError.

    Files from before there were recipes have one of zeros.
    """
    with path.open("rb") as file:
        header = _unpacked_header(path, file.read(_PAGE))
    return version_name(header[-1], format=header[1])


Write = Callable[[bytes], int]
"""Takes the next piece of a body, and gives its length."""


def write_index_file(
    path: Path, write_body: Callable[[Write], None], shape: IndexShape, *, recipe: bytes, files: Files
) -> None:
    """Write an index that was built by *recipe*, and whose body *write_body* writes, durably to the new file *path*.

    Its name is durable once the caller has synced the folder. Raises OSError; what it left then is for the
    caller to remove.
    """
    descriptor = files.create(path)
    try:
        size = 0
        crc = 0

        def write(piece: bytes) -> int:
            nonlocal size, crc
            files.write(descriptor, piece, _PAGE + size)
            size += len(piece)
            crc = google_crc32c.extend(crc, piece)
            return len(piece)

        write_body(write)
        files.write(descriptor, _header(shape, size, crc, recipe), 0)
        files.sync(descriptor)
    finally:
        os.close(descriptor)


def faiss_body(index: Any) -> Callable[[Write], None]:
    """The body of *index* (a faiss index), by faiss."""
    return lambda write: faiss.write_index(index, faiss.PyCallbackIOWriter(write, PIECE_BYTES))


def _header(shape: IndexShape, size: int, crc: int, recipe: bytes) -> bytes:
    distance = _DISTANCE_CODES[shape.distance]
    head = _HEADER.pack(
        _MAGIC, FORMAT, shape.layout, distance, shape.dimension, shape.count, size, crc, recipe
    )
    return seal_page(head.ljust(_PAGE, b"\0"))


def seal_page(page: bytes) -> bytes:
    """*page* with its checksum in the last four bytes."""
    content = page[: -_CRC.size]
    return content + _CRC.pack(google_crc32c.value(content))


def map_index_file(path: Path, expected: IndexShape) -> memoryview:
    """The body of the index in *path*, mapped, after reading and checking every byte of the file.

    Every byte, because what damage makes of an index may be one that finds nothing, and faiss reads where its numbers
    say. Raises StoreCorrupt where the file is not what was written for *expected*, StoreVersionError where a newer
    version wrote it; in both cases the index can be built again from the vectors.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            body_size, body_crc = _checked_header(path, file.read(_PAGE), expected)
            if size != _PAGE + body_size:
                raise StoreCorrupt(f"{path} has {size} bytes, expected {_PAGE + body_size}: {_REBUILD}")
            crc = 0
            file.seek(_PAGE)
            while piece := file.read(PIECE_BYTES):
                crc = google_crc32c.extend(crc, piece)
            if crc != body_crc:
                raise StoreCorrupt(
                    f"{path} fails its checksum: expected CRC32C {body_crc:08x}, found {crc:08x}: {_REBUILD}"
                )
            mapping = mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ)
    except OSError as error:
        raise StoreCorrupt(f"{path} cannot be read: {error.strerror or error}: {_REBUILD}") from error
    mapping.madvise(_ADVICE[expected.layout])
    return memoryview(mapping)[_PAGE:]


def read_by_faiss(path: Path, body: memoryview) -> Any:
    """The faiss index in the mapped *body* of the file *path*, which has to be kept as long. Raises StoreCorrupt."""
    content = np.frombuffer(body, np.uint8)
    try:
        return faiss.read_index(faiss.ZeroCopyIOReader(faiss.swig_ptr(content), len(content)))
    except RuntimeError as error:
        raise not_understood(path, f"faiss {faiss.__version__} cannot read it") from error


def not_understood(path: Path, problem: str) -> StoreCorrupt:
    """What is raised about a file that is as it was written, and still of no use."""
    return StoreCorrupt(f"{path} is intact, but {problem}: {_REBUILD}")


_REBUILD = "remove the file, and the index is built again from the vectors"


def _checked_header(path: Path, head: bytes, expected: IndexShape) -> tuple[int, int]:
    """Size and CRC32C of the body."""
    _, version, layout, distance, dimension, count, size, crc, _ = _unpacked_header(path, head)
    if version > FORMAT:
        raise StoreVersionError(
            f"{path} has format {version}, this version reads up to {FORMAT}: use the version that wrote it, "
            f"or {_REBUILD}"
        )
    if (layout, distance, dimension, count) != (
        expected.layout,
        _DISTANCE_CODES[expected.distance],
        expected.dimension,
        expected.count,
    ):
        raise StoreCorrupt(
            f"{path} holds layout {layout} for {count} vectors of dimension {dimension} and distance "
            f"{distance}, expected {expected}: {_REBUILD}"
        )
    return size, crc


def _unpacked_header(path: Path, head: bytes) -> tuple[Any, ...]:
    if len(head) < _PAGE:
        raise StoreCorrupt(f"{path} is shorter than its header: {_REBUILD}")
    header = _HEADER.unpack_from(head)
    if header[0] != _MAGIC or head != seal_page(head):
        raise StoreCorrupt(f"{path} does not begin with the header of an index file: {_REBUILD}")
    return header
