"""The shards that this member serves: opened when they become its own, closed when they are another's.

Opening takes a shard over from whoever had it, so it happens only where the topology says so. It takes as long as it
takes to read the shard's log; requests for the shard wait meanwhile.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import NamedTuple

from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.shard import Shard
from vectorizer_engine.errors import EngineError, Fenced, StoreCorrupt

logger = logging.getLogger(__name__)

AT_ONCE = 4
"""So many shards are opened at a time."""

AGAIN_SECONDS = 1.0
"""A shard that could not be opened, or was taken by another member, is not opened again sooner. Two members that
both believe it is theirs would otherwise take it from each other all the time."""


class ShardId(NamedTuple):
    token: str
    number: int


LEASE_SECONDS = 1.0
"""So long after the store was asked, a shard answers reads without asking again whether it is still this member's.
Whoever takes a shard over acknowledges no write before that time has passed, so nobody reads an old value meanwhile."""


class HeldShard:
    """An open shard, and the collection that consists of it alone."""

    def __init__(self, shard: Shard, collection: Collection) -> None:
        self.shard = shard
        self.collection = collection
        self._asking = threading.Lock()

    def confirm(self) -> None:
        """Make sure that the shard is still this member's. Raises Fenced, StoreClosed, StorageFailure."""
        with self._asking:  # or everybody would ask at once when the lease ends
            self.shard.confirm(within=LEASE_SECONDS)


class NotHeld(Exception):
    """Another member serves the shard, or will in a moment."""


class HeldShards:
    """Any thread may call."""

    def __init__(
        self, open_shard: Callable[[ShardId], HeldShard], *, closed: Callable[[ShardId], None]
    ) -> None:
        """*open_shard* raises EngineError. *closed* is called with each shard that was closed."""
        self._open_shard = open_shard
        self._closed_shard = closed
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="shard")
        # Guards the rest.
        self._lock = threading.Lock()
        self._wanted: set[ShardId] = set()
        self._held: dict[ShardId, Future[HeldShard]] = {}
        self._leaving: dict[ShardId, Future[None]] = {}
        self._not_before: dict[ShardId, float] = {}
        self._closed = False

    def want(self, shards: Iterable[ShardId]) -> None:
        """From now on serve these, and no others. Returns at once."""
        with self._lock:
            self._wanted = set(shards)
            for each in self._wanted:
                self._take(each)
            for each in self._held.keys() - self._wanted:
                self._leave(each)

    def get(self, shard: ShardId, *, deadline: float) -> HeldShard:
        """The shard, once it is open. Raises NotHeld, and EngineError where it cannot be opened."""
        with self._lock:
            if shard not in self._wanted:
                raise NotHeld
            self._take(shard)
            future = self._held.get(shard)
        if future is None:
            raise NotHeld
        try:
            return future.result(max(0.0, deadline - time.monotonic()))
        except FutureTimeout:
            raise NotHeld from None
        except Fenced:
            raise NotHeld from None

    def lost(self, shard: ShardId, held: HeldShard) -> None:
        """Another member has taken *shard*, which was *held* here."""
        with self._lock:
            future = self._held.get(shard)
            if future is None or not future.done() or future.exception() is not None:
                return
            if future.result() is held:
                self._not_before[shard] = time.monotonic() + AGAIN_SECONDS
                self._leave(shard)

    def open_now(self) -> list[HeldShard]:
        """Those that are served at this moment."""
        with self._lock:
            futures = list(self._held.values())
        return [each.result() for each in futures if each.done() and each.exception() is None]

    def waiting(self) -> int:
        """How many are to be served and are not open yet."""
        with self._lock:
            return sum(1 for each in self._wanted if each not in self._held or not self._held[each].done())

    def damaged(self) -> dict[ShardId, str]:
        """Those that cannot be opened as they are, and why."""
        with self._lock:
            failed = {each: future.exception() for each, future in self._held.items() if future.done()}
        return {each: str(error) for each, error in failed.items() if isinstance(error, StoreCorrupt)}

    def close(self) -> None:
        """Finish what is being written, and let go of all."""
        with self._lock:
            self._closed = True
            self._wanted = set()
            for each in list(self._held):
                self._leave(each)
        self._pool.shutdown()

    def _take(self, shard: ShardId) -> None:
        """Begin to open *shard*, unless that was done, or failed a moment ago."""
        future = self._held.get(shard)
        if future is not None and future.done() and _may_work_now(future):
            del self._held[shard]
            future = None
        if self._closed or future is not None or time.monotonic() < self._not_before.get(shard, 0.0):
            return
        self._held[shard] = self._pool.submit(self._open, shard, self._leaving.get(shard))

    def _open(self, shard: ShardId, leaving: Future[None] | None) -> HeldShard:
        if leaving is not None:
            leaving.result()
        began = time.perf_counter()
        try:
            held = self._open_shard(shard)
        except EngineError as error:
            logger.warning("shard %d of %s cannot be served: %s", shard.number, shard.token, error)
            with self._lock:
                self._not_before[shard] = time.monotonic() + AGAIN_SECONDS
            raise
        logger.info(
            "serving shard %d of %s after %.3f s", shard.number, shard.token, time.perf_counter() - began
        )
        return held

    def _leave(self, shard: ShardId) -> None:
        self._leaving[shard] = self._pool.submit(self._close, shard, self._held.pop(shard))

    def _close(self, shard: ShardId, future: Future[HeldShard]) -> None:
        try:
            held = future.result()
        except EngineError:
            return
        held.shard.close()
        self._closed_shard(shard)


def _may_work_now(future: Future[HeldShard]) -> bool:
    """Whether opening failed for a reason that may be over."""
    error = future.exception()
    return error is not None and not isinstance(error, StoreCorrupt)
