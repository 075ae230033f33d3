"""The sealed segments of a shard whose truth is in a shared store. The folder holds copies of them.

A segment's files are objects, named by the writer that made them; which of them count is the state in the last
checkpoint of the shard's log (see docs/specs/SHARED_STORE.md). Nothing in the folder is needed: a copy that is
missing or damaged is fetched again. Index files lie beside the segment's objects, where somebody built them: see
`object_indexes`.

The copies may be let go of altogether, and be had again by `open_all`, for as long as the claim of the log is in force.
What is known of the objects outlives that, and so do the numbers of segments: none is given twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from vectorizer_engine.errors import Fenced, StoreCorrupt
from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.garbage import Garbage
from vectorizer_engine.storage.live import LiveMask
from vectorizer_engine.storage.log_objects import list_frames, read_newest_checkpoint
from vectorizer_engine.storage.manifest import Manifest
from vectorizer_engine.storage.object_file import fetch_file
from vectorizer_engine.storage.object_indexes import fetch_indexes, name_of, parsed
from vectorizer_engine.storage.object_log import ObjectLog
from vectorizer_engine.storage.object_store import Listed, ObjectMissing, ObjectStore, repeated
from vectorizer_engine.storage.segment import (
    CHECKSUMS_NAME,
    POINTS_NAME,
    VECTORS_NAME,
    FileChecksum,
    Segment,
    checksum_of,
)
from vectorizer_engine.storage.segment_folder import SegmentPlace, segment_path
from vectorizer_engine.storage.segment_store import Batches, FileSegmentStore

logger = logging.getLogger(__name__)

_FILES = (VECTORS_NAME, POINTS_NAME, CHECKSUMS_NAME)


class StoredSegment(msgspec.Struct, frozen=True):
    """Where the objects of a segment are, and what is in them."""

    folder: str
    files: dict[str, FileChecksum]


class SharedManifest(msgspec.Struct, frozen=True):
    """What a checkpoint holds. `stored` tells of each segment by its id, those in quarantine included."""

    manifest: Manifest
    stored: dict[int, StoredSegment]

    @property
    def nbytes(self) -> int:
        """Size of the segments that count: what their copies take, without indexes."""
        named = (self.stored[entry.id] for entry in self.manifest.segments)
        return sum(file.size for each in named for file in each.files.values())


shared_manifest_decoder = msgspec.msgpack.Decoder(SharedManifest)


class ObjectSegmentStore(FileSegmentStore):
    """Segments below *prefix* in *store*, copied to their place, for whoever has claimed *log*."""

    def __init__(
        self,
        place: SegmentPlace,
        *,
        store: ObjectStore,
        prefix: str,
        log: ObjectLog,
        garbage: Garbage,
    ) -> None:
        """Raises OSError where the folder cannot be used."""
        self._store = store
        self._prefix = f"{prefix}/segments"
        self._log = log
        self._garbage = garbage
        self._stored: dict[int, StoredSegment] = {}
        # The ids that some checkpoint named, or may have named: others may be fetching these.
        self._named: set[int] = set()
        # Those of the last checkpoint. While the log is replayed there is no other, whatever is merged meanwhile.
        self._checkpointed: set[int] = set()
        super().__init__(place)
        listed = repeated(lambda: list(store.list(self._prefix)))
        # Listed before a checkpoint and deleted after it: then no successor's segment can be among them.
        folders = {each.folder for each in self._stored.values()}
        self._leftovers = {name for name, _ in listed if name.split("/")[-2] not in folders}
        # The objects of each segment's indexes, by its id. Guarded by the lock, as is what is removed of `_stored`.
        self._indexes = {number: indexes_of(self._stored[number], listed) for number in self._stored}

    @property
    def stored_bytes(self) -> int:
        """Size of the segments that count, and of what is in the store of their indexes: what copies take."""
        with self._lock:
            indexes = [each for entry in self.manifest.segments for each in self._indexes.get(entry.id, ())]
            return SharedManifest(self.manifest, self._stored).nbytes + sum(each.size for each in indexes)

    def open_all(self) -> list[tuple[Segment, LiveMask]]:
        """Fetch and open what the manifest names; the log is to be replayed afterwards, also where it was before.

        Raises StoreCorrupt, CacheMemoryLimitExceeded, OSError.
        """
        self._log.rewind()
        for name in ("segments", "quarantine"):
            self._files.make_folder(self._folder / name)
        return super().open_all()

    def _load_manifest(self) -> Manifest:
        state = self._log.checkpoint.state
        if not state:
            return Manifest()
        shared = shared_manifest_decoder.decode(state)
        self._stored = shared.stored
        self._named = set(shared.stored)
        self._checkpointed = set(shared.stored)
        return shared.manifest

    def _save_manifest(self, manifest: Manifest) -> None:
        if not self._log.replayed:
            return  # what was set aside in opening: the next checkpoint says so, and until then the next opening
        kept = {entry.id for entry in manifest.segments} | {entry.id for entry in manifest.quarantined}
        known = dict(self._stored)  # other threads make segments meanwhile, and remove what came to nothing
        stored = {number: each for number, each in known.items() if number in kept}
        state = msgspec.msgpack.encode(SharedManifest(manifest, stored))
        unnamed = kept - self._named
        self._named |= kept
        try:
            self._log.write_checkpoint(state, applied=manifest.applied)
        except Fenced:  # so it never will count, and nobody looks for what it alone names
            self._named -= unnamed
            raise
        self._checkpointed = kept
        folders = {each.folder for each in dict(self._stored).values()}
        self._garbage.add({name for name in self._leftovers if name.split("/")[-2] not in folders})
        self._leftovers = set()

    def _make(self, number: int, batches: Batches) -> None:
        self._log.require_owner()
        super()._make(number, batches)
        path = self._path(number)
        self._stored[number] = StoredSegment(
            f"{number:08d}-{self._log.writer}", {name: checksum_of(path / name) for name in _FILES}
        )
        for name, object_name in zip(_FILES, self._names(number), strict=True):
            repeated(lambda name=name, target=object_name: self._store.upload(target, path / name))  # type: ignore[misc]

    def _remove(self, number: int) -> None:
        super()._remove(number)
        with self._lock:
            if number not in self._stored:
                return
            names = self._names(number) + [name for name, _ in self._indexes.pop(number, ())]
            del self._stored[number]
        if number in self._checkpointed:
            self._leftovers.update(names)
        elif number in self._named:
            self._named.remove(number)
            self._garbage.add(names)
        else:
            try:
                self._store.delete(names)
            except OSError as error:
                logger.warning("what was made of segment %d stays in the store for now: %s", number, error)

    def _remove_others(self, numbers: set[int]) -> None:
        try:
            super()._remove_others(numbers)
        except OSError as error:  # somebody still writes one for an earlier opening, and removes it then
            logger.info("copies that are not needed stay for now: %s", error)

    def _verify(self, number: int) -> None:
        path = self._path(number)
        fetch_segment(self._store, self._prefix, self._stored[number], path, files=self._files)
        with self._lock:
            indexes = list(self._indexes.get(number, ()))
        damaged = fetch_indexes(self._store, indexes, path, files=self._files)
        if damaged:
            with self._lock:
                self._indexes[number] = [each for each in indexes if each.name not in damaged]
            with suppress(OSError):  # they are not looked at again by this owner, whatever becomes of them
                self._store.delete(damaged)  # now: the next one that is built may have the same name

    @property
    def has_leftovers(self) -> bool:
        return bool(self._leftovers)

    def lacks_index(self, number: int, path: Path) -> bool:
        with self._lock:
            known = [parsed(name) for name, _ in self._indexes.get(number, ())]
            is_there = any(each and each.file == path.name and each.is_present for each in known)
            return number in self._stored and not is_there

    def keep_index(self, number: int, path: Path) -> None:
        """May take as long as it wants: nothing waits for it, and the segment may be removed meanwhile."""
        self._log.require_owner()
        name = name_of(path)
        with self._lock:
            stored = self._stored.get(number)
        if stored is None or name is None:
            return
        name = f"{self._prefix}/{stored.folder}/{name}"
        size = path.stat().st_size
        repeated(lambda: self._store.upload(name, path))
        with self._lock:
            is_needed = number in self._stored
            if is_needed:
                self._indexes.setdefault(number, []).append(Listed(name, size))
        try:
            with suppress(OSError):  # then that is not known
                self._log.confirm(within=0.0)
        except Fenced:
            # Its new owner may have found it already. But where the segment is gone, nobody ever will.
            if not self._is_in_store(stored):
                self._store.delete([name])
            raise
        if not is_needed:
            self._garbage.add([name])

    def _names(self, number: int) -> list[str]:
        return _names(self._prefix, self._stored[number])

    def _is_in_store(self, stored: StoredSegment) -> bool:
        vectors, *_ = _names(self._prefix, stored)
        return any(name == vectors for name, _ in self._store.list(f"{self._prefix}/{stored.folder}"))


def copy_segments_ahead(
    store: ObjectStore,
    prefix: str,
    folder: Path,
    *,
    files: Files,
    admit: Callable[[int], bool],
    wanted: Callable[[], bool],
) -> None:
    """Have in *folder* copies of the segments that the newest checkpoint of a shard names, with the indexes that there
    are of them, while they are *wanted*.

    *admit* says whether there is room for so many bytes. The shard is another process's, which may replace the segments
    meanwhile. Raises StoreCorrupt and OSError.
    """
    log = f"{prefix}/log"
    _, checkpoint = read_newest_checkpoint(store, log, list_frames(store, log))
    if not checkpoint.state:
        return
    shared = shared_manifest_decoder.decode(checkpoint.state)
    if not admit(shared.nbytes):
        return
    files.make_folder(folder / "segments")
    listed = list(store.list(f"{prefix}/segments"))
    for entry in shared.manifest.segments:
        if not wanted():
            return
        path, stored = segment_path(folder, entry.id), shared.stored[entry.id]
        fetch_segment(store, f"{prefix}/segments", stored, path, files=files)
        fetch_indexes(store, indexes_of(stored, listed), path, files=files)


def fetch_segment(
    store: ObjectStore, prefix: str, stored: StoredSegment, path: Path, *, files: Files
) -> None:
    """Have in the folder *path* what is *stored* below *prefix*. Raises StoreCorrupt and OSError."""
    if _is_copy(path, stored):
        return
    logger.info("segment %s of %s is fetched from the store", stored.folder, prefix)
    files.remove_tree(path)
    files.make_folder(path)
    for name, object_name in zip(_FILES, _names(prefix, stored), strict=True):
        try:
            fetch_file(store, object_name, path / name, stored.files[name].size, files=files)
        except ObjectMissing:
            raise StoreCorrupt(f"the object {object_name} is missing") from None
    for name, expected in stored.files.items():
        found = checksum_of(path / name)
        if found != expected:
            raise StoreCorrupt(
                f"the object {prefix}/{stored.folder}/{name} fails its checksum: expected {expected.size} "
                f"bytes with CRC32C {expected.crc32c:08x}, found {found.size} bytes with {found.crc32c:08x}"
            )


def _names(prefix: str, stored: StoredSegment) -> list[str]:
    return [f"{prefix}/{stored.folder}/{name}" for name in _FILES]


def indexes_of(stored: StoredSegment, listed: Iterable[Listed]) -> list[Listed]:
    """Of the objects of a shard, those that are indexes of this segment."""
    return [each for each in listed if each.name.split("/")[-2] == stored.folder and parsed(each.name)]


def _is_copy(path: Path, stored: StoredSegment) -> bool:
    """Whether the folder holds exactly what was stored. Reads all of it."""
    try:
        return all(checksum_of(path / name) == expected for name, expected in stored.files.items())
    except OSError:
        return False
