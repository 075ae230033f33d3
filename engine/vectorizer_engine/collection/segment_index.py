"""The index of one segment: open while the memory allows it, and replaced by exact search while it is not.

What it holds while open is charged and may be evicted: an index that was not searched for a while gives way to
whatever needs memory. A search pins it. One that finds it closed compares every vector, which is slower and never
wrong, and asks for it to be opened again. The file stays, so that costs no building.

It is opened only where that evicts no index in service (see `MemoryAccount.reserve`) and leaves a share of the
limit to other things. So under a limit that holds some of the indexes that are searched, those stay open that are,
instead of all taking turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from vectorizer_engine.cache.memory_manager import CacheType, Charge, MemoryAccount
from vectorizer_engine.index import quantized
from vectorizer_engine.index.backends import BACKENDS
from vectorizer_engine.index.base import ApproximateIndex, Distance, Hits, Mask, Vectors
from vectorizer_engine.index.flat import FlatIndex
from vectorizer_engine.index.planner import LayoutPlan

LEFT_TO_OTHERS_PERCENT = 15
"""Of the limit: what open indexes leave to heads and query results. Where the keeper evicts down to, the same."""

ASK_SECONDS = 1.0
"""The least time between two attempts at opening a segment's index, each of which only looks at the ledger."""


class SegmentIndex:
    """An index file of *vectors* (float32 [n, d]), and what is open of it.

    Any number of threads may search. `open` is for one thread at a time.
    """

    def __init__(
        self,
        path: Path,
        plan: LayoutPlan,
        vectors: Vectors,
        distance: Distance,
        *,
        memory: MemoryAccount,
        threads: int,
        ask: Callable[[SegmentIndex], None],
    ) -> None:
        """*ask* has it opened soon, in another thread; *threads* is the number of cores."""
        self.path = path
        self.plan = plan
        self._backend = BACKENDS[plan.layout]
        self._vectors = vectors
        self._distance = distance
        self._memory = memory
        # Each thread that searches holds something meanwhile: the API has two for each core, and batches one.
        scratch = 3 * threads * quantized.scratch_bytes(len(vectors))
        self.nbytes = self._backend.open_bytes(len(vectors)) + scratch
        self._ask = ask
        self._next_ask = float("-inf")
        self._exact = FlatIndex(vectors, distance)
        self._closed = False
        # Both or neither. Who has the charge pinned may use the index.
        self._index: ApproximateIndex | None = None
        self._charge: Charge | None = None

    @property
    def is_open(self) -> bool:
        return self._charge is not None

    def search(self, queries: Vectors, limit: int, *, mask: Mask | None, ef: int | None) -> list[Hits]:
        """See `ApproximateIndex`."""
        charge = self._charge
        usable = charge is not None and not self._closed and charge.pin()
        self._memory.record_lookup(CacheType.HNSW, found=usable)
        if charge is None or not usable:
            self._ask_to_be_opened()
            return self._exact.search(queries, limit, mask=mask)
        try:
            assert self._index is not None, "nobody takes away what is pinned"
            return self._index.search(queries, limit, mask=mask, ef=ef)
        finally:
            charge.unpin()
            if self._closed:
                self._free()

    def open(self) -> bool:
        """Open the file, if the memory for it can be had. Raises StoreCorrupt or StoreVersionError.

        Reads and checks the whole file: 8 ms for 32 MB in page cache.
        """
        if self._charge is not None:
            return True
        charge = self._reserve()
        # Pinned, or it could be evicted before there is something to free.
        if charge is None or not charge.pin():
            return False
        try:
            self._index = self._backend.open(self.path, self._vectors, self._distance)
        except BaseException:
            charge.release()
            raise
        self._charge = charge
        charge.unpin()
        if self._closed:
            self._free()
        return self.is_open

    def close(self) -> None:
        """Give back what it holds, as soon as the last search with it is done, and open it no more."""
        self._closed = True
        self._free()

    def _reserve(self) -> Charge | None:
        share = self._memory.limit * LEFT_TO_OTHERS_PERCENT // 100
        if self._closed or self._memory.available(keep=CacheType.HNSW) < self.nbytes + share:
            return None
        return self._memory.reserve(CacheType.HNSW, self.nbytes, on_evict=self._evicted, keep=CacheType.HNSW)

    def _ask_to_be_opened(self) -> None:
        now = time.monotonic()
        if now >= self._next_ask and not self._closed:
            self._next_ask = now + ASK_SECONDS
            self._ask(self)

    def _evicted(self) -> int:
        opened = self._charge is not None
        self._forget()
        return int(opened)

    def _free(self) -> None:
        """Unless it is closed already, or pinned by a search, which then does this."""
        charge = self._charge
        if charge is not None and charge.claim():
            self._forget()
            charge.release()

    def _forget(self) -> None:
        self._index = None
        self._charge = None
