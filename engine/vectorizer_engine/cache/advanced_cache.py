"""The query-result cache: answers by the bytes of their question, under the one memory limit.

What an answer means, and when it stops being true, is for whoever makes the keys: a key holds the version of
what was asked, so an old answer is never found again and leaves by itself, as the least recently used.

An entry leaves when memory is wanted elsewhere (`memory_limit`), when there are too many (`size_limit`), or when
it is too old (`ttl`). An entry that cannot be reserved is not kept; the caller has its answer anyway.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from vectorizer_engine.cache.memory_manager import CacheMemoryManager, CacheType, Charge, EvictionReason

ENTRY_BYTES = 780
"""Heap bytes of an entry besides key and value, most of it the charge and its callback (see its test)."""

MAX_ENTRIES = 100_000
TTL_SECONDS = 300.0


class _Entry(NamedTuple):
    value: bytes
    expires: float
    charge: Charge


class AdvancedCache:
    """Bytes by bytes, least recently used first to go. Any thread may call."""

    def __init__(
        self,
        memory: CacheMemoryManager,
        *,
        max_entries: int = MAX_ENTRIES,
        ttl: float = TTL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*ttl* is in seconds of *clock*, which must not go backwards."""
        self._memory = memory
        self._max_entries = max_entries
        self._ttl = ttl
        self._clock = clock
        # Never held while memory is reserved: an eviction takes it.
        self._lock = threading.Lock()
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> bytes | None:
        """The value of *key*, None where there is none or it is too old."""
        with self._lock:
            entry = self._entries.get(key)
            fresh = entry is not None and self._clock() < entry.expires
            if fresh:
                self._entries.move_to_end(key)
                self.hits += 1
            else:
                self.misses += 1
                self._entries.pop(key, None)
        if entry is None:
            return None
        if not fresh:
            entry.charge.release(EvictionReason.TTL)
            return None
        entry.charge.touch()
        return entry.value

    def put(self, key: bytes, value: bytes) -> None:
        """Keep *value*, if the memory for it can be had."""
        charge = self._memory.reserve(
            CacheType.QUERY, ENTRY_BYTES + len(key) + len(value), on_evict=lambda: self._evicted(key)
        )
        # Pinned, or it could be evicted before it is in its place, and then be put there.
        if charge is None or not charge.pin():
            return
        with self._lock:
            replaced = self._entries.pop(key, None)
            self._entries[key] = _Entry(value, self._clock() + self._ttl, charge)
            surplus = self._entries.popitem(last=False)[1] if len(self._entries) > self._max_entries else None
        charge.unpin()
        if replaced is not None:
            replaced.charge.release()
        if surplus is not None:
            surplus.charge.release(EvictionReason.SIZE_LIMIT)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            entries = list(self._entries.values())
            self._entries.clear()
        for entry in entries:
            entry.charge.release()

    def _evicted(self, key: bytes) -> None:
        with self._lock:
            self._entries.pop(key, None)
