"""Objects of a shared store that nobody needs any more, deleted when readers have had time to notice.

What is lost of this list when the process ends is found again when the shard is opened next.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import chain, islice

from vectorizer_engine.storage.object_store import ObjectStore

logger = logging.getLogger(__name__)

GRACE = 600.0
"""Seconds for which a reader may still fetch what an older checkpoint names. One that is slower finds the object
gone, and begins again with a newer checkpoint."""

_AT_ONCE = 1000
"""What S3 deletes in one request."""


AGAIN_SECONDS = 60.0
"""After so long it is tried again to delete what the store refused."""

Later = Callable[[float, Callable[[], None]], None]
"""Has something done in so many seconds, in another thread."""


class Garbage:
    """Any thread may call."""

    def __init__(
        self,
        store: ObjectStore,
        *,
        grace: float = GRACE,
        clock: Callable[[], float] = time.monotonic,
        later: Later | None = None,
    ) -> None:
        """*later* has `sweep` called when there is something to delete; without it, that is for others to do."""
        self._store = store
        self._grace = grace
        self._clock = clock
        self._later = later
        self._lock = threading.Lock()
        self._waiting: deque[tuple[float, Iterable[str]]] = deque()
        self._is_due = False

    def add(self, names: Iterable[str]) -> None:
        """Have the objects *names* deleted later. Generators are welcome: names are made when they are used."""
        self._wait(names, self._grace)

    def sweep(self) -> None:
        """Delete what has waited long enough. What the store refuses is tried again."""
        while True:
            with self._lock:
                if not self._waiting or self._waiting[0][0] > self._clock():
                    break
                _, names = self._waiting.popleft()
            remaining = iter(names)
            some: list[str] = []
            try:
                while some := list(islice(remaining, _AT_ONCE)):
                    self._store.delete(some)
            except OSError as error:
                logger.warning("objects that are no longer needed stay in the store for now: %s", error)
                self._wait(chain(some, remaining), max(self._grace, AGAIN_SECONDS))
        self._remind()

    def _wait(self, names: Iterable[str], seconds: float) -> None:
        with self._lock:
            self._waiting.append((self._clock() + seconds, names))
        self._remind()

    def _remind(self) -> None:
        """Have `sweep` called when the first is due, unless that is arranged."""
        with self._lock:
            if self._later is None or self._is_due or not self._waiting:
                return
            self._is_due = True
            seconds = max(0.0, self._waiting[0][0] - self._clock())
        self._later(seconds, self._reminded)

    def _reminded(self) -> None:
        with self._lock:
            self._is_due = False
        self.sweep()
