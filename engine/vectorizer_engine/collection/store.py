"""A data folder: the collections in it, and who may work on it.

    FORMAT             the version of everything below
    LOCK               held by the one process that works here
    scratch/           files without a name; they go with the process
    collections/NAME.TOKEN/collection.json, shard-0/

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
from pathlib import Path
from typing import NamedTuple

import msgspec

from vectorizer_engine.cache.advanced_cache import AdvancedCache
from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.environment import ShardEnvironment, ShardLimits
from vectorizer_engine.collection.maintenance import Maintenance
from vectorizer_engine.collection.shard import Shard, create_shard
from vectorizer_engine.collection.storage_rule import require_mmap_to_create, require_mmap_to_open
from vectorizer_engine.collection.types import CollectionParams
from vectorizer_engine.errors import (
    CollectionExists,
    CollectionNotFound,
    InvalidRequest,
    StorageFailure,
    StoreClosed,
    StoreCorrupt,
    StoreLocked,
    StoreVersionError,
)
from vectorizer_engine.storage.files import Files, disk_errors

logger = logging.getLogger(__name__)

FORMAT = 1

_FORMAT_LINE = re.compile(rb"vectorizer-storage (\d+)\n")
_UNUSABLE = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
"""What Qdrant refuses in a collection's name."""
_SHARD = "shard-0"
_DESCRIPTION = "collection.json"


class Description(msgspec.Struct, frozen=True):
    """What a collection's folder says of itself."""

    name: str
    params: CollectionParams


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
        results: AdvancedCache | None,
        mmap_only: bool,
        lock: int,
    ) -> None:
        """Use `open`."""
        self._mmap_only = mmap_only
        self._results = results
        self._root = path / "collections"
        self._files = files
        self._lock_file = lock
        self._environment = ShardEnvironment(memory, Maintenance(), files, path / "scratch", limits)
        # Guards the two maps, and is held while a collection is made or deleted.
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
        results: AdvancedCache | None = None,
        mmap_only: bool = False,
    ) -> VectorStore:
        """Take the folder (made where it is missing) and recover what it holds.

        A collection that is damaged beyond what its other segments can stand in for is set apart: see
        `damaged`. With *results*, the answers of searches are kept in it. With *mmap_only*, as in cluster mode,
        collections in memory storage are refused: those that are to be made, and a folder that holds any.
        Raises StoreLocked, StoreVersionError, ClusterConfigViolation, StorageFull, or StorageFailure where the
        folder cannot be used.
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
                store = cls(
                    path,
                    memory=memory,
                    files=files,
                    limits=limits or ShardLimits(),
                    results=results,
                    mmap_only=mmap_only,
                    lock=lock,
                )
                store._recover()
            except BaseException:
                os.close(lock)
                raise
        return store

    @property
    def damaged(self) -> dict[str, str]:
        """The collections that cannot be opened, by name, and why."""
        return dict(self._damaged)

    def create_collection(self, name: str, params: CollectionParams) -> Collection:
        """Raises CollectionExists, InvalidRequest for a name that cannot be one, ClusterConfigViolation."""
        _check_name(name)
        if self._mmap_only:
            require_mmap_to_create(name, params.storage)
        with self._lock, disk_errors(f"create collection '{name}'"):
            self._check_usable()
            if name in self._open or name in self._damaged:
                raise CollectionExists(name)
            token = secrets.token_hex(4)
            making = self._root / f".new-{token}"
            folder = self._root / f"{_folder_name(name)}.{token}"
            try:
                self._files.make_folder(making / _SHARD)
                create_shard(making / _SHARD, files=self._files)
                description = msgspec.json.encode(Description(name, params))
                self._files.replace_file(making / _DESCRIPTION, description)
                self._files.rename(making, folder)
                self._files.sync_folder(self._root)
                return self._open_collection(name, params, folder)
            except BaseException:
                self._files.remove_tree(making)
                self._files.remove_tree(folder)
                raise

    def delete_collection(self, name: str) -> bool:
        """Delete for good. False where there is no such collection."""
        with self._lock, disk_errors(f"delete collection '{name}'"):
            self._check_usable()
            entry = self._open.get(name)
            if entry is None and name not in self._damaged:
                return False
            folder = entry.folder if entry else self._folder_of_damaged(name)
            doomed = self._root / f".old-{folder.name.rpartition('.')[2]}"
            self._files.rename(folder, doomed)
            self._open.pop(name, None)
            self._damaged.pop(name, None)
            try:
                self._files.sync_folder(self._root)
            finally:
                if entry is not None:
                    entry.shard.close()
                self._files.remove_tree(doomed)
            return True

    def collection(self, name: str) -> Collection:
        """Raises CollectionNotFound, or StorageFailure for one that is damaged."""
        entry = self._open.get(name)
        if entry is not None:
            return entry.collection
        if name in self._damaged:
            raise StorageFailure(f"collection '{name}' cannot be served: {self._damaged[name]}")
        raise CollectionNotFound(name)

    def identity(self, name: str) -> str:
        """Tells the collection from an earlier or later one of the same name. Raises CollectionNotFound."""
        entry = self._open.get(name)
        if entry is None:
            raise CollectionNotFound(name)
        return entry.folder.name

    def collections(self) -> list[Collection]:
        """All that can be served, by name."""
        with self._lock:
            return [self._open[name].collection for name in sorted(self._open)]

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
            if self._results is not None:
                self._results.clear()
            os.close(self._lock_file)

    def _check_usable(self) -> None:
        if self._closed:
            raise StoreClosed("the store is shutting down: try again later")

    def _recover(self) -> None:
        described: dict[Path, Description] = {}
        leftovers: list[Path] = []
        for folder in sorted(self._root.iterdir()):
            if folder.name.startswith("."):
                leftovers.append(folder)
                continue
            try:
                described[folder] = read_description(folder)
            except StoreCorrupt as error:
                self._set_apart(folder.name.rpartition(".")[0], error)
        if self._mmap_only:  # before anything is opened or changed
            require_mmap_to_open({each.name: each.params.storage for each in described.values()})
        for folder in leftovers:
            self._files.remove_tree(folder)
        for folder, description in described.items():
            try:
                self._open_collection(description.name, description.params, folder)
            except StoreCorrupt as error:
                self._set_apart(description.name, error)

    def _set_apart(self, name: str, error: StoreCorrupt) -> None:
        logger.error("collection '%s' cannot be served: %s", name, error)
        self._damaged[name] = str(error)

    def _open_collection(self, name: str, params: CollectionParams, folder: Path) -> Collection:
        shard = Shard(folder / _SHARD, params, self._environment)
        self._open[name] = _Open(Collection(name, params, shard, results=self._results), shard, folder)
        return self._open[name].collection

    def _folder_of_damaged(self, name: str) -> Path:
        return next(self._root.glob(f"{_folder_name(name)}.*"))


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


def check_format(path: Path, files: Files) -> None:
    """Write the format file where there is none. Raises StoreVersionError."""
    file = path / "FORMAT"
    if not file.exists():
        files.replace_file(file, f"vectorizer-storage {FORMAT}\n".encode())
        return
    match = _FORMAT_LINE.fullmatch(file.read_bytes())
    if match is None:
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


def _folder_name(name: str) -> str:
    """A part of the name, for people who look into the folder. The name itself is in the description."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64]


def read_description(folder: Path) -> Description:
    """Raises StoreCorrupt."""
    path = folder / _DESCRIPTION
    try:
        return msgspec.json.decode(path.read_bytes(), type=Description)
    except (OSError, msgspec.DecodeError) as error:
        raise StoreCorrupt(f"{path} cannot be read: {error}") from error
