"""The shared store of an engine: opened and proved, the catalog of its collections, and their shards in it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from urllib.parse import unquote, urlsplit

from vectorizer_engine.config import ObjectStoreConfig
from vectorizer_engine.storage.catalog import Catalog
from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.folder_store import FolderStore
from vectorizer_engine.storage.followed_segments import FollowedSegments
from vectorizer_engine.storage.garbage import Garbage, Later
from vectorizer_engine.storage.log_tail import LogTail
from vectorizer_engine.storage.object_log import ObjectLog, Succession
from vectorizer_engine.storage.object_segments import ObjectSegmentStore, copy_segments_ahead
from vectorizer_engine.storage.object_store import (
    CloudStore,
    ObjectStore,
    prove_create_if_absent,
    repeated,
)
from vectorizer_engine.storage.segment_folder import SegmentPlace

logger = logging.getLogger(__name__)

_COLLECTIONS = "collections"
_AT_ONCE = 1000


def open_object_store(config: ObjectStoreConfig, *, files: Files) -> ObjectStore:
    """The store that *config* names, after it was proved. Raises StoreUnsuitable and OSError."""
    assert config.url is not None, "asked for only where there is one"
    parts = urlsplit(config.url)
    store: ObjectStore
    if parts.scheme == "file":
        store = FolderStore(Path(unquote(parts.path)), files=files)
    else:
        given = {"endpoint": config.endpoint, "region": config.region}
        store = CloudStore(config.url, {name: value for name, value in given.items() if value is not None})
    prove_create_if_absent(store, url=config.url)
    return store


class SharedStore:
    """The collections in *store*. Any thread may call."""

    def __init__(self, store: ObjectStore, url: str, *, lease: float = 0.0) -> None:
        """*lease* is for how long owners of shards answer reads by themselves, in seconds; see `ObjectLog`.

        Raises StoreCorrupt where the catalog is damaged, and OSError.
        """
        self.url = url
        self._lease = lease
        self.catalog = Catalog(store)
        self._store = store

    def create_shard(self, token: str, shard: str) -> None:
        """Make an empty shard of a collection that nobody knows yet. Raises OSError."""
        ObjectLog.create(self._store, _prefix(token, shard))

    def open_shard(
        self,
        place: SegmentPlace,
        token: str,
        *,
        succession: Succession | None = None,
        later: Later,
    ) -> tuple[ObjectSegmentStore, ObjectLog]:
        """Take over the shard of which the folder of *place*, named as the shard is, holds copies.

        Nothing is fetched yet, and the folder need not be there. For *succession* see `ObjectLog`; *later* has done
        what can wait. Raises StoreCorrupt, Fenced and OSError.
        """
        prefix = _prefix(token, place.folder.name)
        garbage = Garbage(self._store, later=later)
        log = ObjectLog(self._store, prefix, garbage=garbage, lease=self._lease, succession=succession)
        segments = ObjectSegmentStore(place, store=self._store, prefix=prefix, log=log, garbage=garbage)
        return segments, log

    def open_to_read(self, place: SegmentPlace, token: str) -> tuple[FollowedSegments, LogTail]:
        """The shard of which the folder of *place* holds copies, for somebody who does not own it.

        Raises StoreCorrupt, Outrun and OSError.
        """
        prefix = _prefix(token, place.folder.name)
        segments = FollowedSegments(place, store=self._store, prefix=prefix)
        return segments, LogTail(self._store, prefix)

    def copy_ahead(
        self,
        folder: Path,
        token: str,
        *,
        files: Files,
        admit: Callable[[int], bool],
        wanted: Callable[[], bool],
    ) -> None:
        """Copy the segments of a shard to *folder* without taking it over; see `copy_segments_ahead`.

        What is there when the shard is opened need not be fetched then. Raises StoreCorrupt and OSError.
        """
        prefix = _prefix(token, folder.name)
        copy_segments_ahead(self._store, prefix, folder, files=files, admit=admit, wanted=wanted)

    def purge(self, token: str, shards: Iterable[str]) -> None:
        """Remove the objects of a collection that the catalog has as deleted, and then its entry.

        The log of each of its *shards* is claimed first, so that an owner that knows of nothing acknowledges nothing
        more. Claims stay.
        """
        for shard in shards:
            self._purge_shard(_prefix(token, shard))
        self.catalog.forget(token)

    def _purge_shard(self, prefix: str) -> None:
        log = ObjectLog(self._store, prefix, garbage=Garbage(self._store))
        kept = set(log.claims())
        names = (name for name, _ in repeated(lambda: list(self._store.list(prefix))) if name not in kept)
        while some := list(islice(names, _AT_ONCE)):
            repeated(lambda some=some: self._store.delete(some))  # type: ignore[misc]


def _prefix(token: str, shard: str) -> str:
    return f"{_COLLECTIONS}/{token}/{shard}"
