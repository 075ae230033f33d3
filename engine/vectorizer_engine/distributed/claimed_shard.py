"""A shard whose log this member has claimed: opened from the store, and opened again without another claim.

The log and what is known of its segments stay, so another claim, which would stay in the store for ever, is not needed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from vectorizer_engine.cache.advanced_cache import AdvancedCache
from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.data_folder import Description
from vectorizer_engine.collection.environment import ShardEnvironment
from vectorizer_engine.collection.shard import Shard
from vectorizer_engine.distributed.held_shard import LEASE_SECONDS, OpenShard
from vectorizer_engine.distributed.parked_collection import ParkedCollection
from vectorizer_engine.storage.files import disk_errors
from vectorizer_engine.storage.object_log import ObjectLog
from vectorizer_engine.storage.object_segments import ObjectSegmentStore

WORTH_SEALING = 64
"""So many frames of a log are sealed before a shard is parked. Fewer are read again in four rounds of sixteen, while
a segment is three objects to write and three to fetch."""


class ClaimedShard:
    """See `held_shard.Claim`."""

    def __init__(
        self,
        folder: Path,
        described: Description,
        environment: ShardEnvironment,
        segments: ObjectSegmentStore,
        log: ObjectLog,
        *,
        writer: bytes,
        results: AdvancedCache | None,
        room: Callable[[int], AbstractContextManager[None]],
        index_kept: Callable[[], None],
    ) -> None:
        """*room* is made for so many bytes in *folder*, while they are fetched. For *index_kept* see `Shard`."""
        self.writer = writer
        self._folder = folder
        self._described = described
        self._environment = environment
        self._segments = segments
        self._log = log
        self._results = results
        self._room = room
        self._index_kept = index_kept

    def open_first(self) -> OpenShard:
        """Raises StoreCorrupt, StorageFull, StorageFailure, CacheMemoryLimitExceeded."""
        described = self._described
        shard = Shard(
            self._folder,
            described.params,
            self._environment,
            storage=(self._segments, self._log),
            index_kept=self._index_kept,
        )
        collection = Collection(
            described.name, described.params, shard, tenant=described.tenant, results=self._results
        )
        return OpenShard(shard, collection)

    def open(self) -> OpenShard:
        # First, as another member that has it may have removed objects: they would be taken for damaged.
        self.confirm(within=LEASE_SECONDS)
        with self._room(self._segments.stored_bytes):
            return self.open_first()

    def unopened(self) -> ParkedCollection:
        """What is known of it before it was opened."""
        described = self._described
        return ParkedCollection.unopened(
            described.name,
            described.tenant,
            described.params,
            self._segments.manifest,
            last_operation=self._log.next_number - 1,
        )

    def settle(self, shard: Shard, *, within: float) -> None:
        shard.settle(seal=self._log.to_replay > WORTH_SEALING, within=within)

    def confirm(self, *, within: float) -> None:
        with disk_errors(f"make sure that {self._folder} is still served here"):
            self._log.confirm(within=within)
