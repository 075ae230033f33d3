"""The sealed segments of a shard that another member writes: copies of what the newest known checkpoint names."""

from __future__ import annotations

from vectorizer_engine.storage.live import LiveMask
from vectorizer_engine.storage.manifest import Manifest
from vectorizer_engine.storage.object_indexes import fetch_indexes
from vectorizer_engine.storage.object_segments import (
    SharedManifest,
    StoredSegment,
    fetch_segment,
    indexes_of,
    shared_manifest_decoder,
)
from vectorizer_engine.storage.object_store import ObjectStore, repeated
from vectorizer_engine.storage.segment import Segment
from vectorizer_engine.storage.segment_folder import SegmentFolder, SegmentPlace


class FollowedSegments(SegmentFolder):
    """Segments below *prefix* in *store*, copied to their place. One thread at a time may `open`."""

    def __init__(self, place: SegmentPlace, *, store: ObjectStore, prefix: str) -> None:
        """Raises OSError where the folder cannot be used."""
        super().__init__(place)
        self._store = store
        self._prefix = f"{prefix}/segments"
        self._opened: dict[int, Segment] = {}
        self._stored: dict[int, StoredSegment] = {}
        self.manifest = Manifest()
        self._files.make_folder(self._folder / "segments")

    def open(self, state: bytes) -> list[tuple[Segment, LiveMask]]:
        """What a checkpoint's *state* names, fetched where it is not there, with the rows that count in it.

        So are the indexes that the owner has put into the store by now, also of segments that are open. Those that
        were open before are the same. Raises StoreCorrupt, CacheMemoryLimitExceeded and OSError.
        """
        shared = _decode(state)
        opened: list[tuple[Segment, LiveMask]] = []
        for entry in shared.manifest.segments:
            # A number is that of one segment for ever, once a checkpoint has named it.
            segment = self._opened.get(entry.id)
            if segment is None:
                stored, path = shared.stored[entry.id], self._path(entry.id)
                fetch_segment(self._store, self._prefix, stored, path, files=self._files)
                segment = self._opened[entry.id] = self._open(entry.id)
            opened.append((segment, LiveMask.from_deleted(entry.deleted, segment.count)))
        self.manifest, self._stored = shared.manifest, shared.stored
        self.fetch_indexes()
        return opened

    def fetch_indexes(self) -> None:
        """Have the indexes that the owner has put into the store since. Raises OSError."""
        listed = repeated(lambda: list(self._store.list(self._prefix)))
        for number in self._opened.keys() & self._stored.keys():
            indexes = indexes_of(self._stored[number], listed)
            fetch_indexes(self._store, indexes, self._path(number), files=self._files)

    @staticmethod
    def nbytes(state: bytes) -> int:
        """See `SharedManifest.nbytes`."""
        return _decode(state).nbytes

    def superseded(self) -> list[Segment]:
        """Those that are open and that the last checkpoint does not name any more; each is told of once."""
        named = {entry.id for entry in self.manifest.segments}
        self._remove_others(named | self._opened.keys())
        return [self._opened.pop(number) for number in self._opened.keys() - named]


def _decode(state: bytes) -> SharedManifest:
    return shared_manifest_decoder.decode(state) if state else SharedManifest(Manifest(), {})
