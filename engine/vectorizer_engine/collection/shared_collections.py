"""The collections of a data folder that has copies only: made, deleted and found in a shared store.

What is in the store counts. The folder is made to fit it, at the start.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from pathlib import Path

import msgspec

from vectorizer_engine.collection.data_folder import (
    SHARD,
    STORE_MARK,
    Description,
    read_description,
    token_of,
)
from vectorizer_engine.config import ObjectStoreConfig
from vectorizer_engine.errors import CollectionExists, EngineError, StoreCorrupt, StoreUnsuitable
from vectorizer_engine.storage.catalog import Entries
from vectorizer_engine.storage.files import Files, disk_errors
from vectorizer_engine.storage.shared_store import SharedStore, open_object_store

logger = logging.getLogger(__name__)


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


def create_shared(shared: SharedStore, described: Description) -> str:
    """The token of a new, empty collection in the store. Raises CollectionExists and OSError."""

    def check(entries: Entries) -> None:
        if any(entry.path == described.path and not entry.deleted for entry in entries.values()):
            raise CollectionExists(described.name)

    token = secrets.token_hex(8)
    shared.create_shard(token, SHARD)
    shared.catalog.create(token, described.path, msgspec.json.encode(described), check=check)
    return token


def purge_shared(shared: SharedStore, token: str) -> None:
    """Remove a deleted collection's objects. What cannot be removed now is removed at the next start."""
    try:
        shared.purge(token, SHARD)
    except (OSError, EngineError) as error:
        logger.warning("objects of the deleted collection %s stay in the store for now: %s", token, error)


def fit_folder(
    root: Path, shared: SharedStore, make_folder: Callable[[Description, str], Path], *, files: Files
) -> None:
    """Have a folder below *root* for each collection of the store, and none besides. Raises OSError."""
    entries = shared.catalog.entries
    alive = {token for token, entry in entries.items() if not entry.deleted}
    present = set()
    for folder in list(root.iterdir()):
        if token_of(folder) in alive and _is_sound(folder):
            present.add(token_of(folder))
        else:
            files.remove_tree(folder)
    for token in alive - present:
        make_folder(msgspec.json.decode(entries[token].description, type=Description), token)
    for token in entries.keys() - alive:
        purge_shared(shared, token)


def _is_sound(folder: Path) -> bool:
    try:
        read_description(folder)
    except StoreCorrupt as error:
        logger.warning("%s: its copies are made again from the store", error)
        return False
    return True
