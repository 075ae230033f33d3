"""A data folder: the collections in it, and who may work on it.

    FORMAT             the version of everything below
    LOCK               held by the one process that works here
    scratch/           files without a name; they go with the process
    collections/NAME.TOKEN/collection.json, shard-0/
    collections/TENANT.NAME.TOKEN/…          where the collection is a tenant's
    STORE              the address of the shared store that everything below is copied from, where there is one

A collection is made and deleted under a name that begins with a dot, and renamed in one step, so that a crash
leaves all of it or something that the next start removes. The token tells a collection from an earlier one of
the same name.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import secrets
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import msgspec

from vectorizer_engine.cache.advanced_cache import AdvancedCache
from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.environment import ShardEnvironment, ShardLimits
from vectorizer_engine.collection.maintenance import Maintenance
from vectorizer_engine.collection.shard import Shard, create_shard, token_of
from vectorizer_engine.collection.storage_rule import require_mmap_to_create, require_mmap_to_open
from vectorizer_engine.collection.types import CollectionParams
from vectorizer_engine.config import ObjectStoreConfig
from vectorizer_engine.errors import (
    CollectionExists,
    CollectionNotFound,
    EngineError,
    InvalidRequest,
    StorageFailure,
    StoreClosed,
    StoreCorrupt,
    StoreLocked,
    StoreUnsuitable,
    StoreVersionError,
)
from vectorizer_engine.storage.catalog import Entries
from vectorizer_engine.storage.checked_text import decode_checked, encode_checked
from vectorizer_engine.storage.files import Files, disk_errors
from vectorizer_engine.storage.shared_store import SharedStore, open_object_store
from vectorizer_engine.tenants import NO_TENANT

logger = logging.getLogger(__name__)

FORMAT = 1

_FORMAT_LINE = re.compile(rb"vectorizer-storage (\d+)\n")
_UNUSABLE = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
"""What Qdrant refuses in a collection's name."""
_SHARD = "shard-0"
STORE_MARK = "STORE"
_DESCRIPTION = "collection.json"


