"""The collections of a cluster, as one of its members has them: the catalog is everybody's, the shards are shared out.

It stands in the place of `VectorStore` where several engines serve one store. What this member has of the shards is in
`local_shards`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from vectorizer_engine.cache.advanced_cache import AdvancedCache
from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.data_folder import (
    Description,
    check_name,
    collection_path,
    taking,
)
from vectorizer_engine.collection.environment import ShardLimits
from vectorizer_engine.collection.shared_collections import (
    alive,
    create_in_catalog,
    decode_description,
    in_doubt,
    open_shared,
    purge_shared,
)
from vectorizer_engine.collection.storage_rule import require_mmap_to_create, require_mmap_to_open
from vectorizer_engine.collection.types import CollectionParams
from vectorizer_engine.config import ObjectStoreConfig
from vectorizer_engine.distributed.gossip import Gossip
from vectorizer_engine.distributed.held_shard import LEASE_SECONDS
from vectorizer_engine.distributed.local_shards import LocalShards
from vectorizer_engine.distributed.messages import CATALOG_PATH
from vectorizer_engine.distributed.parked_collection import ParkedCollection
from vectorizer_engine.distributed.peers import Peers
from vectorizer_engine.distributed.placement import draw_token
from vectorizer_engine.distributed.router import ObserveRequest, Router
from vectorizer_engine.distributed.spread import SpreadCollection
from vectorizer_engine.distributed.topology import KnownTopology, Topology
from vectorizer_engine.distributed.whereabouts import Whereabouts
from vectorizer_engine.errors import (
    CollectionNotFound,
    InvalidRequest,
    StorageFailure,
    StoreClosed,
)
from vectorizer_engine.storage.catalog import Unconfirmed
from vectorizer_engine.storage.commit import ObserveAppend
from vectorizer_engine.storage.counted_store import ObserveCall
from vectorizer_engine.storage.files import Files, disk_errors
from vectorizer_engine.storage.shared_store import SharedStore
from vectorizer_engine.tenants import NO_TENANT

logger = logging.getLogger(__name__)

T = TypeVar("T")

DEFAULT_SHARDS = 6
"""Of a collection that does not say how many it wants."""

MOST_SHARDS = 64
MOST_COPIES = 8

LOOK_SECONDS = 1.0
"""Between attempts to read the catalog, where the store is away."""

NOTICE_SECONDS = 3.0
"""How long a member that stops serves its shards until a topology without it is published, and"""

HAND_OVER_SECONDS = 8.0
"""how long until others have taken them over by that."""


class DistributedStore:
    """Methods may be called from any thread."""

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        key: str,
        readers: int,
        shared: SharedStore,
        memory: CacheMemoryManager,
        files: Files,
        limits: ShardLimits,
        results: Mapping[str, AdvancedCache],
        mmap_only: bool,
        observe_append: ObserveAppend | None,
        observe_request: ObserveRequest | None,
        most_copies: int | None,
        lock: int,
    ) -> None:
        """Use `open`."""
        self._shared = shared
        self._results = results
        self._mmap_only = mmap_only
        self._lock_file = lock
        self.name = name
        self.topology = KnownTopology(path, files=files)
        self._peers = Peers(key)
        self._gossip = Gossip(name, self.topology, self._peers)
        self.local_shards = LocalShards(
            path,
            name=name,
            topology=self.topology,
            peers=self._peers,
            shared=shared,
            memory=memory,
            files=files,
            limits=limits,
            results=results,
            observe_append=observe_append,
            most_copies=most_copies,
        )
        self.router = Router(
            name,
            self.topology,
            self.local_shards.held,
            self.local_shards.followed,
            self._peers,
            self._gossip,
            readers=readers,
            knows=self._knows,
            observe=observe_request,
        )
        self.whereabouts = Whereabouts(
            name, self.topology, self.local_shards.held, self.local_shards.followed, self._peers
        )
        # Held while what follows is made to fit the catalog and the topology.
        self._lock = threading.Lock()
        self._collections: dict[str, SpreadCollection] = {}
        self._by_path: dict[str, SpreadCollection] = {}
        # The version of the topology that the catalog was looked into for.
        self._looked_for = self.topology.current.version
        self._was_ready = False
        self._closed = False

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        name: str,
        key: str,
        readers: int,
        memory: CacheMemoryManager,
        object_store: ObjectStoreConfig,
        files: Files | None = None,
        limits: ShardLimits | None = None,
        results: Mapping[str, AdvancedCache] | None = None,
        mmap_only: bool = False,
        observe_append: ObserveAppend | None = None,
        observe_store: ObserveCall | None = None,
        observe_request: ObserveRequest | None = None,
    ) -> DistributedStore:
        """Take the folder, and begin to serve what the last known topology gives to this member, called *name*.

        *key* is shared by all members, *readers* how many threads may read shards at a time, *observe_request* is told
        of every request to another member. For the rest, and for what is raised, see `VectorStore.open`.
        """
        files = files or Files()
        with disk_errors(f"use the data folder {path}"):
            with taking(path, files) as lock:
                shared = open_shared(path, object_store, files, lease=LEASE_SECONDS, observe=observe_store)
                assert shared is not None, "the configuration was checked"
                if mmap_only:
                    described = map(decode_description, alive(shared.catalog.entries).values())
                    require_mmap_to_open({each.path: each.params.storage for each in described})
                store = cls(
                    path,
                    name=name,
                    key=key,
                    readers=readers,
                    shared=shared,
                    memory=memory,
                    files=files,
                    limits=limits or ShardLimits(),
                    results=results or {},
                    mmap_only=mmap_only,
                    observe_append=observe_append,
                    observe_request=observe_request,
                    most_copies=object_store.max_copies_bytes,
                    lock=lock,
                )
            try:
                store._recover()
            except BaseException:
                store.close()
                raise
        return store

    @property
    def damaged(self) -> dict[str, str]:
        """The shards of this member that cannot be opened, by `collection_path` and number, and why."""
        return {
            f"{entry.path}, shard {shard.number}": reason
            for shard, reason in self.local_shards.held.damaged().items()
            if (entry := self._shared.catalog.entries.get(shard.token)) is not None
        }

    @property
    def waiting(self) -> int:
        """How many shards this member is to serve and does not yet: one at least until it has looked what there is."""
        return max(self.local_shards.held.waiting(), int(self._looked_for < self.topology.current.version))

    @property
    def leaving(self) -> int:
        """How many shards this member serves until others do, which are to."""
        return self.local_shards.held.leaving()

    def is_needed(self, *, stopping_for: float) -> bool:
        """Whether this member, which is stopping for so many seconds, should go on until others have its shards."""
        if self.leaving:
            return stopping_for < HAND_OVER_SECONDS
        topology = self.topology.current
        would_be_replaced = topology.member(self.name) is not None and len(topology.members) > 1
        return (
            would_be_replaced and bool(self.local_shards.held.served_now()) and stopping_for < NOTICE_SECONDS
        )

    @property
    def not_ready(self) -> str | None:
        """Why this member does not serve yet what it should, in words.

        Once it has, it is ready for good: while shards move it serves the others, and requests for those wait.
        """
        if not self._was_ready:
            if not self.topology.current.members:
                return "no topology was published to this member yet"
            if waiting := self.waiting:
                return f"{waiting} shards are being opened"
            self._was_ready = True
        return None

    def create_collection(
        self,
        name: str,
        params: CollectionParams,
        *,
        tenant: str = NO_TENANT,
        shards: int | None = None,
        copies: int = 1,
    ) -> SpreadCollection:
        """*copies* is how many members have each shard at hand: its owner, and readers.

        Raises CollectionExists, InvalidRequest for what cannot be a name or a number of shards, WriteInDoubt.
        """
        check_name(name)
        if shards is not None and not 1 <= shards <= MOST_SHARDS:
            raise InvalidRequest(
                f"shard_number is {shards}: expected 1 to {MOST_SHARDS}, or leave it out for {DEFAULT_SHARDS}"
            )
        if not 1 <= copies <= MOST_COPIES:
            raise InvalidRequest(
                f"replication_factor is {copies}: expected 1 to {MOST_COPIES}, or leave it out for 1"
            )
        if self._mmap_only:
            require_mmap_to_create(name, params.storage)
        created = Description(name, params, tenant, shards or DEFAULT_SHARDS, copies)
        token = draw_token([member.name for member in self.topology.current.members], created.shards)
        with disk_errors(f"create collection '{name}'"):
            try:
                create_in_catalog(self._shared, created, token)
            except Unconfirmed as error:
                raise in_doubt(f"collection '{name}' was created", error) from error
        self._fit()
        self._gossip.tell(CATALOG_PATH)
        return self._collection(token, created)

    def delete_collection(self, name: str, *, tenant: str = NO_TENANT) -> bool:
        """Delete for good. False where there is no such collection. Raises WriteInDoubt."""
        path = collection_path(name, tenant)
        with disk_errors(f"delete collection '{name}'"):
            entries = alive(self._shared.catalog.refresh())
            token = next((token for token, entry in entries.items() if entry.path == path), None)
            if token is None:
                return False
            try:
                deleted = self._shared.catalog.delete(token)
            except Unconfirmed as error:
                raise in_doubt(f"collection '{name}' was deleted", error) from error
        self._fit()
        if not self._gossip.tell(CATALOG_PATH):
            # Who does not know yet that it is gone may answer reads of it for so long.
            time.sleep(LEASE_SECONDS)
        if deleted:
            purge_shared(self._shared, token)
        return deleted

    def collection(self, name: str, *, tenant: str = NO_TENANT) -> SpreadCollection:
        """Raises CollectionNotFound, after a look into the catalog."""
        path = collection_path(name, tenant)
        if path not in self._by_path:
            self.refresh()
        found = self._by_path.get(path)
        if found is None:
            raise CollectionNotFound(name)
        return found

    def collections(self) -> list[SpreadCollection]:
        """All that are known here, whosever they are, by name."""
        known = self._by_path
        return [known[path] for path in sorted(known)]

    def collections_of(self, tenant: str) -> list[SpreadCollection]:
        """A tenant's, or nobody's, by name, after a look into the catalog."""
        self.refresh()
        return [each for each in self.collections() if each.tenant == tenant]

    def serves(self, collection: object) -> bool:
        """Whether *collection* was not deleted, as far as is known here."""
        return any(each is collection for each in self._collections.values())

    def describe(self, what: Callable[[Collection | ParkedCollection], T]) -> list[T]:
        """*what* of each shard that this member serves, as a collection of its own. Opens none of those parked."""
        return self.local_shards.describe(what)

    def refresh(self) -> None:
        """See what others have made and deleted. Raises StorageFailure."""
        version = self.topology.current.version
        with disk_errors("read the catalog"):
            self._shared.catalog.refresh()
        self._fit()
        with self._lock:
            self._looked_for = max(version, self._looked_for)

    def close(self) -> None:
        """Finish what is being written, stop the background work, let go of the folder."""
        if self._closed:
            return
        self._closed = True
        self.local_shards.close()
        self.router.close()
        self._gossip.close()
        self._peers.close()
        for results in self._results.values():
            results.clear()
        os.close(self._lock_file)

    def _recover(self) -> None:
        self.local_shards.begin()
        entries = self._shared.catalog.entries
        for token in entries.keys() - alive(entries).keys():
            purge_shared(self._shared, token)
        self.topology.listen(self._published)
        self._fit()

    def _published(self, topology: Topology) -> None:
        logger.info(
            "topology %d: %s",
            topology.version,
            ", ".join(f"{member.name} at {member.address}" for member in topology.members) or "no members",
        )
        self._fit()
        # Beside the requests, which do not wait for the store to hear of a topology.
        threading.Thread(target=self._look, name="catalog", daemon=True).start()

    def _look(self) -> None:
        """Take also the shards of collections that others made while this was no member: nobody told it of them."""
        while self._looked_for < self.topology.current.version:
            try:
                self.refresh()
            except StorageFailure as error:
                logger.warning("shards of new collections are not taken yet: %s", error)
                time.sleep(LOOK_SECONDS)
            except StoreClosed:
                return

    def _knows(self, token: str) -> bool:
        if token not in self._collections:
            self.refresh()
        return token in self._collections

    def _fit(self) -> None:
        """Have what the catalog and the topology say: the collections, and the shards that are this member's."""
        with self._lock:
            if self._closed:
                raise StoreClosed("the store is shutting down: try again later")
            entries = alive(self._shared.catalog.entries)
            self._collections = {
                token: self._collections.get(token) or self._collection(token, decode_description(entry))
                for token, entry in entries.items()
            }
            self._by_path = {entries[token].path: each for token, each in self._collections.items()}
            self.local_shards.want(self._collections.values())

    def _collection(self, token: str, described: Description) -> SpreadCollection:
        return SpreadCollection(
            described.name,
            described.params,
            tenant=described.tenant,
            token=token,
            shards=described.shards,
            copies=described.copies,
            router=self.router,
        )
