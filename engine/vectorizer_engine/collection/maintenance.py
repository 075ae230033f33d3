"""The background work of a store: one thread that seals heads, one that merges segments and builds indexes, one that
opens indexes again, and one for what is to be done in a shared store some time, for all collections together. Sealing
has its own thread because writers wait for it, opening because searches are slower until it is done, and the last
because a store may take long.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from vectorizer_engine.cache.memory_manager import MemoryAccount
from vectorizer_engine.errors import EngineError

logger = logging.getLogger(__name__)

NICENESS = 10
"""Background threads give way to those that answer requests. So do the threads that they start."""

STOP_SECONDS = 5.0
"""How long `close` waits for a job. Building an index cannot be broken off; it ends with the process."""

_RELIEF_SECONDS = 1.0
"""How long it may take, of all that are passed over together, to find a head that can be sealed."""

Job = Callable[[], None]


class HoldsHead(Protocol):
    """Something whose newest points are on the heap until they are sealed."""

    @property
    def head_bytes(self) -> int: ...

    @property
    def memory(self) -> MemoryAccount: ...

    def flush(self, *, within: float) -> None:
        """Raises EngineError where that cannot be begun *within* so many seconds."""
        ...


class Maintenance:
    """Runs jobs in the order in which they come. A job must look at `stopping` now and then."""

    def __init__(self, *, merging: bool = True) -> None:
        """Without *merging*, heads are sealed, which writers wait for, and nothing is merged or indexed."""
        self._merging = merging
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._holders: set[HoldsHead] = set()
        self._seal = _Worker("seal")
        self._merge = _Worker("merge")
        self._open = _Worker("open")
        self._tidy = _Worker("tidy")

    def register(self, holder: HoldsHead) -> None:
        """From now on `relieve` may flush *holder*."""
        with self._lock:
            self._holders.add(holder)

    def forget(self, holder: HoldsHead) -> None:
        with self._lock:
            self._holders.discard(holder)

    def relieve(self, memory: MemoryAccount, *, at_least: int = 1) -> None:
        """Have a head sealed that holds *at_least* so much, because *memory* is short of it.

        The largest of those that are charged to *memory*, or else of those from which it would gain. One that cannot
        be sealed, or not soon, because a write hangs there, is passed over: that is told to who writes there, and is no
        affair of who is short of memory here.
        """
        with self._lock:
            holders = [holder for holder in self._holders if holder.head_bytes >= at_least]
        holders = [holder for holder in holders if holder.memory is memory] or [
            holder for holder in holders if memory.gains_from(holder.memory)
        ]
        deadline = time.monotonic() + _RELIEF_SECONDS
        for holder in sorted(holders, key=lambda holder: holder.head_bytes, reverse=True):
            with suppress(EngineError):
                holder.flush(within=max(0.0, deadline - time.monotonic()))
                return

    def seal(self, job: Job) -> None:
        self._seal.submit(job)

    def seal_later(self, seconds: float, job: Job) -> None:
        """`seal`, but not before *seconds* have passed."""
        self._seal.submit(job, after=seconds)

    def merge(self, job: Job) -> None:
        if self._merging:
            self._merge.submit(job)

    def open(self, job: Job) -> None:
        self._open.submit(job)

    def tidy(self, job: Job, *, after: float = 0.0) -> None:
        """Run *job*, which puts or deletes what nobody waits for, but not before so many seconds have passed."""
        self._tidy.submit(job, after=after)

    def merge_later(self, seconds: float, job: Job) -> None:
        """`merge`, but not before *seconds* have passed."""
        if self._merging:
            self._merge.submit(job, after=seconds)

    def close(self) -> None:
        """Return when nothing runs any more. What has not begun is dropped: recovery does it again."""
        self.stopping.set()
        deadline = time.monotonic() + STOP_SECONDS
        self._tidy.close(0.0)  # what is under way there does no harm to anybody
        for worker in (self._seal, self._merge, self._open):
            worker.close(deadline)


class Reminder:
    """Has one job done some seconds later: once, however often it is asked for, and when the first of all wants it."""

    def __init__(self, later: Callable[[float, Job], None], job: Job) -> None:
        """*later* is `Maintenance.merge_later`, or another like it."""
        self._later = later
        self._job = job
        self._lock = threading.Lock()
        self._due: float | None = None

    def ask(self, seconds: float) -> None:
        """Have it done within so many seconds. Any thread may call."""
        due = time.monotonic() + seconds
        with self._lock:
            if self._due is not None and self._due <= due:
                return
            self._due = due
        self._later(seconds, lambda: self._remind(due))

    def _remind(self, due: float) -> None:
        with self._lock:
            if self._due != due:  # it was wanted earlier, and is done
                return
            self._due = None
        self._job()


class _Worker:
    """A thread that carries out jobs one after the other, when they are due. It starts with the first of them."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        # A heap by when a job is due; of those due together, the one that came first.
        self._jobs: list[tuple[float, int, Job]] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, job: Job, *, after: float = 0.0) -> None:
        with self._changed:
            if self._closed:
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()
            heapq.heappush(self._jobs, (time.monotonic() + after, next(self._order), job))
            self._changed.notify()

    def close(self, deadline: float) -> None:
        with self._changed:
            self._closed = True
            self._jobs.clear()
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _next(self) -> Job | None:
        """Wait for the next job that is due. None at the end."""
        with self._changed:
            while not self._closed:
                wait = self._jobs[0][0] - time.monotonic() if self._jobs else None
                if wait is not None and wait <= 0:
                    return heapq.heappop(self._jobs)[2]
                self._changed.wait(wait)
            return None

    def _work(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while (job := self._next()) is not None:
            try:
                job()
            except Exception:
                logger.exception("a background job failed")
            del job  # or it would keep alive what it worked on until the next one comes
