"""Keeping the head of a shard small where payloads are indexed: a filter has no index there and reads every payload.

So a head holds fewer points there, and is sealed when no write came for a while. What it then becomes is a small
segment, which is merged like any other.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from vectorizer_engine.collection.maintenance import Maintenance
from vectorizer_engine.collection.view import CurrentView
from vectorizer_engine.errors import EngineError
from vectorizer_engine.storage.head import Head

logger = logging.getLogger(__name__)

MOST_POINTS = 4096
"""Of a head, where payloads are indexed: a filter reads that many in about 15 ms."""

WORTH_SEALING_POINTS = 256
"""A smaller head stays: a filter reads it in 1 ms."""

QUIET_SECONDS = 2.0


class SmallHeads:
    """Has the head of one shard sealed when writes have ceased. Any thread may call."""

    def __init__(
        self,
        current: CurrentView,
        maintenance: Maintenance,
        *,
        is_wanted: Callable[[], bool],
        flush: Callable[[], None],
    ) -> None:
        """*is_wanted* says whether payloads are indexed, *flush* has the head sealed."""
        self._current = current
        self._maintenance = maintenance
        self._is_wanted = is_wanted
        self._flush = flush
        self._lock = threading.Lock()
        self._waiting = False

    def watch(self) -> None:
        """Look when there was no write for a while. To be called after each."""
        with self._lock:
            if self._waiting or not self._has_work():
                return
            self._waiting = True
        self._maintenance.merge_later(QUIET_SECONDS, self._look)

    def _look(self) -> None:
        with self._lock:
            self._waiting = False
        if self._current.seconds_since_write() < QUIET_SECONDS:
            self.watch()
        elif self._has_work():
            try:
                self._flush()
            except EngineError as error:
                logger.warning("a small head stays for now: %s", error)
                self.watch()

    def _has_work(self) -> bool:
        parts = self._current.view.parts
        last = parts[-1] if parts else None
        return (
            last is not None
            and isinstance(last.source, Head)
            and last.rows >= WORTH_SEALING_POINTS
            and self._is_wanted()
        )
