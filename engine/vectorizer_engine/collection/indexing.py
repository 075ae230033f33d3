"""The indexes of a shard's sealed segments: chosen by the planner, built in the background, opened from their files.

An index is derived from the vectors, so losing one loses nothing: a file that is damaged, or that a crash left
half-written, is removed and built again. While there is none, the segment is searched exactly.

Memory is reserved first: `build_bytes` while an index is built, what `SegmentIndex` says as long as it is open.
What is refused makes the planner choose again; in the end there is always exact search. Building evicts no index that
is in service: searches go on while it lasts.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from vectorizer_engine.cache.memory_manager import CacheType, Charge, MemoryAccount
from vectorizer_engine.collection.maintenance import Maintenance
from vectorizer_engine.collection.segment_index import SegmentIndex
from vectorizer_engine.cores import usable_cores
from vectorizer_engine.errors import StoreCorrupt, StoreVersionError
from vectorizer_engine.index import quantized
from vectorizer_engine.index.backends import BACKENDS
from vectorizer_engine.index.base import Distance
from vectorizer_engine.index.planner import WORTH_INDEXING, LayoutPlan, SegmentLayout, plan_layout
from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.segment import Segment

logger = logging.getLogger(__name__)

_UNFINISHED = ".unfinished"

WORTH_SEALING_BYTES = 256 * 1024
"""Of the largest head, about a thousand points: less is not worth a segment of its own, even where memory is short."""


class SegmentIndexes:
    """The indexes of one shard's segments. `build` is for one thread at a time, the rest for any."""

    def __init__(
        self,
        distance: Distance,
        *,
        memory: MemoryAccount,
        files: Files,
        maintenance: Maintenance,
        rebuild: Callable[[], None],
        built: Callable[[Segment, Path], None] | None = None,
    ) -> None:
        """*rebuild* is called when an index was lost, and so a segment wants one again; *built* with each file that
        there is, new or not.
        """
        self._distance = distance
        self._memory = memory
        self._files = files
        self._maintenance = maintenance
        self._rebuild = rebuild
        self._built = built
        self._threads = usable_cores()
        self._lock = threading.Lock()
        self._held: dict[Segment, SegmentIndex] = {}
        self._closed = False

    def layout(self, segment: Segment) -> tuple[SegmentLayout, str]:
        """How *segment* is searched at present, and why."""
        with self._lock:
            index = self._held.get(segment)
        if index is None:
            plan = self._plan(segment)
            if plan.layout is SegmentLayout.EXACT:
                return plan.layout, plan.reason
            return SegmentLayout.EXACT, f"{plan.layout.value} is not built yet"
        if index.is_open:
            return index.plan.layout, index.plan.reason
        return SegmentLayout.EXACT, (
            f"{index.plan.layout.value} is closed, its {index.nbytes} bytes are wanted elsewhere: a search has it "
            "opened again where the memory allows it"
        )

    def largest_segment(self, dimension: int) -> int | None:
        """The most points of which an HNSW index can be built under the limit.

        None: any number, because none can be built that would be worth it.
        """
        if not quantized.supports(self._distance):
            return None
        sample = 100_000
        bytes_a_point = quantized.build_bytes(sample, dimension, threads=self._threads) / sample
        largest = int(self._memory.limit * 0.75 / bytes_a_point)
        return largest if largest >= WORTH_INDEXING else None

    def affords(self, count: int, dimension: int) -> bool:
        """Whether a segment of so many points would be searched by HNSW, or is too small to need an index."""
        return count < WORTH_INDEXING or self._layout_of(count, dimension).layout is SegmentLayout.HNSW_SQ8

    def wants(self, segment: Segment) -> bool:
        """Whether *segment* has no index and should."""
        return segment.index is None and self._plan(segment).layout is not SegmentLayout.EXACT

    def lacks_memory(self, segment: Segment) -> bool:
        """Whether *segment* has no index and would be worth one, for which there is no room at present."""
        if segment.index is not None or self.wants(segment):
            return False
        return self._plan(segment, available=self._memory.limit).layout is not SegmentLayout.EXACT

    def open_existing(self, segment: Segment) -> bool:
        """Take the index that *segment* has a file of, and open it if the memory allows it.

        False where it has none. Removes files that are of no use.
        """
        for path in segment.folder.glob(f"*{_UNFINISHED}"):
            self._files.remove(path)
        for layout, backend in BACKENDS.items():
            path = segment.folder / backend.file_name
            if path.exists():
                plan = LayoutPlan(layout, f"the index of {segment.count} vectors was built before")
                if self._take(segment, path, plan):
                    return True
        return False

    def build(self, segment: Segment, *, still_wanted: Callable[[], bool]) -> bool:
        """Build and open the index that the planner chooses. False where exact search is what it gets.

        Raises OSError. Unless it is *still_wanted* when it is built, it is thrown away.
        """
        if self.open_existing(segment):
            return True
        plan, charge = self._reserve(segment)
        if charge is None:
            return False
        backend = BACKENDS[plan.layout]
        path = segment.folder / backend.file_name
        unfinished = path.with_name(path.name + _UNFINISHED)
        try:
            backend.build(
                unfinished, segment.vectors, self._distance, threads=self._threads, files=self._files
            )
            if not still_wanted():
                return False
            self._files.rename(unfinished, path)
            self._files.sync_folder(segment.folder)
        finally:
            self._files.remove(unfinished)
            charge.release()
        return self._take(segment, path, plan)

    def discard(self, segment: Segment) -> None:
        """Give back what the index of a segment holds, which is not used any more."""
        with self._lock:
            index = self._held.pop(segment, None)
        if index is not None:
            index.close()

    def close(self) -> None:
        """Give back what the indexes hold, and open no more: one may be under way."""
        with self._lock:
            self._closed = True
            segments = list(self._held)
        for segment in segments:
            self.discard(segment)

    def _plan(self, segment: Segment, *, available: int | None = None) -> LayoutPlan:
        """What *segment* would get, with what is *available*: unless it is given, what is now."""
        return self._layout_of(segment.count, segment.vectors.shape[1], available=available)

    def _layout_of(self, count: int, dimension: int, *, available: int | None = None) -> LayoutPlan:
        if available is None:
            available = self._memory.available(keep=CacheType.HNSW)
        return plan_layout(
            count,
            dimension,
            self._distance,
            limit=self._memory.limit,
            available=available,
            threads=self._threads,
        )

    def _reserve(self, segment: Segment) -> tuple[LayoutPlan, Charge | None]:
        """The plan whose building was reserved. Somebody may be quicker, so what is refused is planned again."""
        plan = self._plan(segment)
        while plan.layout is not SegmentLayout.EXACT:
            charge = self._memory.reserve(CacheType.HNSW, plan.build_bytes, keep=CacheType.HNSW)
            if charge is not None:
                return plan, charge
            available = self._memory.available(keep=CacheType.HNSW)
            plan = self._plan(segment, available=min(available, plan.build_bytes - 1))
        return plan, None

    def _take(self, segment: Segment, path: Path, plan: LayoutPlan) -> bool:
        """Have *segment* searched with the index in *path*, which is removed where it is of no use."""
        index = SegmentIndex(
            path,
            plan,
            segment.vectors,
            self._distance,
            memory=self._memory,
            threads=self._threads,
            ask=self._asked,
        )
        try:
            index.open()
        except (StoreCorrupt, StoreVersionError) as error:
            self._remove(path, error)
            return False
        with self._lock:
            if self._closed:
                index.close()
                return False
            self._held[segment] = index
        segment.index = index
        if self._built is not None:
            self._built(segment, path)
        return True

    def _asked(self, index: SegmentIndex) -> None:
        self._maintenance.open(partial(self._open_again, index))

    def _open_again(self, index: SegmentIndex) -> None:
        """Open an index that was evicted, because a search asked for it; else have the memory made."""
        try:
            if not index.open():
                self._maintenance.relieve(self._memory, at_least=WORTH_SEALING_BYTES)
        except (StoreCorrupt, StoreVersionError) as error:
            with self._lock:
                segment = next((each for each, held in self._held.items() if held is index), None)
            if segment is None:
                return  # discarded meanwhile, and its files with it
            self._remove(index.path, error)  # first: what follows may have it built again in another thread
            segment.index = None
            self.discard(segment)
            self._rebuild()

    def _remove(self, path: Path, error: Exception) -> None:
        logger.warning("%s", str(error))
        self._files.remove(path)
