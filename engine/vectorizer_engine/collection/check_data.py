"""Read a whole data folder and say what is wrong with it. Changes nothing, and repairs nothing.

For `vectorizer check-data`. The engine itself checks the same when it opens a folder, and then acts on it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import pyroaring

from vectorizer_engine.collection.data_folder import (
    STORE_MARK,
    Description,
    check_format,
    read_description,
    take_lock,
)
from vectorizer_engine.collection.operations import decode_record
from vectorizer_engine.collection.payload_indexes import Schema, index_file
from vectorizer_engine.errors import EngineError, StoreCorrupt, StoreUnsuitable
from vectorizer_engine.index.backends import BACKENDS
from vectorizer_engine.storage.files import Files, disk_errors
from vectorizer_engine.storage.log import FileLog
from vectorizer_engine.storage.manifest import SegmentEntry, read_manifest
from vectorizer_engine.storage.payload_index import open_field_index
from vectorizer_engine.storage.segment import Segment, verify_segment


class Problem(NamedTuple):
    """Something wrong, in the collection of that name ("" for the folder itself), in words."""

    collection: str
    message: str


class LookOnly(Files):
    """What opening a log tidies away stays where it is."""

    def remove(self, path: Path) -> None:
        """Leave it."""


def check_data(path: Path) -> list[Problem]:
    """Every problem of the data folder *path*, none where all is well.

    Raises StoreLocked where an engine works on it, StoreVersionError where a newer one wrote it, StoreUnsuitable
    where it has copies only, and StorageFailure where it cannot be read.
    """
    with disk_errors(f"check the data folder {path}"):
        if not (path / "FORMAT").exists():
            return [
                Problem(
                    "", f"{path / 'FORMAT'} is missing: {path} is no data folder, or was never started on"
                )
            ]
        if (path / STORE_MARK).exists():
            raise StoreUnsuitable(
                f"{path} holds copies of the object store {(path / STORE_MARK).read_text()}: the engine checks each "
                "of them when it starts, and fetches those that are damaged"
            )
        lock = take_lock(path)
        try:
            check_format(path, LookOnly())
            return [problem for folder in collection_folders(path) for problem in _check_collection(folder)]
        finally:
            os.close(lock)


def collection_folders(path: Path) -> list[Path]:
    """The folders of the collections in the data folder *path*, none where it has none. Raises OSError."""
    root = path / "collections"
    if not root.exists():
        return []
    # What begins with a dot is half-made or half-deleted: the next start removes it.
    return sorted(folder for folder in root.iterdir() if not folder.name.startswith("."))


def described_collections(path: Path) -> list[Description]:
    """What the collections of the data folder *path* say of themselves, but for those that cannot be read."""
    described = []
    for folder in collection_folders(path):
        with suppress(StoreCorrupt):  # `check_data` says it
            described.append(read_description(folder))
    return sorted(described, key=lambda each: each.path)


def _check_collection(folder: Path) -> Iterator[Problem]:
    try:
        description = read_description(folder)
    except StoreCorrupt as error:
        yield Problem(folder.name, str(error))
        return
    for shard in sorted(folder.glob("shard-*")):
        for message in _check_shard(shard, description):
            yield Problem(description.path, message)


def _check_shard(folder: Path, description: Description) -> Iterator[str]:
    try:
        manifest = read_manifest(folder)
    except StoreCorrupt as error:
        yield str(error)
        return
    for quarantined in manifest.quarantined:
        yield f"segment {quarantined.id} with {quarantined.points} points was set aside: {quarantined.reason}"
    for entry in manifest.segments:
        segment = folder / "segments" / f"{entry.id:08d}"
        yield from _check_segment(segment, entry, manifest.payload_schema, description)
    try:
        log = FileLog(folder / "log", first=manifest.applied + 1, files=LookOnly())
        if log.next_number <= manifest.logged:
            yield f"the log in {folder / 'log'} ends with record {log.next_number - 1}, expected {manifest.logged}"
        for record in log.replay(after=manifest.applied):
            decode_record(record.data)
    except (EngineError, msgspec.DecodeError) as error:
        yield str(error)


def _check_segment(
    folder: Path, entry: SegmentEntry, schema: Schema, description: Description
) -> Iterator[str]:
    params = description.params
    try:
        verify_segment(folder)
        segment = Segment(folder, id=entry.id, dimension=params.dimension)
        gone = pyroaring.BitMap.deserialize(entry.deleted)
        if segment.count != entry.points or (gone and gone.max() >= entry.points):
            raise StoreCorrupt(
                f"{folder} holds {segment.count} points, the manifest speaks of {entry.points}"
            )
    except StoreCorrupt as error:
        yield str(error)
        return
    for backend in BACKENDS.values():
        path = folder / backend.file_name
        if path.exists():
            try:
                backend.open(path, segment.vectors, params.distance)
            except EngineError as error:
                yield str(error)
    for field, type in schema.items():
        path = index_file(segment, field, type)
        if path.exists():
            try:
                open_field_index(path, type, entry.points)
            except EngineError as error:
                yield str(error)
