"""The index files of a shard's segments in the shared store, beside the segments' own objects.

    segments/00000007-WRITER/index.hnsw-sq8.2-1f3a97c07e1fd8c5.35651584-89abcdef

An object is named by the file, by how it was built, and by its size and CRC32C, so no checkpoint has to tell of it:
whoever lists a segment's objects knows what to expect of each. One of another version is not looked at. An index that
is lost, damaged or cannot be had at the moment is built again from the segment.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from vectorizer_engine.index.backends import BACKENDS
from vectorizer_engine.index.faiss_file import version_in
from vectorizer_engine.storage import payload_index
from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.object_file import fetch_file
from vectorizer_engine.storage.object_store import Listed, ObjectMissing, ObjectStore
from vectorizer_engine.storage.segment import FileChecksum, checksum_of

logger = logging.getLogger(__name__)

_PATIENCE = 5.0
"""Seconds for which a request for an index is repeated: who asks can do without."""

_UNFINISHED = ".unfinished"
_NAME = re.compile(r"(?P<file>.+)\.(?P<version>[^.]+)\.(?P<size>\d+)-(?P<crc32c>[0-9a-f]{8})")


class IndexObject(NamedTuple):
    """What the name of an object tells of it."""

    file: str
    version: str
    checksum: FileChecksum

    @property
    def is_present(self) -> bool:
        """Whether this engine would build it in the same way."""
        return self.version == _present_version(self.file)


def parsed(name: str) -> IndexObject | None:
    """What the object *name* says of itself, or None where it is no index."""
    found = _NAME.fullmatch(name.rpartition("/")[2])
    if found is None:
        return None
    checksum = FileChecksum(int(found["size"]), int(found["crc32c"], 16))
    return IndexObject(found["file"], found["version"], checksum)


def name_of(path: Path) -> str | None:
    """What the object of the index file in *path* is called, in its segment's folder; None where nobody would use it.

    Reads the file. Raises StoreCorrupt where it is none, and OSError.
    """
    version = payload_index.VERSION if path.suffix == payload_index.SUFFIX else version_in(path)
    if version != _present_version(path.name):
        return None
    checksum = checksum_of(path)
    return f"{path.name}.{version}.{checksum.size}-{checksum.crc32c:08x}"


def fetch_indexes(store: ObjectStore, listed: Iterable[Listed], folder: Path, *, files: Files) -> list[str]:
    """Have in *folder* the files of those objects among *listed* that can be used there and are missing.

    Returns the names of those that are not what they should be. Raises nothing that has to do with the store or the
    volume: what is not there is built.
    """
    damaged = []
    for name, size in listed:
        found = parsed(name)
        if found is None or not found.is_present or (folder / found.file).exists():
            continue
        try:
            if size != found.checksum.size or not _fetch(store, name, found, folder, files):
                logger.warning("the object %s fails its checksum: the index is built again", name)
                damaged.append(name)
        except ObjectMissing:
            logger.info("the object %s is gone: the index is built again", name)
        except OSError as error:
            logger.warning("the object %s cannot be fetched, and the index is built again: %s", name, error)
    return damaged


def _fetch(store: ObjectStore, name: str, expected: IndexObject, folder: Path, files: Files) -> bool:
    """Whether the object is what its name says; then its file is in *folder*."""
    unfinished = folder / (expected.file + _UNFINISHED)
    try:
        fetch_file(store, name, unfinished, expected.checksum.size, files=files, patience=_PATIENCE)
        if checksum_of(unfinished) != expected.checksum:
            return False
        files.rename(unfinished, folder / expected.file)
        return True
    finally:
        files.remove(unfinished)


def _present_version(file: str) -> str | None:
    if file.endswith(payload_index.SUFFIX):
        return payload_index.VERSION
    return next((each.version for each in BACKENDS.values() if each.file_name == file), None)