class Description(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a collection's folder says of itself."""

    name: str
    params: CollectionParams
    tenant: str = NO_TENANT

    @property
    def path(self) -> str:
        """The one of all collections that this is, in words."""
        return collection_path(self.name, self.tenant)


def collection_path(name: str, tenant: str) -> str:
    """NAME, or TENANT/NAME where a tenant's is meant. No name holds a slash."""
    return f"{tenant}/{name}" if tenant else name


class _Open(NamedTuple):
    collection: Collection
    shard: Shard
    folder: Path


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
        shared: SharedStore | None,
        lock: int,
    ) -> None:
        """Use `open`."""
        self._shared = shared
        self._mmap_only = mmap_only
        self._results = results
        self._memory = memory
        self._root = path / "collections"
        self._files = files
        self._lock_file = lock
        self._environment = ShardEnvironment(memory, Maintenance(), files, path / "scratch", limits, shared)
        # Guards the two maps, by `collection_path`, and is held while a collection is made or deleted.
        self._lock = threading.Lock()
        self._open: dict[str, _Open] = {}
        self._damaged: dict[str, str] = {}
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
        object_store: ObjectStoreConfig | None = None,
    ) -> VectorStore:
        """Take the folder (made where it is missing) and recover what it holds.

        A collection that is damaged beyond what its other segments can stand in for is set apart: see
        `damaged`. With *results*, the answers of searches in a
        tenant's collections are kept in the tenant's. With *mmap_only*, as in cluster mode,
        collections in memory storage are refused: those that are to be made, and a folder that holds any.
        With *object_store*, collections live there, and the folder holds copies, any of which may be missing.
        Raises StoreLocked, StoreVersionError, StoreUnsuitable, ClusterConfigViolation, StorageFull, or
        StorageFailure where the folder or the object store cannot be used.
        """
        files = files or Files()
        with disk_errors(f"use the data folder {path}"):
            if not path.exists():
                files.make_folder(path)
                files.sync_folder(path.parent)
            for folder in (path / "collections", path / "scratch"):
                files.make_folder(folder)
            lock = take_lock(path)
            try:
                check_format(path, files)
                shared = open_shared(path, object_store, files)
                store = cls(
                    path,
                    memory=memory,
                    files=files,
                    limits=limits or ShardLimits(),
                    results=results or {},
                    mmap_only=mmap_only,
                    shared=shared,
                    lock=lock,
                )
                store._recover()
            except BaseException:
                os.close(lock)
                raise
        return store

    @property
    def damaged(self) -> dict[str, str]:
        """The collections that cannot be opened, by `collection_path`, and why."""
        return dict(self._damaged)

    def create_collection(
        self, name: str, params: CollectionParams, *, tenant: str = NO_TENANT
    ) -> Collection:
        """Raises CollectionExists, InvalidRequest for a name that cannot be one, ClusterConfigViolation."""
        _check_name(name)
        if self._mmap_only:
            require_mmap_to_create(name, params.storage)
        created = Description(name, params, tenant)
        with self._lock, disk_errors(f"create collection '{name}'"):
            self._check_usable()
            if created.path in self._open or created.path in self._damaged:
                raise CollectionExists(name)
            token = secrets.token_hex(4) if self._shared is None else self._create_shared(created)
            folder = self._folder(created, token)
            try:
                self._make_folder(created, folder)
                return self._open_collection(created, folder)
            except BaseException:
                self._files.remove_tree(folder)
                if self._shared is not None:
                    self._shared.catalog.delete(token)
                raise

    def delete_collection(self, name: str, *, tenant: str = NO_TENANT) -> bool:
        """Delete for good. False where there is no such collection."""
        path = collection_path(name, tenant)
        with self._lock, disk_errors(f"delete collection '{name}'"):
            self._check_usable()
            entry = self._open.get(path)
            if entry is None and path not in self._damaged:
                return False
            folder = entry.folder if entry else self._folder_of_damaged(name, tenant)
            if self._shared is not None:
                self._shared.catalog.delete(token_of(folder))
            doomed = self._root / f".old-{folder.name.rpartition('.')[2]}"
            self._files.rename(folder, doomed)
            self._open.pop(path, None)
            self._damaged.pop(path, None)
            try:
                self._files.sync_folder(self._root)
            finally:
                if entry is not None:
                    entry.shard.close()
                self._files.remove_tree(doomed)
            if self._shared is not None:
                self._purge(self._shared, token_of(folder))
            return True

    def collection(self, name: str, *, tenant: str = NO_TENANT) -> Collection:
        """Raises CollectionNotFound, or StorageFailure for one that is damaged."""
        path = collection_path(name, tenant)
        entry = self._open.get(path)
        if entry is not None:
            return entry.collection
        if path in self._damaged:
            raise StorageFailure(f"collection '{name}' cannot be served: {self._damaged[path]}")
        raise CollectionNotFound(name)

    def identity(self, name: str) -> str:
        """Tells a collection of no tenant from an earlier or later one of its name. Raises CollectionNotFound."""
        entry = self._open.get(name)
        if entry is None:
            raise CollectionNotFound(name)
        return entry.folder.name

    def collections(self) -> list[Collection]:
        """All that can be served, whosever they are."""
        with self._lock:
            return [self._open[path].collection for path in sorted(self._open)]

    def collections_of(self, tenant: str) -> list[Collection]:
        """A tenant's, or nobody's, that can be served, by name."""
        return [collection for collection in self.collections() if collection.tenant == tenant]

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

    def _folder(self, described: Description, token: str) -> Path:
        return self._root / f"{_folder_name(described.name, described.tenant)}.{token}"

    def _make_folder(self, described: Description, folder: Path) -> None:
        """Make the folder of a collection that has no points yet, or no copies. Raises OSError, and leaves nothing."""
        making = self._root / f".new-{token_of(folder)}"
        try:
            self._files.make_folder(making / _SHARD)
            if self._shared is None:
                create_shard(making / _SHARD, files=self._files)
            self._files.replace_file(making / _DESCRIPTION, encode_checked(msgspec.json.encode(described)))
            self._files.rename(making, folder)
            self._files.sync_folder(self._root)
        except BaseException:
            self._files.remove_tree(making)
            raise

    def _create_shared(self, described: Description) -> str:
        """The token of a new collection in the shared store. Raises CollectionExists, OSError."""
        assert self._shared is not None

        def check(entries: Entries) -> None:
            if any(entry.path == described.path and not entry.deleted for entry in entries.values()):
                raise CollectionExists(described.name)

        token = secrets.token_hex(8)
        self._shared.create_shard(token, _SHARD)
        self._shared.catalog.create(token, described.path, msgspec.json.encode(described), check=check)
        return token

    def _copy_catalog(self, shared: SharedStore) -> None:
        """Have a folder for each collection of the shared store, and none besides."""
        alive = {token: entry for token, entry in shared.catalog.entries.items() if not entry.deleted}
        present = set()
        for folder in list(self._root.iterdir()):
            if not folder.name.startswith(".") and token_of(folder) not in alive:
                self._files.remove_tree(folder)
            present.add(token_of(folder))
        for token, entry in alive.items():
            if token not in present:
                described = msgspec.json.decode(entry.description, type=Description)
                self._make_folder(described, self._folder(described, token))
        for token, entry in shared.catalog.entries.items():
            if entry.deleted:
                self._purge(shared, token)

    def _purge(self, shared: SharedStore, token: str) -> None:
        """Remove a deleted collection's objects. What cannot be removed now is removed at the next start."""
        try:
            shared.purge(token, _SHARD)
        except (OSError, EngineError) as error:
            logger.warning("objects of the deleted collection %s stay in the store for now: %s", token, error)

    def _recover(self) -> None:
        if self._shared is not None:
            self._copy_catalog(self._shared)
        described: dict[Path, Description] = {}
        leftovers: list[Path] = []
        for folder in sorted(self._root.iterdir()):
            if folder.name.startswith("."):
                leftovers.append(folder)
                continue
            try:
                described[folder] = read_description(folder)
            except StoreCorrupt as error:
                self._set_apart(folder.name.rpartition(".")[0].replace(".", "/"), error)
        if self._mmap_only:  # before anything is opened or changed
            require_mmap_to_open({each.path: each.params.storage for each in described.values()})
        for folder in leftovers:
            self._files.remove_tree(folder)
        for folder, description in described.items():
            try:
                self._open_collection(description, folder)
            except StoreCorrupt as error:
                self._set_apart(description.path, error)

    def _set_apart(self, path: str, error: StoreCorrupt) -> None:
        logger.error("collection '%s' cannot be served: %s", path, error)
        self._damaged[path] = str(error)

    def _open_collection(self, described: Description, folder: Path) -> Collection:
        tenant = described.tenant
        environment = replace(self._environment, memory=self._memory.account(tenant))
        shard = Shard(folder / _SHARD, described.params, environment)
        collection = Collection(
            described.name, described.params, shard, tenant=tenant, results=self._results.get(tenant)
        )
        self._open[described.path] = _Open(collection, shard, folder)
        return collection

    def _folder_of_damaged(self, name: str, tenant: str) -> Path:
        part = _folder_name(name, tenant)
        return next(folder for folder in self._root.iterdir() if folder.name.rpartition(".")[0] == part)


