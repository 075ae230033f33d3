"""A stopped standalone engine: its configuration, with comments, and its data folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from click.testing import CliRunner, Result

from tests.engine.collection.model import MiB, vectors_of
from tests.engine.collection.test_collection import settled, wait_until
from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.cli import main
from vectorizer_engine.collection.check_data import described_collections
from vectorizer_engine.collection.environment import ShardLimits
from vectorizer_engine.collection.store import VectorStore
from vectorizer_engine.collection.types import CollectionParams, Distance, StorageType
from vectorizer_engine.migration import command
from vectorizer_engine.migration.command import Options
from vectorizer_engine.storage.files import Files

CONFIG = """\
# ours
storage:
  path: {data}  # the big disk
  type: memory  # fast
server:
  port: 7000    # not 6333
"""

LIMITS = ShardLimits(head_points=64)


class Standalone(NamedTuple):
    """The folder that holds both."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def config(self) -> Path:
        return self.folder / "config.yml"

    def migrate(self, *options: str) -> Result:
        return CliRunner().invoke(main, ["--migrate-to-cluster", "--config", str(self.config), *options])

    def dry_run(self, *options: str) -> tuple[int, dict[str, Any]]:
        result = self.migrate("--dry-run", "-o", "json", *options)
        return result.exit_code, json.loads(result.stdout)

    def content(self) -> dict[str, bytes | None]:
        """Every folder and file of it; a folder holds None."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes() if path.is_file() else None
            for path in sorted(self.folder.rglob("*"))
        }

    def times(self) -> dict[str, int]:
        """When each folder and file was changed last."""
        return {str(path): path.stat().st_mtime_ns for path in self.folder.rglob("*")}

    def storages(self) -> dict[str, StorageType]:
        return {each.name: each.params.storage for each in described_collections(self.data)}


class Unsynced(Files):
    """For tests in which a process ends, but not the machine: those need no fsync, which takes most of the time."""

    def sync(self, descriptor: int) -> None:
        """Leave it in the page cache."""

    def sync_folder(self, folder: Path) -> None:
        """Leave it in the page cache."""


def run_without_fsync(options: Options) -> int:
    """The command, in a process of its own."""
    command.Files = Unsynced  # type: ignore[misc]
    return command.run(options)


def fill(standalone: Standalone) -> None:
    """Two collections in memory storage, one with segments, deleted points and a log, and one that is mapped."""
    standalone.folder.mkdir(parents=True, exist_ok=True)
    standalone.config.write_text(CONFIG.format(data=standalone.data))
    store = open_store(standalone.data)
    for name, storage, points in (
        ("large", StorageType.MEMORY, 300),
        ("small", StorageType.MEMORY, 3),
        ("mapped", StorageType.MMAP, 10),
    ):
        collection = store.create_collection(name, CollectionParams(4, Distance.DOT, storage))
        for start in range(0, points, 30):
            seeds = list(range(start, min(start + 30, points)))
            collection.upsert(seeds, vectors_of(seeds), [{"n": seed} for seed in seeds])
        wait_until(lambda collection=collection: settled(collection))
    store.collection("large").delete(ids=[3, 5, 299])
    store.close()


def open_store(data: Path, **options: Any) -> VectorStore:
    return VectorStore.open(data, memory=CacheMemoryManager(64 * MiB), limits=LIMITS, **options)


def answers(store: VectorStore, name: str, queries: np.ndarray) -> list[list[tuple[Any, float]]]:
    found = store.collection(name).search(queries, limit=10)
    return [[(hit.id, hit.score) for hit in hits] for hits in found]
