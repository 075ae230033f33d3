"""The shards of one member on its volume: claimed and opened, copied ahead before they are, and let go of.

The folder has nothing but copies of what is in the shared store. They lie at ROOT/COLLECTION.TOKEN/shard-N.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from vectorizer_engine.cache.advanced_cache import AdvancedCache
from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.collection.collection_reader import CollectionReader
from vectorizer_engine.collection.data_folder import Description, folder_stem, shard_number, token_of
from vectorizer_engine.collection.environment import ShardEnvironment
from vectorizer_engine.collection.shard_reader import ShardReader
from vectorizer_engine.collection.shared_collections import alive, decode_description
from vectorizer_engine.distributed.claimed_shard import ClaimedShard
from vectorizer_engine.distributed.copies import Copies
from vectorizer_engine.distributed.followed_shards import NoRoom, OpenReader
from vectorizer_engine.distributed.held_shard import HeldShard, ShardId
from vectorizer_engine.distributed.room import Giver, Giving, Room
from vectorizer_engine.errors import CollectionGone
from vectorizer_engine.storage.files import disk_errors
from vectorizer_engine.storage.object_log import new_writer
from vectorizer_engine.storage.shared_store import SharedStore

AT_ONCE = 4
"""So many parked shards are opened at a time, beside those that are taken over, which may wait for other members."""


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
        most_bytes: int | None,
        is_used: Callable[[ShardId], bool],
        givers: Callable[[], Iterator[tuple[ShardId, Giving, Callable[[float], bool]]]],
        observe: Callable[[ShardId, int, int], None],
        index_kept: Callable[[ShardId], None],
    ) -> None:
        """*most_bytes* is how much the copies may take: see `Copies`.

        *is_used* says whether this member serves or reads a shard, or is about to; *givers* are the shards that may be
        closed to make room, as in `Room`. *observe* is told of each frame of the log of a shard that others read, with
        its size, *index_kept* of each index that was put into the store. For *results* see `VectorStore.open`.
        """
        self._root = root
        self._shared = shared
        self._files = environment.files
        self._memory = memory
        self._results = results
        self._observe = observe
        self._index_kept = index_kept
        self.copies = Copies(root, files=environment.files, limit=most_bytes)
        self._room = Room(
            self.copies,
            is_used=lambda folder: is_used(_shard_in(folder)),
            givers=lambda: (
                Giver(folder, giving, close)
                for shard, giving, close in givers()
                if (folder := self._folder_of(shard)) is not None
            ),
        )
        self._environment = replace(environment, observe_files=self._room.changed)
        self._opening = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="shard-waking")
        # What readers would need that had no room, so that the store is not asked each time they try.
        self._refused: dict[ShardId, int] = {}
        self._counting = threading.Lock()
        self.opened_again = 0
        """How often parked shards were opened."""

    def begin(self) -> None:
        """Remove what is of no collection that there is, and look how much is there. Raises OSError."""
        known = alive(self._shared.catalog.entries)
        for folder in list(self._root.iterdir()):
            if token_of(folder) not in known:
                self._files.remove_tree(folder)
        self.copies.measure_all()

    def close(self) -> None:
        """After all shards were."""
        self._opening.shutdown()
        self._room.close()

    def copy_ahead(self, shard: ShardId, still_wanted: Callable[[], bool]) -> None:
        """Copy what a shard consists of, which another member serves, where there is room. Raises EngineError."""
        described = self._described(shard)
        folder = self._folder(shard, described)
        with disk_errors(f"copy shard {shard.number} of '{described.name}'"), self._filling(folder):
            self._shared.copy_ahead(
                folder,
                shard.token,
                files=self._files,
                admit=lambda nbytes: self._room.take(folder, nbytes, giving=Giving.READERS),
                wanted=still_wanted,
            )

    def open(self, shard: ShardId, predecessor: bytes | None) -> HeldShard:
        """Take a shard over, after the writer *predecessor* if it let go of it. Raises EngineError.

        It stays parked where there is room for it only if others were.
        """
        described = self._described(shard)
        folder = self._folder(shard, described)
        succession = new_writer(
            after=predecessor, observe=partial(self._observe, shard) if described.copies > 1 else None
        )
        environment = self._environment_of(described.tenant)
        with disk_errors(f"open {folder}"):
            segments, log = self._shared.open_shard(
                environment.segment_place(folder, described.params),
                shard.token,
                succession=succession,
                later=environment.later,
            )
            claimed = ClaimedShard(
                folder,
                described,
                environment,
                segments,
                log,
                writer=succession.writer,
                results=self._results.get(described.tenant),
                room=partial(self._opening_again, folder),
                index_kept=partial(self._index_kept, shard),
            )
            if self._room.take(folder, segments.stored_bytes, giving=Giving.READERS):
                with self._filling(folder):
                    return HeldShard(claimed, claimed.open_first(), opening=self._opening)
            self.copies.remove(folder)
        return HeldShard(claimed, claimed.unopened(), opening=self._opening)

    def open_reader(self, shard: ShardId) -> OpenReader:
        """Read along a shard that another member serves. Raises EngineError, Outrun, NoRoom."""
        described = self._described(shard)
        folder = self._folder(shard, described)

        def admit(nbytes: int) -> None:
            self._refused.pop(shard, None)
            with disk_errors(f"make room for {folder}"):
                if not self._room.take(folder, nbytes, giving=Giving.UNSERVED):
                    self._refused[shard] = nbytes
                    raise NoRoom

        if self.copies.excess(folder, self._refused.get(shard, 0)) > 0:
            raise NoRoom
        with disk_errors(f"open {folder}"), self._filling(folder):
            opened = ShardReader(
                folder, described.params, self._environment_of(described.tenant), admit=admit
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
        self._refused.pop(shard, None)
        entry = self._shared.catalog.entries.get(shard.token)
        if entry is None or entry.deleted:
            for folder in list(self._root.iterdir()):
                if token_of(folder) == shard.token:
                    for each in folder.glob("shard-*"):
                        self.copies.remove(each)
                    self._files.remove_tree(folder)
            return
        self.copies.not_served_any_more(self._folder(shard, decode_description(entry)))
        self._room.tidy()

    @contextmanager
    def _filling(self, folder: Path) -> Iterator[None]:
        try:
            yield
        finally:
            self._room.filled(folder)

    @contextmanager
    def _opening_again(self, folder: Path, nbytes: int) -> Iterator[None]:
        with disk_errors(f"make room for {folder}"):
            self._room.take(folder, nbytes, giving=Giving.OWNERS)
        with self._filling(folder):
            yield
        with self._counting:
            self.opened_again += 1

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

    def _folder_of(self, shard: ShardId) -> Path | None:
        """None for a shard of a collection that was deleted."""
        entry = self._shared.catalog.entries.get(shard.token)
        return None if entry is None or entry.deleted else self._folder(shard, decode_description(entry))

    def _folder(self, shard: ShardId, described: Description) -> Path:
        stem = folder_stem(described.name, described.tenant)
        return self._root / f"{stem}.{shard.token}" / described.shard_names[shard.number]


def _shard_in(folder: Path) -> ShardId:
    return ShardId(token_of(folder.parent), shard_number(folder.name))
