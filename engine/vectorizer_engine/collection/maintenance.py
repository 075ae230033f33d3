"""The background work of a store: one thread that seals heads and one that merges segments, for all
collections together. Sealing has its own thread because writers wait for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol

logger = logging.getLogger(__name__)


class HoldsHead(Protocol):
    """Something whose newest points are on the heap until they are sealed."""

    @property
    def head_bytes(self) -> int: ...

    def flush(self) -> None: ...


class Maintenance:
    """Runs jobs in the order in which they come. A job must look at `stopping` now and then."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._holders: set[HoldsHead] = set()
        self._seal = ThreadPoolExecutor(1, thread_name_prefix="seal")
        self._merge = ThreadPoolExecutor(1, thread_name_prefix="merge")

    def register(self, holder: HoldsHead) -> None:
        """From now on `relieve` may flush *holder*."""
        with self._lock:
            self._holders.add(holder)

    def forget(self, holder: HoldsHead) -> None:
        with self._lock:
            self._holders.discard(holder)

    def relieve(self) -> None:
        """Have the head sealed that holds the most memory, because somebody needs it."""
        with self._lock:
            largest = max(self._holders, key=lambda holder: holder.head_bytes, default=None)
        if largest is not None and largest.head_bytes:
            largest.flush()

    def seal(self, job: Callable[[], None]) -> None:
        self._submit(self._seal, job)

    def merge(self, job: Callable[[], None]) -> None:
        self._submit(self._merge, job)

    def close(self) -> None:
        """Return when nothing runs any more. What has not begun is dropped: recovery does it again."""
        self.stopping.set()
        for executor in (self._seal, self._merge):
            executor.shutdown(cancel_futures=True)

    def _submit(self, executor: ThreadPoolExecutor, job: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # closed
            executor.submit(self._run, job)

    @staticmethod
    def _run(job: Callable[[], None]) -> None:
        try:
            job()
        except Exception:
            logger.exception("a background job failed")
