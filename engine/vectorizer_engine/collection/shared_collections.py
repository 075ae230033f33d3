"""The collections of a data folder that has copies only: made, deleted and found in a shared store.

What is in the store counts. The folder is made to fit it, at the start.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from vectorizer_engine.collection.data_folder import (
    STORE_MARK,
    Description,
    description_decoder,
    read_description,
    token_of,
)
from vectorizer_engine.config import ObjectStoreConfig
from vectorizer_engine.errors import (
    CollectionExists,
    EngineError,
    StoreCorrupt,
    StoreUnsuitable,
    WriteInDoubt,
)
from vectorizer_engine.storage.catalog import Entries, Entry, Unconfirmed
from vectorizer_engine.storage.counted_store import CountedStore, ObserveCall
from vectorizer_engine.storage.files import Files, disk_errors
from vectorizer_engine.storage.shared_store import SharedStore, open_object_store

logger = logging.getLogger(__name__)


def open_shared(
    path: Path,
    config: ObjectStoreConfig | None,
    files: Files,
    *,
    lease: float = 0.0,
    observe: ObserveCall | None = None,
) -> SharedStore | None:
    """The shared store that *config* names, if it names one and the folder has nothing but its copies.

    For *lease* see `SharedStore`. *observe* is told of every call to the store.

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
        store = open_object_store(config, files=files)
        shared = SharedStore(CountedStore(store, observe) if observe else store, url, lease=lease)
    files.replace_file(mark, url.encode())
    return shared


class CatalogChanges:
    """The collections that one process makes and deletes in the store, also where that did not say whether it has them.

    Such a collection cannot be used until the next call about its name, or the next start, has learned more.
    One call at a time.
    """

    def __init__(self, shared: SharedStore) -> None:
        self._shared = shared
        self._perhaps_made: set[str] = set()
        self._perhaps_deleted: dict[str, str] = {}

    def create(self, described: Description) -> str:
        """The token of a new, empty collection, or of one like it that an earlier call had no answer about.

        What is returned is to be `opened` or abandoned. Raises CollectionExists, WriteInDoubt and OSError.
        """
        self._finish_deletions()
        token = secrets.token_hex(8)
        try:
            create_in_catalog(self._shared, described, token)
        except CollectionExists:
            earlier = self._made_after_all(described.path)
            if earlier is None or decode_description(self._shared.catalog.entries[earlier]) != described:
                raise
            return earlier
        except Unconfirmed as error:
            self._perhaps_made.add(token)
            raise in_doubt(f"collection '{described.name}' was created", error) from error
        # The others found their number taken by this one.
        self._perhaps_made &= self._shared.catalog.entries.keys()
        return token

    def opened(self, token: str) -> None:
        self._perhaps_made.discard(token)

    def abandon(self, token: str) -> None:
        """Delete a collection that was created and cannot be opened, unless others may have written to it since."""
        if token in self._perhaps_made:
            return
        try:
            self._shared.catalog.delete(token)
        except OSError as error:
            logger.warning("collection %s, which cannot be opened, is deleted later: %s", token, str(error))
            self._perhaps_deleted[token] = self._shared.catalog.entries[token].path

    def delete(self, token: str) -> None:
        """From now on it is gone for everybody; see `purge_shared`.

        Raises OSError where it is not, and WriteInDoubt where it may be, so that nothing more may be written to it.
        """
        try:
            self._shared.catalog.delete(token)
        except Unconfirmed as error:
            path = self._shared.catalog.entries[token].path
            self._perhaps_deleted[token] = path
            raise in_doubt(f"collection '{path}' was deleted", error) from error

    def delete_unopened(self, path: str) -> bool:
        """Delete a collection that is not open here, where an earlier call had no answer about it. Raises OSError."""
        if self._perhaps_made:
            self._shared.catalog.refresh()
            if (token := self._made_after_all(path)) is not None:
                self._perhaps_made.discard(token)
                self._perhaps_deleted[token] = path
        return path in self._finish_deletions()

    def _made_after_all(self, path: str) -> str | None:
        entries = alive(self._shared.catalog.entries)
        return next(
            (token for token in self._perhaps_made if token in entries and entries[token].path == path), None
        )

    def _finish_deletions(self) -> set[str]:
        """The paths of the collections that are deleted now. Raises OSError."""
        finished = set()
        for token, path in list(self._perhaps_deleted.items()):
            self._shared.catalog.delete(token)
            purge_shared(self._shared, token)
            del self._perhaps_deleted[token]
            finished.add(path)
        return finished


def create_in_catalog(shared: SharedStore, described: Description, token: str) -> None:
    """Make a new, empty collection, which everybody sees. Raises CollectionExists, Unconfirmed, OSError."""
    for shard in described.shard_names:
        shared.create_shard(token, shard)
    shared.catalog.create(
        token, described.path, msgspec.json.encode(described), check=partial(_check_free, described)
    )


def in_doubt(what: str, error: Unconfirmed) -> WriteInDoubt:
    return WriteInDoubt(f"cannot tell whether {what}: {error}: send it again")


def decode_description(entry: Entry) -> Description:
    """What the catalog says of a collection."""
    return description_decoder.decode(entry.description)


def _check_free(described: Description, entries: Entries) -> None:
    """Raises CollectionExists."""
    if any(entry.path == described.path for entry in alive(entries).values()):
        raise CollectionExists(described.name)


def alive(entries: Entries) -> Entries:
    """Those that are not deleted."""
    return {token: entry for token, entry in entries.items() if not entry.deleted}


def purge_shared(shared: SharedStore, token: str) -> None:
    """Remove a deleted collection's objects. What cannot be removed now is removed at the next start."""
    try:
        described = decode_description(shared.catalog.entries[token])
        shared.purge(token, described.shard_names)
    except (OSError, EngineError) as error:
        logger.warning("objects of the deleted collection %s stay in the store for now: %s", token, error)


def fit_folder(
    root: Path, shared: SharedStore, make_folder: Callable[[Description, str], Path], *, files: Files
) -> None:
    """Have a folder below *root* for each collection of the store, and none besides. Raises OSError."""
    entries = shared.catalog.entries
    wanted = alive(entries).keys()
    present = set()
    for folder in list(root.iterdir()):
        if token_of(folder) in wanted and _is_sound(folder):
            present.add(token_of(folder))
        else:
            files.remove_tree(folder)
    for token in wanted - present:
        described = decode_description(entries[token])
        if described.shards > 1:
            raise StoreUnsuitable(
                f"collection '{described.path}' in {shared.url} has {described.shards} shards, which the members of a "
                "cluster serve together: set cluster.pod_name (docs/specs/CLUSTER.md), or choose another store"
            )
        make_folder(described, token)
    for token in entries.keys() - wanted:
        purge_shared(shared, token)


def _is_sound(folder: Path) -> bool:
    try:
        read_description(folder)
    except StoreCorrupt as error:
        logger.warning("%s: its copies are made again from the store", error)
        return False
    return True
