"""The index of a sealed segment: chosen by the planner, built in the background, opened from its file.

An index is derived from the vectors, so losing one loses nothing: a file that is damaged, or that a crash left
half-written, is removed and built again. While there is none, the segment is searched exactly.

Memory is reserved first: `build_bytes` while it is built, `open_bytes` as long as it is open. What is refused
makes the planner choose again; in the end there is always exact search.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from vectorizer_engine.cache.memory_manager import CacheType, Charge, MemoryAccount
from vectorizer_engine.errors import StoreCorrupt, StoreVersionError
from vectorizer_engine.index import quantized, rabitq
from vectorizer_engine.index.base import Distance, Hits, Mask, Vectors
from vectorizer_engine.index.planner import LayoutPlan, SegmentLayout, plan_layout
from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.segment import Segment

logger = logging.getLogger(__name__)

FILE_NAMES = {
    SegmentLayout.HNSW_SQ8: quantized.FILE_NAME,
    SegmentLayout.IVF_RABITQ: rabitq.FILE_NAME,
}
_BUILDERS = {SegmentLayout.HNSW_SQ8: quantized.build, SegmentLayout.IVF_RABITQ: rabitq.build}
_UNFINISHED = ".unfinished"


class OpenIndex:
    """An index that answers, of either kind."""

    def __init__(self, layout: SegmentLayout, index: quantized.QuantizedIndex | rabitq.RabitqIndex) -> None:
        self.layout = layout
        self._index = index

    def search(self, queries: Vectors, limit: int, *, mask: Mask | None, ef: int | None) -> list[Hits]:
        if isinstance(self._index, quantized.QuantizedIndex):
            return self._index.search(queries, limit, mask=mask, ef=ef or quantized.DEFAULT_EF)
        return self._index.search(queries, limit, mask=mask)


class _Held(NamedTuple):
    plan: LayoutPlan
    charge: Charge


class SegmentIndexes:
    """The indexes of one shard's segments. `build` is for one thread at a time, the rest for any."""

    def __init__(self, distance: Distance, *, memory: MemoryAccount, files: Files) -> None:
        self._distance = distance
        self._memory = memory
        self._files = files
        self._threads = os.cpu_count() or 1
        self._lock = threading.Lock()
        self._held: dict[Segment, _Held] = {}
        self._closed = False

    def plan(self, segment: Segment) -> LayoutPlan:
        """What *segment* has, or would get now."""
        with self._lock:
            held = self._held.get(segment)
        return held.plan if held is not None else self._plan(segment, available=self._memory.available())

    def largest_segment(self, dimension: int) -> int | None:
        """The most points of which an HNSW index can be built under the limit. None: any number."""
        if not quantized.supports(self._distance):
            return None
        sample = 100_000
        bytes_a_point = quantized.build_bytes(sample, dimension, threads=self._threads) / sample
        return int(self._memory.limit * 0.75 / bytes_a_point)

    def wants(self, segment: Segment) -> bool:
        """Whether *segment* has no index and should."""
        planned = self._plan(segment, available=self._memory.available())
        return segment.index is None and planned.layout is not SegmentLayout.EXACT

    def open_existing(self, segment: Segment) -> bool:
        """Open the index that *segment* has a file of, if the memory allows. Removes files that are of no use."""
        for path in segment.folder.glob(f"*{_UNFINISHED}"):
            self._files.remove(path)
        for layout, name in FILE_NAMES.items():
            path = segment.folder / name
            if not path.exists():
                continue
            try:
                return self._open(segment, path, self._plan_of_file(segment, layout))
            except (StoreCorrupt, StoreVersionError) as error:
                logger.warning("%s", str(error))
                self._files.remove(path)
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
        path = segment.folder / FILE_NAMES[plan.layout]
        unfinished = path.with_name(path.name + _UNFINISHED)
        try:
            _BUILDERS[plan.layout](
                unfinished, segment.vectors, self._distance, threads=self._threads, files=self._files
            )
            if not still_wanted():
                return False
            self._files.rename(unfinished, path)
            self._files.sync_folder(segment.folder)
        finally:
            self._files.remove(unfinished)
            charge.release()
        return self._open(segment, path, plan)

    def discard(self, segment: Segment) -> None:
        """Give back what the index of a segment holds, which is not used any more."""
        with self._lock:
            held = self._held.pop(segment, None)
        if held is not None:
            held.charge.release()

    def close(self) -> None:
        """Give back what the indexes hold, and open no more: one may be under way."""
        with self._lock:
            self._closed = True
            segments = list(self._held)
        for segment in segments:
            self.discard(segment)

    def _plan(self, segment: Segment, *, available: int) -> LayoutPlan:
        return plan_layout(
            segment.count,
            segment.vectors.shape[1],
            self._distance,
            limit=self._memory.limit,
            available=available,
            threads=self._threads,
        )

    def _plan_of_file(self, segment: Segment, layout: SegmentLayout) -> LayoutPlan:
        module = quantized if layout is SegmentLayout.HNSW_SQ8 else rabitq
        reason = f"the index of {segment.count} vectors was built before"
        return LayoutPlan(layout, reason, open_bytes=module.open_bytes(segment.count))

    def _reserve(self, segment: Segment) -> tuple[LayoutPlan, Charge | None]:
        """The plan whose building was reserved. Somebody may be quicker, so what is refused is planned again."""
        available = self._memory.available()
        while True:
            plan = self._plan(segment, available=available)
            if plan.layout is SegmentLayout.EXACT:
                return plan, None
            charge = self._memory.reserve(CacheType.HNSW, plan.build_bytes)
            if charge is not None:
                return plan, charge
            available = min(self._memory.available(), plan.build_bytes - 1)

    def _open(self, segment: Segment, path: Path, plan: LayoutPlan) -> bool:
        index_class = (
            quantized.QuantizedIndex if plan.layout is SegmentLayout.HNSW_SQ8 else rabitq.RabitqIndex
        )
        # faiss keeps something for each thread that searched, of which the API has two for each core.
        scratch = 2 * self._threads * quantized.scratch_bytes(segment.count)
        charge = self._memory.reserve(CacheType.HNSW, plan.open_bytes + scratch)
        if charge is None:
            return False
        try:
            index = OpenIndex(plan.layout, index_class(path, segment.vectors, self._distance))
        except BaseException:
            charge.release()
            raise
        with self._lock:
            if self._closed:
                charge.release()
                return False
            self._held[segment] = _Held(plan, charge)
        segment.index = index
        return True
