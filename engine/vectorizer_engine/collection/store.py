"""The collections of an engine process: recovered from a data folder, made, deleted and handed out.

A collection is made and deleted under a name that begins with a dot, and renamed in one step, so that a crash
leaves all of it or something that the next start removes. What lies in the folder is told by `data_folder`.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from vectorizer_engine.cache.advanced_cache import AdvancedCache
from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.data_folder import (
    SHARD,
    Description,
    check_name,
    collection_path,
    folder_stem,
    read_description,
    taking,
    token_of,
    write_description,
)
from vectorizer_engine.collection.environment import ShardEnvironment, ShardLimits
from vectorizer_engine.collection.maintenance import Maintenance
from vectorizer_engine.collection.shard import Shard, create_shard
from vectorizer_engine.collection.shared_collections import (
    CatalogChanges,
    fit_folder,
    open_shared,
    purge_shared,
)
from vectorizer_engine.collection.storage_rule import require_mmap_to_create, require_mmap_to_open
from vectorizer_engine.collection.types import CollectionParams
from vectorizer_engine.config import ObjectStoreConfig
from vectorizer_engine.errors import (
    CollectionExists,
    CollectionNotFound,
    InvalidRequest,
    StorageFailure,
    StoreClosed,
    StoreCorrupt,
    WriteInDoubt,
)
from vectorizer_engine.storage.commit import ObserveAppend
from vectorizer_engine.storage.counted_store import ObserveCall
from vectorizer_engine.storage.files import Files, disk_errors
from vectorizer_engine.storage.shared_store import SharedStore
from vectorizer_engine.tenants import NO_TENANT

logger = logging.getLogger(__name__)

T = TypeVar("T")


class _Open(NamedTuple):
    collection: Collection
    shard: Shard
    folder: Path


class _Damaged(NamedTuple):
    folder: Path
    reason: str


class VectorStore:
    """Every collection of one engine process. Methods may be called from any thread."""

    def __init__(
        self,
        path: Path,
        *,
        memory: CacheMemoryManager,
        files: Files,
        limits: ShardLimits,
        results: Mapping[str, AdvancedCache],
        mmap_only: bool,
        merging: bool,
        shared: SharedStore | None,
        observe_append: ObserveAppend | None,
        lock: int,
    ) -> None:
        """Use `open`."""
        self._shared = shared
        self._changes = None if shared is None else CatalogChanges(shared)
        self._mmap_only = mmap_only
        self._results = results
        self._memory = memory
        self._root = path / "collections"
        self._files = files
        self._lock_file = lock
        maintenance = Maintenance(merging=merging)
        self._environment = ShardEnvironment(
            memory, maintenance, files, path / "scratch", limits, shared, observe_append
        )
        # Held while a collection is made or deleted, which waits for an object store where there is one.
        self._lock = threading.Lock()
        # Held from when a collection's folder goes until it is not in the maps, which are by `collection_path`.
        self._vanishing = threading.Lock()
        self._open: dict[str, _Open] = {}
        self._damaged: dict[str, _Damaged] = {}
        self._closed = False

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        memory: CacheMemoryManager,
        files: Files | None = None,
        limits: ShardLimits | None = None,
        results: Mapping[str, AdvancedCache] | None = None,
        mmap_only: bool = False,
        merging: bool = True,
        object_store: ObjectStoreConfig | None = None,
        observe_append: ObserveAppend | None = None,
        observe_store: ObserveCall | None = None,
    ) -> VectorStore:
        """Take the folder (made where it is missing) and recover what it holds.

        A collection that is damaged beyond what its other segments can stand in for is set apart: see
        `damaged`. With *results*, the answers of searches in a tenant's collections are kept in the tenant's.
        With *mmap_only*, as in cluster mode, collections in memory storage are refused: those that are to be
        made, and a folder that holds any. Without *merging*, segments are neither merged nor indexed: for those
        who only look. With *object_store*, collections live there, and the folder holds copies, any of which may
        be missing.

        *observe_append* is told of every append to a log, *observe_store* of every call to the object store.
        Raises StoreLocked, StoreVersionError, StoreUnsuitable, ClusterConfigViolation, StorageFull, or
        StorageFailure where the folder or the object store cannot be used.
        """
        files = files or Files()
        with disk_errors(f"use the data folder {path}"):
            with taking(path, files) as lock:
                store = cls(
                    path,
                    memory=memory,
                    files=files,
                    limits=limits or ShardLimits(),
                    results=results or {},
                    mmap_only=mmap_only,
                    merging=merging,
                    shared=open_shared(path, object_store, files, observe=observe_store),
                    observe_append=observe_append,
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
        """The collections that cannot be opened, by `collection_path`, and why."""
        return {path: damaged.reason for path, damaged in self._damaged.items()}

    def create_collection(
        self,
        name: str,
        params: CollectionParams,
        *,
        tenant: str = NO_TENANT,
        shards: int | None = None,
        copies: int = 1,
    ) -> Collection:
        """Raises CollectionExists, InvalidRequest for a name that cannot be one, ClusterConfigViolation.

        An engine that is not a member of a cluster has one of *shards*, and one of *copies*.
        """
        check_name(name)
        if shards not in (None, 1):
            raise InvalidRequest(
                f"shard_number is {shards}: an engine that serves alone keeps a collection in one: leave it out"
            )
        if copies != 1:
            raise InvalidRequest(
                f"replication_factor is {copies}: an engine that serves alone has no other to read along: leave it out"
            )
        if self._mmap_only:
            require_mmap_to_create(name, params.storage)
        created = Description(name, params, tenant)
        with self._lock, disk_errors(f"create collection '{name}'"):
            self._check_usable()
            if created.path in self._open or created.path in self._damaged:
                raise CollectionExists(name)
            token = secrets.token_hex(4) if self._changes is None else self._changes.create(created)
            try:
                folder = self._make_folder(created, token)
                try:
                    collection = self._open_collection(created, folder)
                except BaseException:
                    self._files.remove_tree(folder)
                    raise
            except BaseException:
                if self._changes is not None:
                    self._changes.abandon(token)
                raise
            if self._changes is not None:
                self._changes.opened(token)
            return collection

    def delete_collection(self, name: str, *, tenant: str = NO_TENANT) -> bool:
        """Delete for good. False where there is no such collection."""
        path = collection_path(name, tenant)
        with self._lock, disk_errors(f"delete collection '{name}'"):
            self._check_usable()
            entry = self._open.get(path)
            found = entry or self._damaged.get(path)
            if found is None:
                return self._changes is not None and self._changes.delete_unopened(path)
            token = token_of(found.folder)
            try:
                if self._changes is not None:
                    self._changes.delete(token)
            except WriteInDoubt:
                self._remove(path, found.folder)
                raise
            self._remove(path, found.folder)
            if self._shared is not None:
                purge_shared(self._shared, token)
            return True

    def collection(self, name: str, *, tenant: str = NO_TENANT) -> Collection:
        """Raises CollectionNotFound, or StorageFailure for one that is damaged."""
        path = collection_path(name, tenant)
        entry = self._open.get(path)
        if entry is not None:
            return entry.collection
        if path in self._damaged:
            raise StorageFailure(f"collection '{name}' cannot be served: {self._damaged[path].reason}")
        raise CollectionNotFound(name)

    def identity(self, name: str) -> str:
        """Tells a collection of no tenant from an earlier or later one of its name. Raises CollectionNotFound."""
        entry = self._open.get(name)
        if entry is None:
            raise CollectionNotFound(name)
        return entry.folder.name

    def collections(self) -> list[Collection]:
        """All that can be served, whosever they are."""
        opened = self._open.copy()
        return [opened[path].collection for path in sorted(opened)]

    def serves(self, collection: object) -> bool:
        """Whether *collection* was not deleted. Its folder may be removed just now: then it was."""
        with self._vanishing:
            return any(entry.collection is collection for entry in self._open.copy().values())

    def collections_of(self, tenant: str) -> list[Collection]:
        """A tenant's, or nobody's, that can be served, by name."""
        return [collection for collection in self.collections() if collection.tenant == tenant]

    def describe(self, what: Callable[[Collection], T]) -> list[T]:
        """*what* of each collection whose points are in this process: of all."""
        return [what(collection) for collection in self.collections()]

    @property
    def not_ready(self) -> str | None:
        """Why not all is served yet, in words. An open store has recovered everything."""
        return None

    def close(self) -> None:
        """Finish what is being written, stop the background work, let go of the folder."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._environment.maintenance.close()
            for entry in self._open.values():
                entry.shard.close()
            self._open.clear()
            for results in self._results.values():
                results.clear()
            os.close(self._lock_file)

    def _check_usable(self) -> None:
        if self._closed:
            raise StoreClosed("the store is shutting down: try again later")

    def _make_folder(self, described: Description, token: str) -> Path:
        """The folder of a collection that has no points yet, or no copies. Raises OSError, and leaves nothing."""
        folder = self._root / f"{folder_stem(described.name, described.tenant)}.{token}"
        making = self._root / f".new-{token}"
        try:
            self._files.make_folder(making / SHARD)
            if self._shared is None:
                create_shard(making / SHARD, files=self._files)
            write_description(making, described, files=self._files)
            self._files.rename(making, folder)
            self._files.sync_folder(self._root)
        except BaseException:
            self._files.remove_tree(making)
            self._files.remove_tree(folder)
            raise
        return folder

    def _remove(self, path: str, folder: Path) -> None:
        """Close the collection, if it is open, and remove its folder."""
        doomed = self._root / f".old-{token_of(folder)}"
        with self._vanishing:
            self._files.rename(folder, doomed)
            entry = self._open.pop(path, None)
            self._damaged.pop(path, None)
        try:
            self._files.sync_folder(self._root)
        finally:
            if entry is not None:
                entry.shard.close()
            self._files.remove_tree(doomed)

    def _recover(self) -> None:
        if self._shared is not None:
            fit_folder(self._root, self._shared, self._make_folder, files=self._files)
        described: dict[Path, Description] = {}
        leftovers: list[Path] = []
        for folder in sorted(self._root.iterdir()):
            if folder.name.startswith("."):
                leftovers.append(folder)
                continue
            try:
                described[folder] = read_description(folder)
            except StoreCorrupt as error:
                self._set_apart(folder.name.rpartition(".")[0].replace(".", "/"), folder, error)
        if self._mmap_only:  # before anything is opened or changed
            require_mmap_to_open({each.path: each.params.storage for each in described.values()})
        for folder in leftovers:
            self._files.remove_tree(folder)
        for folder, description in described.items():
            try:
                self._open_collection(description, folder)
            except StoreCorrupt as error:
                self._set_apart(description.path, folder, error)

    def _set_apart(self, path: str, folder: Path, error: StoreCorrupt) -> None:
        logger.error("collection '%s' cannot be served: %s", path, error)
        self._damaged[path] = _Damaged(folder, str(error))

    def _open_collection(self, described: Description, folder: Path) -> Collection:
        tenant = described.tenant
        environment = replace(self._environment, memory=self._memory.account(tenant))
        shard = Shard(folder / SHARD, described.params, environment)
        collection = Collection(
            described.name, described.params, shard, tenant=tenant, results=self._results.get(tenant)
        )
        self._open[described.path] = _Open(collection, shard, folder)
        return collection
