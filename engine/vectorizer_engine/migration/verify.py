"""Whether a collection gives the same from mapped files as from the heap: every point of it, and what searches find.

The engine itself opens it both ways, in an image of the collection's folder, so that the folder stays as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.data_folder import read_description, write_description
from vectorizer_engine.collection.records import Record
from vectorizer_engine.collection.store import VectorStore
from vectorizer_engine.collection.types import PointId, StorageType
from vectorizer_engine.errors import StoreCorrupt
from vectorizer_engine.index.base import Vectors
from vectorizer_engine.migration.image import OnBytes, make_image
from vectorizer_engine.migration.journal import Verified
from vectorizer_engine.storage.files import Files

QUERIES = 100
"""So many stored vectors, evenly spread over the ids, are searched with."""

_NEIGHBOURS = 10
_PAGE_POINTS = 1000
_CACHE_BYTES = 256 * 1024**2


class Unequal(StoreCorrupt):
    """A collection gives something else from mapped files. It was not converted."""


class _Contents(msgspec.Struct, frozen=True):
    points: int
    checksum: str
    answers: list[list[tuple[PointId, float]]]


def verify_collection(folder: Path, check: Path, *, files: Files, on_bytes: OnBytes) -> Verified:
    """Compare the collection in *folder* in both storages, in images below *check*, which is gone afterwards.

    *on_bytes* is told of the vectors that were read. Raises StoreCorrupt, Unequal, StorageFailure and OSError; nothing
    in *folder* changes.
    """
    name = read_description(folder).path
    found = [_contents(folder, check, storage, files, on_bytes) for storage in StorageType]
    mapped, on_heap = found
    for what, from_heap, from_files in (
        ("points", on_heap.points, mapped.points),
        ("checksum over all points", on_heap.checksum, mapped.checksum),
        (f"nearest {_NEIGHBOURS} of {QUERIES} stored vectors", on_heap.answers, mapped.answers),
    ):
        if from_heap != from_files:
            raise Unequal(
                f"collection '{name}': its {what} differ between memory and mmap storage; nothing of it was changed: "
                "run vectorizer check-data on the folder, and report this"
            )
    return Verified(name, mapped.points, mapped.checksum, len(mapped.answers))


def _contents(folder: Path, check: Path, storage: StorageType, files: Files, on_bytes: OnBytes) -> _Contents:
    """What the collection gives in *storage*."""
    files.remove_tree(check)
    image = check / "collections" / folder.name
    files.make_folder(image.parent)
    make_image(folder, image, files=files, on_bytes=lambda _: None)
    set_storage(image, storage, files=files)
    store = VectorStore.open(check, memory=CacheMemoryManager(_CACHE_BYTES), merging=False)
    try:
        for reason in store.damaged.values():
            raise StoreCorrupt(reason)
        [collection] = store.collections()
        for problem in collection.info().problems:
            raise StoreCorrupt(f"collection '{collection.name}': {problem}; restore it or delete it first")
        return _read(collection, on_bytes)
    finally:
        store.close()
        files.remove_tree(check)


def set_storage(folder: Path, storage: StorageType, *, files: Files) -> None:
    """Make *storage* the durable one of the collection in *folder*, in one step."""
    description = read_description(folder)
    params = replace(description.params, storage=storage)
    write_description(folder, msgspec.structs.replace(description, params=params), files=files)


def _read(collection: Collection, on_bytes: OnBytes) -> _Contents:
    checksum = hashlib.blake2b(digest_size=16)
    sampled: list[Vectors] = []
    count = collection.count()
    every = max(1, count // QUERIES)
    row_bytes = 4 * collection.params.dimension
    for page in _pages(collection):
        for number, record in page:
            payload = record.place.payload()
            checksum.update(f"{record.id} {record.version} {len(payload)} ".encode())
            checksum.update(payload)
            checksum.update(record.vector.tobytes())
            if number % every == 0 and len(sampled) < QUERIES:
                sampled.append(record.vector)
        on_bytes(row_bytes * len(page))
    queries = np.array(sampled, np.float32).reshape(len(sampled), collection.params.dimension)
    answers = [
        [(hit.id, hit.score) for hit in hits] for hits in collection.search(queries, limit=_NEIGHBOURS)
    ]
    return _Contents(count, checksum.hexdigest(), answers)


def _pages(collection: Collection) -> Iterator[list[tuple[int, Record]]]:
    """Every point with its number, in id order."""
    number = 0
    start: PointId | None = None
    while True:
        records, start = collection.scroll(start=start, limit=_PAGE_POINTS)
        yield [(number + place, record) for place, record in enumerate(records)]
        number += len(records)
        if start is None:
            return
