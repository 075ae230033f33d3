"""The thread that looks after the caches between requests: it warns, evicts ahead of need, and returns memory.

It decides nothing about what is allowed: the limit is kept by whoever reserves, with or without this thread.
Evicting in advance spares requests the wait; an index that answers is not evicted for that, because searching without
it costs more than a request would wait.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from vectorizer_engine.cache.heap import return_free_memory
from vectorizer_engine.cache.memory_manager import CacheMemoryManager, CacheType, MemorySnapshot

logger = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""How often usage is looked at when nothing calls for attention."""

PAUSE_SECONDS = 0.2
"""The least time between two looks: giving memory back takes milliseconds and makes other threads wait."""

WARNING_SECONDS = 60.0
"""The least time between two warnings."""


class CacheKeeper:
    """Watches one `CacheMemoryManager` from `start` to `close`."""

    def __init__(self, memory: CacheMemoryManager, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._memory = memory
        self._clock = clock
        self._warned: float | None = None
        self._over = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cache-keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._memory.attention.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> None:
        """Do what there is to do now."""
        self._warn(self._memory.snapshot())
        self._memory.relieve(keep=CacheType.HNSW)
        if self._memory.take_freed():
            return_free_memory()

    def _warn(self, ledger: MemorySnapshot) -> None:
        """Log when the caches have passed the threshold of the configuration upwards, but not all the time."""
        passed = ledger.over_warning_threshold and not self._over
        self._over = ledger.over_warning_threshold
        if passed and (self._warned is None or self._clock() - self._warned >= WARNING_SECONDS):
            self._warned = self._clock()
            logger.warning(
                "the caches hold %d of %d bytes, more than the %d %% of cluster.cache_warning_threshold",
                ledger.used,
                ledger.limit,
                ledger.warning_threshold,
            )

    def _run(self) -> None:
        while not self._closed.wait(PAUSE_SECONDS):
            self._memory.attention.wait(LOOK_SECONDS)
            self._memory.attention.clear()
            self.look()
