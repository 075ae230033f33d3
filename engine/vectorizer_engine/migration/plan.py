"""What a migration would do, and what could stop it. Looks only: nothing is written, locked or made here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pyroaring

from vectorizer_engine.collection.check_data import LookOnly, collection_folders
from vectorizer_engine.collection.data_folder import check_format, read_description
from vectorizer_engine.collection.types import StorageType
from vectorizer_engine.config import Config, ConfigError, read_config
from vectorizer_engine.errors import StoreCorrupt, StoreVersionError
from vectorizer_engine.migration.config_file import apply_changes, needed_changes, remaining_problems
from vectorizer_engine.migration.image import image_size, links_are_possible
from vectorizer_engine.migration.journal import NOT_DATA, Journal, Phase, Places, read_journal
from vectorizer_engine.migration.machine import available_memory
from vectorizer_engine.storage.manifest import read_manifest

COLLECTION_SECONDS = 0.3
VERIFY_BYTES_A_SECOND = 30e6
COPY_BYTES_A_SECOND = 100e6
"""For the expected time, on the careful side of what docs/users/MIGRATION.md tells was measured."""

_WORKING_BYTES = 256 * 1024**2
"""Memory that the check of a collection takes beside its vectors: the process, caches, a page of points."""


class SettingPlan(msgspec.Struct, frozen=True, rename={"before": "from", "after": "to"}):
    path: str
    before: Any
    after: Any


class CollectionPlan(msgspec.Struct, frozen=True, rename={"before": "from", "after": "to"}):
    """Points are those of sealed segments; what is only in the log comes on top, of `log_bytes`."""

    name: str
    folder: str
    before: StorageType
    after: StorageType
    points: int
    vector_bytes: int
    log_bytes: int
    disk_bytes: int


class BackupPlan(msgspec.Struct, frozen=True):
    """`shared_bytes` cost nothing until the engine removes their originals; `copied_bytes` are copied now."""

    kept: bool
    folder: str
    shared_bytes: int
    copied_bytes: int


class Plan(msgspec.Struct, frozen=True):
    """Everything that a migration would do. With any of `obstacles` it does not begin."""

    config: str
    data: str
    going_on: bool
    settings: tuple[SettingPlan, ...]
    collections: tuple[CollectionPlan, ...]
    backup: BackupPlan
    expected_seconds: float
    disk_needed_bytes: int
    disk_free_bytes: int
    memory_needed_bytes: int
    memory_available_bytes: int | None
    obstacles: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def converted(self) -> list[CollectionPlan]:
        """The collections that change."""
        return [each for each in self.collections if each.before is not each.after]

    @property
    def changes_nothing(self) -> bool:
        return not self.settings and not self.converted and not self.going_on


def make_plan(
    path: Path, file_config: Mapping[str, Any], config: Config, environ: Mapping[str, str], *, backup: bool
) -> Plan:
    """The plan for the configuration file *path*, which says *file_config*; with *environ* it means *config*.

    Raises OSError, and StoreCorrupt where the journal of a migration cannot be read.
    """
    places = Places(config.storage.path)
    changes = needed_changes(file_config)
    obstacles = list(_config_obstacles(path, file_config, environ))
    journal: Journal | None = None
    collections: list[CollectionPlan] = []
    shared = copied = free = 0
    folder_problem = _folder_problem(places)
    if folder_problem is not None:
        obstacles.append(folder_problem)
    else:
        journal = read_journal(places)
        for folder in collection_folders(places.storage):
            try:
                collections.append(_collection(folder))
            except StoreCorrupt as error:
                obstacles.append(f"{error}; vectorizer check-data says what is damaged")
        shared, copied = image_size(places.storage, leaving_out=NOT_DATA) if backup else (0, 0)
        free = shutil.disk_usage(places.storage).free
    memory = [each for each in collections if each.before is StorageType.MEMORY]
    largest = max((each.vector_bytes + each.log_bytes for each in memory), default=0)
    disk = copied + max((_image_bytes(places, each) for each in memory), default=0)
    memory_needed = _WORKING_BYTES + largest if memory else 0
    available = available_memory()
    if memory and available is not None and available < memory_needed:
        obstacles.append(
            f"memory: checking needs {memory_needed} bytes, of which {largest} are the vectors of the largest "
            f"collection, as in the standalone engine; {available} bytes are available: stop what else uses memory, "
            "or raise the container's limit"
        )
    if folder_problem is None and free < disk:
        obstacles.append(
            f"disk: {disk} bytes are needed in {places.storage}, {free} are free: free space"
            + (", or give --no-backup" if backup and free >= disk - copied else "")
        )
    if config.storage.object_store.url is not None:
        obstacles.append(
            "storage.object_store.url is set: collections live in the object store, and only data folders are migrated"
        )
    if journal is not None and journal.phase is Phase.ROLLING_BACK:
        obstacles.append("a rollback was begun and has to be finished first: run this with --rollback")
    seconds = (
        len(memory) * COLLECTION_SECONDS
        + 2 * sum(each.vector_bytes + each.log_bytes for each in memory) / VERIFY_BYTES_A_SECOND
        + copied / COPY_BYTES_A_SECOND
    )
    return Plan(
        config=str(path),
        data=str(places.storage),
        going_on=journal is not None and journal.phase in (Phase.BACKING_UP, Phase.CONVERTING),
        settings=tuple(SettingPlan(*change) for change in changes),
        collections=tuple(collections),
        backup=BackupPlan(backup, str(places.backup), shared, copied),
        expected_seconds=round(seconds, 1),
        disk_needed_bytes=disk,
        disk_free_bytes=free,
        memory_needed_bytes=memory_needed,
        memory_available_bytes=available,
        obstacles=tuple(obstacles),
        notes=tuple(_notes(config, changes_watcher=any(c.path == "file_watcher.enabled" for c in changes))),
    )


def _folder_problem(places: Places) -> str | None:
    if not (places.storage / "FORMAT").exists():
        return (
            f"storage.path: {places.storage.absolute()} holds no data of an engine: check the path, and from which "
            "folder the engine is started where it is relative"
        )
    try:
        check_format(places.storage, LookOnly())
    except StoreVersionError as error:
        return str(error)
    return None


def _config_obstacles(
    path: Path, file_config: Mapping[str, Any], environ: Mapping[str, str]
) -> Iterator[str]:
    changes = needed_changes(file_config)
    try:
        apply_changes(path.read_text(encoding="utf-8"), changes)
    except ConfigError as error:
        yield from error.problems
    yield from remaining_problems(read_config(path, environ), changes, environ)
    real = path.resolve()
    if changes and not (os.access(real.parent, os.W_OK) and os.access(real, os.W_OK)):
        yield (
            f"{path} has to be changed and cannot be written (a mounted ConfigMap never can): give a copy that can be "
            "written, or one that is a cluster's already"
        )


def _collection(folder: Path) -> CollectionPlan:
    description = read_description(folder)
    points = 0
    for shard in folder.glob("shard-*"):
        manifest = read_manifest(shard)
        for entry in manifest.segments:
            points += entry.points - len(pyroaring.BitMap.deserialize(entry.deleted) if entry.deleted else ())
        if manifest.quarantined:
            raise StoreCorrupt(
                f"collection '{description.path}' has lost segments: restore or delete it first"
            )
    return CollectionPlan(
        name=description.path,
        folder=folder.name,
        before=description.params.storage,
        after=StorageType.MMAP,
        points=points,
        vector_bytes=4 * description.params.dimension * points,
        log_bytes=_bytes_below(folder.glob("shard-*/log/*")),
        disk_bytes=_bytes_below(folder.rglob("*")),
    )


def _bytes_below(paths: Iterator[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())


def _image_bytes(places: Places, collection: CollectionPlan) -> int:
    """What the image that *collection* is checked in takes, heads included, for which its log is replayed."""
    folder = places.storage / "collections" / collection.folder
    return image_size(folder).copied + collection.log_bytes


def _notes(config: Config, *, changes_watcher: bool) -> Iterator[str]:
    yield (
        "the files of a collection are the same for both storages: no vector is rewritten, only collection.json says "
        "another storage"
    )
    if config.storage.path.exists() and not links_are_possible(config.storage.path):
        yield "this file system has no hard links: the backup is a full copy"
    if changes_watcher:
        folders = ", ".join(str(folder) for folder in config.file_watcher.paths)
        yield (
            f"files in {folders} are no longer loaded: send points to the REST API (PUT /collections/NAME/points)"
        )
