"""One limit for all memory that grows with data: the ledger that every cache reserves from.

A cache reserves *before* it allocates and releases *after* it has freed, so at no moment is more allocated
than the ledger says, and the ledger never exceeds the limit. What is reserved with an eviction callback may
be taken back: in least-recently-used order across all caches, whoever asks. Who asks for something that is worth
less than what serves at present says so with `keep`: of that cache nothing is evicted that was used within the
last minute.

Three watermarks stand on the way to the limit. Above the first (`cluster.cache_warning_threshold`) usage is worth a
warning; from the second (90 %) on `keeper` evicts in the background, down to 85 %, so that requests seldom have
to; at the limit itself whoever reserves evicts first. How often each was reached is counted.

The limit may change at any time. After it was lowered, what cannot be evicted stays charged, and nothing more is
reserved until it fits.

This is not an allocator, and it does not know about mapped files: the kernel takes those pages back by
itself. It also does not wait: a refused reservation returns None, and the caller takes its slower path.

Locking: one lock guards the ledger. It is never held while an eviction callback runs, so a callback may take
its cache's lock. In turn nobody may call `reserve` or `grow` while holding a lock that a callback takes.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from vectorizer_engine.errors import CacheMemoryLimitExceeded

WARNING_THRESHOLD_PERCENT = 80

BACKGROUND_PERCENT = 90
"""Of the limit: above it the keeper evicts."""

RELIEVED_PERCENT = 85
"""Of the limit: down to this, so that it is not woken by every reservation."""

RETURN_BYTES = 4 * 1024**2
"""After so much was freed, the keeper gives what the heap can spare back to the operating system."""

SERVING_SECONDS = 60.0
"""What was used within so long is in service: `keep` spares it. Long against what opening an index again costs (a
few tens of milliseconds), so that indexes that do not fit together do not take turns in pushing each other out."""

OnEvict = Callable[[], int]
"""Frees what a charge is for, and returns how many entries of the cache that were."""


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


class Watermark(StrEnum):
    """A level of usage at which something happens: the `watermark` label of the metrics."""

    WARNING = "warning"
    BACKGROUND = "background"
    FORCED = "forced"


@dataclass(frozen=True, slots=True)
class MemorySnapshot:
    """The ledger at one moment. Sizes are bytes.

    `peak` is the most that was used since the limit was last set. `watermarks` counts how often usage rose above the
    first and the second, and how many reservations evicted.
    """

    limit: int
    used: int
    peak: int
    warning_threshold: int
    by_cache: dict[CacheType, int]
    evictions: dict[tuple[CacheType, EvictionReason], int]
    watermarks: dict[Watermark, int]
    refusals: int

    @property
    def over_warning_threshold(self) -> bool:
        return self.used * 100 > self.limit * self.warning_threshold


class Charge:
    """A number of bytes that are reserved until `release`. Made by `CacheMemoryManager.reserve`."""

    __slots__ = ("_evicted", "_manager", "_on_evict", "_pins", "_used", "cache", "nbytes")

    def __init__(
        self, manager: CacheMemoryManager, cache: CacheType, nbytes: int, on_evict: OnEvict | None
    ) -> None:
        self._manager = manager
        self._on_evict = on_evict
        self._pins = 0
        self._evicted = False
        self._used = 0.0
        self.cache = cache
        self.nbytes = nbytes

    def grow(self, nbytes: int, *, keep: CacheType | None = None) -> bool:
        """Reserve *nbytes* more for the same thing. False, and nothing changes, where they do not fit."""
        return self._manager._grow(self, nbytes, keep)

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

    def claim(self) -> bool:
        """Take it out of everybody's reach, to free what it is for and then `release` it.

        False where somebody has it pinned, or it is already being evicted or freed.
        """
        return self._manager._claim(self)

    def release(self) -> None:
        """Give everything back, after it was freed. Idempotent."""
        self._manager._release(self)


class CacheMemoryManager:
    """The budget of one engine process.

    *limit* is in bytes; *warning_threshold* is the percentage of it above which the snapshot warns; *clock* is in
    seconds and must not go backwards.
    """

    def __init__(
        self,
        limit: int,
        warning_threshold: int = WARNING_THRESHOLD_PERCENT,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.attention = threading.Event()
        """Set when there is something for the keeper to do, which clears it."""
        self._lock = threading.Lock()
        self._limit = limit
        self._warning_threshold = warning_threshold
        self._clock = clock
        self._used = 0
        self._peak = 0
        self._freed = 0
        self._refusals = 0
        self._by_cache = dict.fromkeys(CacheType, 0)
        self._evictions: dict[tuple[CacheType, EvictionReason], int] = {}
        self._watermarks = dict.fromkeys(Watermark, 0)
        # Charges that may be evicted, least recently used first.
        self._evictable: OrderedDict[Charge, None] = OrderedDict()

    @property
    def limit(self) -> int:
        return self._limit

    def set_limit(self, limit: int, warning_threshold: int = WARNING_THRESHOLD_PERCENT) -> None:
        """Change the limit and the threshold. What is above a lower limit is evicted before this returns."""
        with self._lock:
            self._limit = limit
            self._warning_threshold = warning_threshold
        self.evict_down_to(limit)
        with self._lock:
            self._peak = self._used
        self.attention.set()

    def reserve(
        self,
        cache: CacheType,
        nbytes: int,
        *,
        on_evict: OnEvict | None = None,
        keep: CacheType | None = None,
    ) -> Charge | None:
        """Reserve *nbytes* before allocating them, evicting what was used longest ago where needed.

        With *on_evict* the charge itself may be evicted later: the callback frees the memory, after which the
        manager takes the bytes back (it must not call `release`). It runs in the thread that needs the
        space. Without it the charge stays until it is released. Of the cache *keep* nothing is evicted for it that
        is in service: that was used within SERVING_SECONDS.

        Returns None where the bytes would not fit although everything that may be evicted were. Then nothing is.
        """
        charge = Charge(self, cache, 0, on_evict)
        if not self._grow(charge, nbytes, keep):
            return None
        if on_evict is not None:
            with self._lock:
                self._offer(charge)
        return charge

    def available(self, *, keep: CacheType | None = None) -> int:
        """What could be reserved now, evicting everything that may be evicted but what is in service in *keep*.

        Bytes; below 0 where more is held than a lowered limit allows.
        """
        with self._lock:
            return self._limit - self._used + sum(charge.nbytes for charge in self._victims(None, keep))

    def evict_down_to(self, nbytes: int, *, keep: CacheType | None = None) -> None:
        """Evict what was used longest ago until no more than *nbytes* are used, as far as that is possible."""
        while True:
            with self._lock:
                victim = self._take_victim(None, keep) if self._used > nbytes else None
            if victim is None:
                return
            self._evict(victim)

    def relieve(self, *, keep: CacheType | None = None) -> None:
        """Where usage is above the second watermark, evict down from it."""
        if self._used > self._limit * BACKGROUND_PERCENT // 100:
            self.evict_down_to(self._limit * RELIEVED_PERCENT // 100, keep=keep)

    def take_freed(self) -> bool:
        """Whether so much was freed since this was last true that the heap should be given back."""
        with self._lock:
            enough = self._freed >= RETURN_BYTES
            if enough:
                self._freed = 0
            return enough

    def require_possible(self, what: str, nbytes: int) -> None:
        """Raise CacheMemoryLimitExceeded where *nbytes* could not even fit into empty caches."""
        if nbytes > self._limit:
            raise CacheMemoryLimitExceeded(what=what, requested=nbytes, limit=self._limit)

    def record_evictions(self, cache: CacheType, reason: EvictionReason, entries: int) -> None:
        """Count entries that a cache let go by itself."""
        with self._lock:
            self._count_evictions(cache, reason, entries)

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
                watermarks=dict(self._watermarks),
                refusals=self._refusals,
            )

    def _grow(self, charge: Charge, nbytes: int, keep: CacheType | None = None) -> bool:
        forced = False
        while True:
            with self._lock:
                if charge._evicted:
                    return False
                missing = self._used + nbytes - self._limit
                if missing <= 0 or nbytes == 0:
                    self._account(charge, nbytes)
                    return True
                enough = forced or self._can_evict(missing, charge, keep)
                victim = self._take_victim(charge, keep) if enough else None
                if victim is None:
                    self._refusals += 1
                    return False
                if not forced:
                    self._watermarks[Watermark.FORCED] += 1
                    forced = True
            self._evict(victim)

    def _victims(self, asking: Charge | None, keep: CacheType | None) -> Iterator[Charge]:
        """What may be evicted for *asking*, used longest ago first."""
        in_service = self._clock() - SERVING_SECONDS
        for charge in self._evictable:
            if charge is not asking and (charge.cache is not keep or charge._used <= in_service):
                yield charge

    def _can_evict(self, nbytes: int, asking: Charge, keep: CacheType | None) -> bool:
        for charge in self._victims(asking, keep):
            nbytes -= charge.nbytes
            if nbytes <= 0:
                return True
        return False

    def _take_victim(self, asking: Charge | None, keep: CacheType | None) -> Charge | None:
        """The charge to evict next, out of everybody's reach."""
        victim = next(self._victims(asking, keep), None)
        if victim is not None:
            del self._evictable[victim]
            victim._evicted = True
        return victim

    def _evict(self, victim: Charge) -> None:
        assert victim._on_evict is not None
        entries = victim._on_evict()
        with self._lock:
            self._account(victim, -victim.nbytes)
            self._count_evictions(victim.cache, EvictionReason.MEMORY_LIMIT, entries)

    def _account(self, charge: Charge, nbytes: int) -> None:
        charge.nbytes += nbytes
        self._by_cache[charge.cache] += nbytes
        before, self._used = self._used, self._used + nbytes
        if nbytes > 0:
            self._peak = max(self._peak, self._used)
            for watermark, percent in (
                (Watermark.WARNING, self._warning_threshold),
                (Watermark.BACKGROUND, BACKGROUND_PERCENT),
            ):
                if before * 100 <= self._limit * percent < self._used * 100:
                    self._watermarks[watermark] += 1
                    self.attention.set()
        else:
            self._freed -= nbytes
            if self._freed >= RETURN_BYTES and not self.attention.is_set():
                self.attention.set()

    def _count_evictions(self, cache: CacheType, reason: EvictionReason, entries: int) -> None:
        self._evictions[cache, reason] = self._evictions.get((cache, reason), 0) + entries

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
                self._offer(charge)

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
                self._offer(charge)

    def _offer(self, charge: Charge) -> None:
        """Let it be evicted, last of all: it was used just now."""
        charge._used = self._clock()
        self._evictable[charge] = None
        self._evictable.move_to_end(charge)

    def _claim(self, charge: Charge) -> bool:
        with self._lock:
            if charge not in self._evictable:
                return False
            del self._evictable[charge]
            charge._evicted = True
            return True

    def _release(self, charge: Charge) -> None:
        with self._lock:
            self._evictable.pop(charge, None)
            charge._evicted = True
            self._account(charge, -charge.nbytes)
