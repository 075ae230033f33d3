"""What the shards of a store have in common: how large things may grow, and what they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vectorizer_engine.cache.memory_manager import MemoryAccount
from vectorizer_engine.collection.maintenance import Job, Maintenance
from vectorizer_engine.collection.types import CollectionParams
from vectorizer_engine.storage.commit import ObserveAppend
from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.segment_folder import SegmentPlace
from vectorizer_engine.storage.shared_store import SharedStore


@dataclass(frozen=True, slots=True)
class ShardLimits:
    """When a head is sealed, how large segments grow, and when no more writes are expected. Sizes in rows and bytes."""

    head_points: int = 16_384
    head_bytes: int = 64 * 1024**2
    log_bytes: int = 128 * 1024**2
    sealing_heads: int = 2
    segment_points: int = 4_000_000
    quiet_seconds: float = 2.0
    """Without a write for so long, a shard is at rest: what it then does would be done again while more follows."""
    quiet_head_points: int = 256
    """At rest a smaller head stays: a search compares that many in 0.01 ms, a filter reads them in 1 ms."""
    filtered_head_points: int = 4096
    """Of a head, where payloads are indexed: a filter has no index there, and reads that many in about 15 ms."""


@dataclass(frozen=True, slots=True)
class ShardEnvironment:
    """The one memory limit, the background threads and the disk, for all shards of a store.

    With *shared*, shards live there, and the disk has copies.
    """

    memory: MemoryAccount
    maintenance: Maintenance
    files: Files
    scratch: Path
    limits: ShardLimits
    shared: SharedStore | None = None
    observe_append: ObserveAppend | None = None
    observe_files: Callable[[Path], None] | None = None
    """Is told of the folder of a shard in which files were made or removed."""

    def segment_place(self, folder: Path, params: CollectionParams) -> SegmentPlace:
        """That of the segments of the shard in *folder*, or of copies of them."""
        return SegmentPlace(folder, params.dimension, params.storage, self.memory, self.files)

    def later(self, seconds: float, job: Job) -> None:
        """Have done what can wait so long."""
        self.maintenance.tidy(job, after=seconds)

    def changed_files(self, folder: Path) -> Callable[[], None]:
        """What is to be called when that has happened in *folder*."""
        return partial(self.observe_files, folder) if self.observe_files is not None else lambda: None
