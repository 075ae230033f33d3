"""The background work of a store: one thread that seals heads, and one that merges segments and builds indexes,
for all collections together. Sealing has its own thread because writers wait for it.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol

logger = logging.getLogger(__name__)

NICENESS = 10
"""Background threads give way to those that answer requests. So do the threads that faiss starts in them."""

STOP_SECONDS = 5.0
"""How long `close` waits for a job. Building an index cannot be broken off; it ends with the process."""

Job = Callable[[], None]


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
        self._seal = _Worker("seal")
        self._merge = _Worker("merge")

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

    def seal(self, job: Job) -> None:
        self._seal.submit(job)

    def merge(self, job: Job) -> None:
        self._merge.submit(job)

    def merge_later(self, seconds: float, job: Job) -> None:
        """`merge`, but not before *seconds* have passed."""
        timer = threading.Timer(seconds, self._merge.submit, (job,))
        timer.daemon = True
        timer.start()

    def close(self) -> None:
        """Return when nothing runs any more. What has not begun is dropped: recovery does it again."""
        self.stopping.set()
        deadline = time.monotonic() + STOP_SECONDS
        for worker in (self._seal, self._merge):
            worker.close(deadline)


class _Worker:
    """A thread that carries out jobs one after the other. It starts with the first of them."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, job: Job) -> None:
        with self._lock:
            if self._closed:
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()
            self._jobs.put(job)

    def close(self, deadline: float) -> None:
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None:
            self._jobs.put(None)
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while (job := self._jobs.get()) is not None:
            if self._closed:
                continue
            try:
                job()
            except Exception:
                logger.exception("a background job failed")
            del job  # or it would keep alive what it worked on until the next one comes
