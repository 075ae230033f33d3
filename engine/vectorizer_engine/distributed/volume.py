"""The shards of one member on its volume: opened, copied ahead before they are, and let go of.

The folder has nothing but copies of what is in the shared store. They lie at ROOT/COLLECTION.TOKEN/shard-N.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from vectorizer_engine.cache.advanced_cache import AdvancedCache
from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.collection_reader import CollectionReader
from vectorizer_engine.collection.data_folder import Description, folder_stem, shard_number, token_of
from vectorizer_engine.collection.environment import ShardEnvironment
from vectorizer_engine.collection.shard import Shard
from vectorizer_engine.collection.shard_reader import ShardReader
from vectorizer_engine.collection.shared_collections import alive, decode_description
from vectorizer_engine.distributed.copies import Copies
from vectorizer_engine.distributed.followed_shards import OpenReader
from vectorizer_engine.distributed.held_shard import HeldShard, ShardId
from vectorizer_engine.errors import CollectionGone
from vectorizer_engine.storage.files import disk_errors
from vectorizer_engine.storage.object_log import new_writer
from vectorizer_engine.storage.shared_store import SharedStore


class Volume:
    """Any thread may call."""

    def __init__(
        self,
        root: Path,
        shared: SharedStore,
        environment: ShardEnvironment,
        *,
        memory: CacheMemoryManager,
        results: Mapping[str, AdvancedCache],
        is_used: Callable[[ShardId], bool],
        observe: Callable[[ShardId, int, int], None],
        index_kept: Callable[[ShardId], None],
    ) -> None:
        """*is_used* says whether this member serves or reads a shard, or is about to.

        *observe* is told of each frame of the log of a shard that others read, with its size, *index_kept* of each
        index that was put into the store. For *results* see `VectorStore.open`.
        """
        self._root = root
        self._shared = shared
        self._environment = environment
        self._files = environment.files
        self._memory = memory
        self._results = results
        self._is_used = is_used
        self._observe = observe
        self._index_kept = index_kept
        self._copies = Copies(root, files=environment.files)

    def remove_strangers(self) -> None:
        """Remove what is of no collection that there is. Raises OSError."""
        known = alive(self._shared.catalog.entries)
        for folder in list(self._root.iterdir()):
            if token_of(folder) not in known:
                self._files.remove_tree(folder)

    def copy_ahead(self, shard: ShardId, still_wanted: Callable[[], bool]) -> None:
        """Copy what a shard consists of, which another member serves. Raises EngineError."""
        described = self._described(shard)
        with disk_errors(f"copy shard {shard.number} of '{described.name}'"):
            self._shared.copy_ahead(
                self._make_folder(shard, described), shard.token, files=self._files, wanted=still_wanted
            )

    def open(self, shard: ShardId, predecessor: bytes | None) -> HeldShard:
        """Take a shard over, after the writer *predecessor* if it let go of it. Raises EngineError."""
        described = self._described(shard)
        succession = new_writer(
            after=predecessor, observe=partial(self._observe, shard) if described.copies > 1 else None
        )
        opened = Shard(
            self._make_folder(shard, described),
            described.params,
            self._environment_of(described.tenant),
            succession=succession,
            index_kept=partial(self._index_kept, shard),
        )
        collection = Collection(
            described.name,
            described.params,
            opened,
            tenant=described.tenant,
            results=self._results.get(described.tenant),
        )
        return HeldShard(opened, collection, succession.writer)

    def open_reader(self, shard: ShardId) -> OpenReader:
        """Read along a shard that another member serves. Raises EngineError, Outrun."""
        described = self._described(shard)
        opened = ShardReader(
            self._make_folder(shard, described), described.params, self._environment_of(described.tenant)
        )
        collection = CollectionReader(
            described.name,
            described.params,
            opened,
            tenant=described.tenant,
            results=self._results.get(described.tenant),
        )
        return OpenReader(opened, collection)

    def let_go(self, shard: ShardId) -> None:
        """Remove the copies of a collection that was deleted. Others are kept while there is room."""
        entry = self._shared.catalog.entries.get(shard.token)
        if entry is None or entry.deleted:
            for folder in list(self._root.iterdir()):
                if token_of(folder) == shard.token:
                    self._files.remove_tree(folder)
            return
        self._copies.not_served_any_more(self._folder(shard, decode_description(entry)))
        self._copies.make_room(self._is_in_use)

    def _environment_of(self, tenant: str) -> ShardEnvironment:
        return replace(self._environment, memory=self._memory.account(tenant))

    def _described(self, shard: ShardId) -> Description:
        """After a look into the catalog: the log of a collection that was deleted must not be opened.

        Raises CollectionGone, StorageFailure.
        """
        with disk_errors("read the catalog"):
            entry = self._shared.catalog.refresh().get(shard.token)
        if entry is None or entry.deleted:
            raise CollectionGone(shard.token)
        return decode_description(entry)

    def _make_folder(self, shard: ShardId, described: Description) -> Path:
        folder = self._folder(shard, described)
        with disk_errors(f"open {folder}"):
            self._copies.make_room(self._is_in_use)
            self._files.make_folder(folder)
        return folder

    def _folder(self, shard: ShardId, described: Description) -> Path:
        stem = folder_stem(described.name, described.tenant)
        return self._root / f"{stem}.{shard.token}" / described.shard_names[shard.number]

    def _is_in_use(self, folder: Path) -> bool:
        return self._is_used(ShardId(token_of(folder.parent), shard_number(folder.name)))
