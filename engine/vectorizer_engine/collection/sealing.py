"""The heads that wait to be sealed, and the writers that wait for them.

Writers are held back here, before the group commit has them, and never in it: a leader that waits for memory
would make everybody wait, the background work included, which is what frees it. So a write reserves what
the head will hold for it first, and waits while too many heads wait or the memory is not there. Where heads
cannot be sealed, it gets the reason.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from vectorizer_engine.cache.memory_manager import CacheType, Charge
from vectorizer_engine.collection.compaction import Compaction, Stopping
from vectorizer_engine.collection.environment import ShardEnvironment
from vectorizer_engine.errors import (
    EngineError,
    Fenced,
    StorageFailure,
    StorageFull,
    StoreClosed,
)
from vectorizer_engine.storage.head import POINT_BYTES, Head
from vectorizer_engine.storage.segment_folder import bytes_of_segment

logger = logging.getLogger(__name__)

_MEMORY_PATIENCE = 30.0
"""Seconds for which a write waits for heads to be sealed before it gives up."""

_RETRY_SECONDS = 1.0
"""After so long it is tried again to seal a head that could not be sealed: the disk may have space by then."""


@dataclass(slots=True)
class _SealedHead:
    """A head that takes no more points, or none where only deletes were logged.

    Records up to `applied` are in it or in what came before.
    """

    head: Head | None
    charge: Charge
    applied: int


class Sealing:
    """The queue of one shard's full heads. Any thread may call."""

    def __init__(
        self, compaction: Compaction, environment: ShardEnvironment, *, is_running: Callable[[], bool]
    ) -> None:
        self._compaction = compaction
        self._memory = environment.memory
        self._maintenance = environment.maintenance
        self._longest = environment.limits.sealing_heads
        self._is_running = is_running
        # Guards what follows, and wakes writers that wait for it.
        self._condition = threading.Condition()
        self._heads: deque[_SealedHead] = deque()
        self._error: tuple[type[EngineError], str] | None = None

    @property
    def busy(self) -> bool:
        with self._condition:
            return bool(self._heads)

    def admit(self, points: int) -> Charge:
        """Reserve what the head and its segment need for so many points, waiting for space if need be.

        Raises CacheMemoryLimitExceeded, StoreClosed, and why heads cannot be sealed: StorageFull, Fenced or
        StorageFailure.
        """
        needed = points * POINT_BYTES + bytes_of_segment(points)
        what = f"a batch of {points} points"
        self._memory.require_possible(what, needed)
        deadline = time.monotonic() + _MEMORY_PATIENCE
        with self._condition:
            while len(self._heads) > self._longest:
                self._check()
                self._condition.wait(1.0)
        while True:
            charge = self._memory.reserve(CacheType.METADATA, needed)
            if charge is not None:
                return charge
            if time.monotonic() > deadline:
                raise self._memory.limit_exceeded(what, needed)
            self._maintenance.relieve(self._memory)
            with self._condition:
                self._check()
                self._condition.wait(0.05)

    def submit(self, head: Head | None, charge: Charge, *, applied: int) -> None:
        """Have *head* sealed in the background, then release its *charge*."""
        with self._condition:
            self._heads.append(_SealedHead(head, charge, applied))
            is_first = len(self._heads) == 1
        if is_first:
            self._maintenance.seal(self._run)

    def wait_for_end(self, seconds: float) -> None:
        """Return when no head waits. Raises StorageFailure where one cannot be sealed, or not in so many *seconds*."""
        with self._condition:
            self._condition.wait_for(lambda: not self._heads or self._error is not None, seconds)
            if self._heads:
                raise StorageFailure(f"{len(self._heads)} heads wait to be sealed")

    def close(self) -> None:
        with self._condition:
            for sealed in self._heads:
                sealed.charge.release()

    def _check(self) -> None:
        """Pass on why heads cannot be sealed."""
        if not self._is_running():
            raise StoreClosed("the store is shutting down: send the write again later")
        if self._error is not None:
            kind, reason = self._error
            raise kind(reason)

    def _run(self) -> None:
        """Turn the oldest of the waiting heads into a segment. The next one waits for its turn among all shards'."""
        with self._condition:
            oldest = self._heads[0]
        try:
            self._compaction.seal(oldest.head, oldest.charge, applied=oldest.applied)
        except Stopping:
            return
        except Exception as error:
            if not self._is_running():
                return  # what it had in hand was taken away; recovery seals what is left
            # Its words only: the error itself would keep alive all that the failed job had in hand.
            kind = next((kind for kind in (StorageFull, Fenced) if isinstance(error, kind)), StorageFailure)
            self._fail(kind, str(error))
            if not isinstance(error, EngineError):
                raise  # a bug: the thread says where
            return
        oldest.charge.release()
        self._compaction.schedule()  # first, or the shard would seem to be at rest for a moment
        with self._condition:
            self._heads.popleft()
            self._error = None
            self._condition.notify_all()
            if self._heads:
                self._maintenance.seal(self._run)

    def _fail(self, kind: type[EngineError], reason: str) -> None:
        """Tell the writers that wait, and try again."""
        with self._condition:
            if self._error != (kind, reason):
                logger.error("%s; trying again until it works", reason)
            self._error = kind, reason
            self._condition.notify_all()
        self._maintenance.seal_later(_RETRY_SECONDS, self._run)