def take_lock(path: Path) -> int:
    """A descriptor that holds the folder's lock until it is closed. Raises StoreLocked."""
    descriptor = os.open(path / "LOCK", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StoreLocked(
            f"the data folder {path} is in use by another process: stop it, or choose another storage.path"
        ) from None
    return descriptor


def open_shared(path: Path, config: ObjectStoreConfig | None, files: Files) -> SharedStore | None:
    """The shared store that *config* names, if it names one and the folder has nothing but its copies.

    Raises StoreUnsuitable, and OSError where it cannot be reached.
    """
    url = None if config is None else config.url
    mark = path / STORE_MARK
    copied_from = mark.read_text() if mark.exists() else None
    if copied_from is None and url is not None and any((path / "collections").iterdir()):
        raise StoreUnsuitable(
            f"the data folder {path} holds collections that are in no object store, and storage.object_store.url is "
            f"{url}: choose an empty storage.path, or leave the setting out"
        )
    if copied_from is not None and copied_from != url:
        raise StoreUnsuitable(
            f"the data folder {path} holds copies of the object store {copied_from}, and storage.object_store.url is "
            f"{url or 'not set'}: set it to {copied_from}, or choose an empty storage.path"
        )
    if config is None or url is None:
        return None
    with disk_errors(f"use the object store {url}"):
        shared = SharedStore(open_object_store(config, files=files), url)
    files.replace_file(mark, url.encode())
    return shared


def check_format(path: Path, files: Files) -> None:
    """Write the format file where there is none. Raises StoreVersionError."""
    file = path / "FORMAT"
    if not file.exists():
        files.replace_file(file, f"vectorizer-storage {FORMAT}\n".encode())
        return
    match = _FORMAT_LINE.fullmatch(file.read_bytes())
    if match is None or int(match[1]) == 0:
        raise StoreVersionError(f"{file} is not the format file of a data folder: check storage.path")
    if int(match[1]) > FORMAT:
        raise StoreVersionError(
            f"the data folder {path} has format {int(match[1])}, this version reads up to {FORMAT}: "
            "run the version that wrote it, or a newer one"
        )


def _check_name(name: str) -> None:
    if not 1 <= len(name.encode()) <= 255 or _UNUSABLE.search(name):
        raise InvalidRequest(
            f"collection name '{name}' cannot be used: expected 1 to 255 bytes without control characters and "
            'without any of < > : " / \\ | ? *'
        )


def _folder_name(name: str, tenant: str) -> str:
    """The tenant and a part of the name, for people who look into the folder. The name itself is in the description."""
    part = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64]
    return f"{tenant}.{part}" if tenant else part


def read_description(folder: Path) -> Description:
    """Raises StoreCorrupt, also where the folder's name tells of another tenant: no tenant may get another's data."""
    path = folder / _DESCRIPTION
    try:
        described = msgspec.json.decode(decode_checked(path.read_bytes()), type=Description)
    except (OSError, ValueError) as error:
        raise StoreCorrupt(f"{path} cannot be read: {error}") from error
    before_name = folder.name.split(".")[:-2]
    if before_name != ([described.tenant] if described.tenant else []):
        raise StoreCorrupt(
            f"{path} says that the collection is of tenant '{described.tenant}', its folder's name says "
            f"'{'.'.join(before_name)}': restore the one that was changed"
        )
    return described
