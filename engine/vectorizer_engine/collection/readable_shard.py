"""What a shard answers, whoever writes it: the side of readers, which `Shard` and `ShardReader` have in common."""

from __future__ import annotations

import math
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from vectorizer_engine.cache.advanced_cache import AdvancedCache
from vectorizer_engine.cache.memory_manager import CacheType
from vectorizer_engine.collection.environment import ShardEnvironment, ShardLimits
from vectorizer_engine.collection.indexing import SegmentIndexes
from vectorizer_engine.collection.payload_indexes import PayloadIndexes, Schema
from vectorizer_engine.collection.selection import Selector
from vectorizer_engine.collection.types import CollectionParams, LayoutInfo, Predicate
from vectorizer_engine.collection.view import CurrentView, Place, View
from vectorizer_engine.errors import StoreClosed
from vectorizer_engine.storage.manifest import Manifest, QuarantinedSegment
from vectorizer_engine.storage.segment import Segment


class _Segments(Protocol):
    manifest: Manifest


class ReadableShard(ABC):
    """A shard that is open. Any thread may call.

    `_segments` and `_payload_indexes` are set by whoever opens it.
    """

    _segments: _Segments
    _payload_indexes: PayloadIndexes

    def __init__(
        self,
        folder: Path,
        params: CollectionParams,
        environment: ShardEnvironment,
        *,
        rebuild: Callable[[], None],
        built: Callable[[Segment, Path], None] | None = None,
    ) -> None:
        """*rebuild* is called when the index of a segment was lost, which wants one again. For *built* see
        `SegmentIndexes`.
        """
        self.memory = environment.memory
        self._folder = folder
        self._maintenance = environment.maintenance
        self._files_changed = environment.changed_files(folder)
        self._closed = threading.Event()
        self._current = CurrentView()
        self._verdicts = AdvancedCache(environment.memory, cache=CacheType.METADATA, ttl=math.inf)
        self._indexes = SegmentIndexes(
            params.distance,
            memory=environment.memory,
            files=environment.files,
            maintenance=environment.maintenance,
            rebuild=rebuild,
            built=built,
        )

    @property
    def is_closed(self) -> bool:
        return self._closed.is_set()

    @property
    def view(self) -> View:
        """What there is now. It does not change; take a new one to see what was written since."""
        self._check_open()
        return self._current.view

    def find(self, keys: Iterable[bytes]) -> list[Place | None]:
        """The place of each key, None for those that are not there."""
        self._check_open()
        return self._current.find(keys)

    def selector(self, predicate: Predicate) -> Selector:
        """What asks the parts of a view about *predicate*."""
        return Selector(predicate, self._verdicts)

    def layouts(self) -> Iterator[LayoutInfo]:
        """How each sealed segment is searched."""
        for segment, part in self.view.segments():
            layout, reason = self._indexes.layout(segment)
            yield LayoutInfo(part.live.count, layout, reason)

    @property
    def payload_schema(self) -> Schema:
        """The fields of payloads that are indexed."""
        return self._payload_indexes.schema

    @property
    @abstractmethod
    def last_number(self) -> int:
        """The number of the last write that is to be seen here."""

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether work in the background is going on."""

    @property
    def quarantined(self) -> tuple[QuarantinedSegment, ...]:
        return self._segments.manifest.quarantined

    @property
    def disk_bytes(self) -> int:
        """Size of the log and of the segments."""
        size = 0
        for folder, _, names in os.walk(self._folder):  # passes over folders that vanish
            for name in names:
                with suppress(FileNotFoundError):
                    size += (Path(folder) / name).stat().st_size
        return size

    def _head_points(self, dimension: int, limits: ShardLimits) -> int:
        """How many points a head may take: fewer where what it becomes could have no index otherwise."""
        most = limits.head_points
        if self._payload_indexes.schema:
            most = min(most, limits.filtered_head_points)
        largest = self._indexes.largest_segment(dimension)
        return most if largest is None else min(most, largest)

    def _is_running(self) -> bool:
        return not (self._closed.is_set() or self._maintenance.stopping.is_set())

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise StoreClosed(f"{self._folder} is closed: its collection was deleted or the store shuts down")
