"""Objects of a shared store that nobody needs any more, deleted when readers have had time to notice.

What is lost of this list when the process ends is found again when the shard is opened next.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice

from vectorizer_engine.storage.object_store import ObjectStore

logger = logging.getLogger(__name__)

GRACE = 600.0
"""Seconds for which a reader may still fetch what an older checkpoint names. One that is slower finds the object
gone, and begins again with a newer checkpoint."""

_AT_ONCE = 1000
"""What S3 deletes in one request."""


class Garbage:
    """Any thread may call."""

    def __init__(
        self, store: ObjectStore, *, grace: float = GRACE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._grace = grace
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: deque[tuple[float, Iterable[str]]] = deque()

    def add(self, names: Iterable[str]) -> None:
        """Have the objects *names* deleted later. Generators are welcome: names are made when they are used."""
        with self._lock:
            self._waiting.append((self._clock() + self._grace, names))

    def sweep(self) -> None:
        """Delete what has waited long enough. Where the store fails, it is left to the next opening."""
        while True:
            with self._lock:
                if not self._waiting or self._waiting[0][0] > self._clock():
                    return
                _, names = self._waiting.popleft()
            remaining = iter(names)
            try:
                while some := list(islice(remaining, _AT_ONCE)):
                    self._store.delete(some)
            except OSError as error:
                logger.warning("objects that are no longer needed stay in the store for now: %s", error)
