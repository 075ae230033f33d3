"""One limit for all memory that grows with data: the ledger that every cache reserves from.

A cache reserves *before* it allocates and releases *after* it has freed, so at no moment is more allocated
than the ledger says, and the ledger never exceeds the limit. What is reserved with an eviction callback may
be taken back: in least-recently-used order across all caches, whoever asks.

This is not an allocator, and it does not know about mapped files: the kernel takes those pages back by
itself. It also does not wait: a refused reservation returns None, and the caller takes its slower path.

Locking: one lock guards the ledger. It is never held while an eviction callback runs, so a callback may take
its cache's lock. In turn nobody may call `reserve` or `grow` while holding a lock that a callback takes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from vectorizer_engine.errors import CacheMemoryLimitExceeded

WARNING_THRESHOLD_PERCENT = 80


class CacheType(StrEnum):
    """What a charge is for: the `type` label of the metrics."""

    QUERY = "query"
    HNSW = "hnsw"
    METADATA = "metadata"


class EvictionReason(StrEnum):
    """Why something left a cache: the `reason` label of the metrics."""

    MEMORY_LIMIT = "memory_limit"
    SIZE_LIMIT = "size_limit"
    TTL = "ttl"


@dataclass(frozen=True, slots=True)
class MemorySnapshot:
    """The ledger at one moment. Sizes are bytes."""

    limit: int
    used: int
    peak: int
    warning_threshold: int
    by_cache: dict[CacheType, int]
    evictions: dict[tuple[CacheType, EvictionReason], int]
    refusals: int

    @property
    def over_warning_threshold(self) -> bool:
        return self.used * 100 > self.limit * self.warning_threshold


class Charge:
    """A number of bytes that are reserved until `release`. Made by `CacheMemoryManager.reserve`."""

    __slots__ = ("_evicted", "_manager", "_on_evict", "_pins", "cache", "nbytes")

    def __init__(
        self, manager: CacheMemoryManager, cache: CacheType, nbytes: int, on_evict: Callable[[], None] | None
    ) -> None:
        self._manager = manager
        self._on_evict = on_evict
        self._pins = 0
        self._evicted = False
        self.cache = cache
        self.nbytes = nbytes

    def grow(self, nbytes: int) -> bool:
        """Reserve *nbytes* more for the same thing. False, and nothing changes, where they do not fit."""
        return self._manager._grow(self, nbytes)

    def shrink(self, nbytes: int) -> None:
        """Give *nbytes* back, after they were freed."""
        self._manager._shrink(self, nbytes)

    def absorb(self, other: Charge) -> None:
        """Take over what *other*, of the same cache, holds: the bytes now belong to what this one is for."""
        self._manager._absorb(self, other)

    def touch(self) -> None:
        """Note a use: what was used last is evicted last."""
        self._manager._touch(self)

    def pin(self) -> bool:
        """Keep it from eviction until `unpin`. False where it is already being evicted: do not use it."""
        return self._manager._pin(self)

    def unpin(self) -> None:
        self._manager._unpin(self)

    def release(self, reason: EvictionReason | None = None) -> None:
        """Give everything back, after it was freed. With a *reason* it counts as an eviction. Idempotent."""
        self._manager._release(self, reason)


class CacheMemoryManager:
    """The budget of one engine process.

    *limit* is in bytes; *warning_threshold* is the percentage of it above which the snapshot warns.
    """

    def __init__(self, limit: int, warning_threshold: int = WARNING_THRESHOLD_PERCENT) -> None:
        self._lock = threading.Lock()
        self._limit = limit
        self._warning_threshold = warning_threshold
        self._used = 0
        self._peak = 0
        self._refusals = 0
        self._by_cache = dict.fromkeys(CacheType, 0)
        self._evictions: dict[tuple[CacheType, EvictionReason], int] = {}
        # Charges that may be evicted, least recently used first.
        self._evictable: OrderedDict[Charge, None] = OrderedDict()

    @property
    def limit(self) -> int:
        return self._limit

    def reserve(
        self, cache: CacheType, nbytes: int, *, on_evict: Callable[[], None] | None = None
    ) -> Charge | None:
        """Reserve *nbytes* before allocating them, evicting what was used longest ago where needed.

        With *on_evict* the charge itself may be evicted later: the callback frees the memory, after which the
        manager takes the bytes back (it must not call `release`). It runs in the thread that needs the
        space. Without it the charge stays until it is released.

        Returns None where the bytes do not fit although everything evictable was evicted.
        """
        charge = Charge(self, cache, 0, on_evict)
        if not self._grow(charge, nbytes):
            return None
        if on_evict is not None:
            with self._lock:
                self._evictable[charge] = None
        return charge

    def available(self) -> int:
        """What could be reserved now, evicting everything that may be evicted. Bytes."""
        with self._lock:
            return self._limit - self._used + sum(charge.nbytes for charge in self._evictable)

    def require_possible(self, what: str, nbytes: int) -> None:
        """Raise CacheMemoryLimitExceeded where *nbytes* could not even fit into empty caches."""
        if nbytes > self._limit:
            raise CacheMemoryLimitExceeded(what=what, requested=nbytes, limit=self._limit)

    def record_eviction(self, cache: CacheType, reason: EvictionReason) -> None:
        """Count an eviction that a cache decided on by itself."""
        with self._lock:
            self._count_eviction(cache, reason)

    def snapshot(self) -> MemorySnapshot:
        """A consistent copy of the ledger."""
        with self._lock:
            return MemorySnapshot(
                limit=self._limit,
                used=self._used,
                peak=self._peak,
                warning_threshold=self._warning_threshold,
                by_cache=dict(self._by_cache),
                evictions=dict(self._evictions),
                refusals=self._refusals,
            )

    def _grow(self, charge: Charge, nbytes: int) -> bool:
        while True:
            with self._lock:
                if charge._evicted:
                    return False
                if self._used + nbytes <= self._limit:
                    self._account(charge, nbytes)
                    return True
                if nbytes > self._limit or not self._evictable:
                    self._refusals += 1
                    return False
                victim = self._take_victim(charge)
                if victim is None:
                    self._refusals += 1
                    return False
            self._evict(victim)

    def _take_victim(self, asking: Charge) -> Charge | None:
        """The charge to evict next, out of everybody's reach. What asks for more never evicts itself."""
        for victim in self._evictable:
            if victim is not asking:
                del self._evictable[victim]
                victim._evicted = True
                return victim
        return None

    def _evict(self, victim: Charge) -> None:
        assert victim._on_evict is not None
        victim._on_evict()
        with self._lock:
            self._account(victim, -victim.nbytes)
            self._count_eviction(victim.cache, EvictionReason.MEMORY_LIMIT)

    def _account(self, charge: Charge, nbytes: int) -> None:
        charge.nbytes += nbytes
        self._by_cache[charge.cache] += nbytes
        self._used += nbytes
        self._peak = max(self._peak, self._used)

    def _count_eviction(self, cache: CacheType, reason: EvictionReason) -> None:
        self._evictions[cache, reason] = self._evictions.get((cache, reason), 0) + 1

    def _shrink(self, charge: Charge, nbytes: int) -> None:
        with self._lock:
            assert 0 <= nbytes <= charge.nbytes, "a charge gives back at most what it holds"
            self._account(charge, -nbytes)

    def _absorb(self, charge: Charge, other: Charge) -> None:
        with self._lock:
            assert charge.cache is other.cache, "a charge moves only within its cache"
            charge.nbytes += other.nbytes
            other.nbytes = 0

    def _touch(self, charge: Charge) -> None:
        with self._lock:
            if charge in self._evictable:
                self._evictable.move_to_end(charge)

    def _pin(self, charge: Charge) -> bool:
        with self._lock:
            if charge._pins == 0:
                if charge not in self._evictable:
                    return False
                del self._evictable[charge]
            charge._pins += 1
            return True

    def _unpin(self, charge: Charge) -> None:
        with self._lock:
            charge._pins -= 1
            if charge._pins == 0 and not charge._evicted:
                self._evictable[charge] = None

    def _release(self, charge: Charge, reason: EvictionReason | None) -> None:
        with self._lock:
            self._evictable.pop(charge, None)
            charge._evicted = True
            self._account(charge, -charge.nbytes)
            if reason is not None:
                self._count_eviction(charge.cache, reason)
