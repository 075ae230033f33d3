"""One limit for all memory that grows with data: the ledger that every cache reserves from.

A cache reserves *before* it allocates and releases *after* it has freed, so at no moment is more allocated
than the ledger says, and the ledger never exceeds the limit. What is reserved with an eviction callback may
be taken back: in least-recently-used order across all caches, whoever asks. Who asks for something that is worth
less than what serves at present says so with `keep`: of that cache nothing is evicted that was used within the
last minute.

The ledger is by tenant and cache. A cache of one tenant reserves from the tenant's `MemoryAccount`; the manager itself
is the account of what belongs to no tenant, and the only one where there are none. Between accounts `fair_share`
says whose entries go, and no account holds more than its quota.

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
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, product

from vectorizer_engine.cache.fair_share import victims
from vectorizer_engine.cache.memory_account import Charge, MemoryAccount
from vectorizer_engine.cache.memory_types import (
    AccountSnapshot,
    CacheType,
    EvictionReason,
    LookupResult,
    MemorySnapshot,
    Watermark,
)
from vectorizer_engine.tenants import NO_TENANT

__all__ = [
    "AccountSnapshot",
    "CacheMemoryManager",
    "CacheType",
    "Charge",
    "EvictionReason",
    "LookupResult",
    "MemoryAccount",
    "MemorySnapshot",
    "Watermark",
]

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


class CacheMemoryManager(MemoryAccount):
    """The budget of one engine process, and the account of what belongs to no tenant.

    *limit* is in bytes; *warning_threshold* is the percentage of it above which the snapshot warns; *quotas* names
    the tenants, each with what it may hold at most in bytes (None: the limit); *clock* is in seconds and must not
    go backwards.
    """

    def __init__(
        self,
        limit: int,
        warning_threshold: int = WARNING_THRESHOLD_PERCENT,
        *,
        quotas: Mapping[str, int | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(self, NO_TENANT, None)
        self._accounts: dict[str, MemoryAccount] = {NO_TENANT: self}
        for tenant, quota in (quotas or {}).items():
            self._accounts[tenant] = MemoryAccount(self, tenant, quota)
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
        self._evictions: dict[tuple[CacheType, EvictionReason], int] = {}
        self._lookups = dict.fromkeys(product(CacheType, LookupResult), 0)
        self._watermarks = dict.fromkeys(Watermark, 0)

    def account(self, tenant: str) -> MemoryAccount:
        """The account of *tenant*; what belongs to one that is not named here is charged to no tenant."""
        return self._accounts.get(tenant, self)

    def set_limit(self, limit: int, warning_threshold: int = WARNING_THRESHOLD_PERCENT) -> None:
        """Change the limit and the threshold. What is above a lower limit is evicted before this returns."""
        with self._lock:
            self._limit = limit
            self._warning_threshold = warning_threshold
        self.evict_down_to(limit)
        with self._lock:
            self._peak = self._used
        self.attention.set()

    def evict_down_to(self, nbytes: int, *, keep: CacheType | None = None) -> None:
        """Evict what was used longest ago until no more than *nbytes* are used, as far as that is possible."""
        while True:
            with self._lock:
                victim = next(self._victims(None, 0, keep), None) if self._used > nbytes else None
                if victim is None:
                    return
                self._take(victim)
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

    def snapshot(self) -> MemorySnapshot:
        """A consistent copy of the ledger."""
        with self._lock:
            return MemorySnapshot(
                limit=self._limit,
                used=self._used,
                peak=self._peak,
                warning_threshold=self._warning_threshold,
                by_cache={
                    cache: sum(account._held_by_cache[cache] for account in self._accounts.values())
                    for cache in CacheType
                },
                tenants={
                    tenant: AccountSnapshot(account.quota, account._held, dict(account._held_by_cache))
                    for tenant, account in self._accounts.items()
                },
                evictions=dict(self._evictions),
                lookups=dict(self._lookups),
                watermarks=dict(self._watermarks),
                refusals=self._refusals,
            )

    def _grow(
        self, charge: Charge, nbytes: int, keep: CacheType | None = None, *, vital: bool = False
    ) -> bool:
        account = charge._account
        forced = False
        while True:
            with self._lock:
                if charge._evicted:
                    return False
                missing = self._used + nbytes - self._limit
                over = 0 if vital or account.quota is None else account._held + nbytes - account.quota
                if (missing <= 0 and over <= 0) or nbytes == 0:
                    self._change(charge, nbytes)
                    return True
                going = self._victims(charge, nbytes, keep, over_quota=over, vital=vital)
                first = next(going, None)
                if first is None or not (forced or _suffice(chain((first,), going), account, missing, over)):
                    self._refusals += 1
                    return False
                victim = self._take(first)
                if not forced:
                    self._watermarks[Watermark.FORCED] += 1
                    forced = True
            self._evict(victim)

    def _available(self, account: MemoryAccount, keep: CacheType | None) -> int:
        with self._lock:
            free = self._limit - self._used
            asking = Charge(account, CacheType.METADATA, None)
            free += sum(charge.nbytes for charge in self._victims(asking, free, keep, all_there_is=True))
            if account.quota is None:
                return free
            own = sum(charge.nbytes for charge in account._candidates(None, keep, self._in_service()))
            return min(free, account.quota - account._held + own)

    def _victims(
        self,
        asking: Charge | None,
        nbytes: int,
        keep: CacheType | None,
        *,
        all_there_is: bool = False,
        over_quota: int = 0,
        vital: bool = False,
    ) -> Iterator[Charge]:
        """What may be evicted so that *asking* gets *nbytes*, in the order in which it goes."""
        in_service = self._in_service()
        if len(self._accounts) == 1:
            return self._candidates(asking, keep, in_service)
        accounts = self._accounts.values()
        return victims(
            {account: account._held for account in accounts},
            {account: account._candidates(asking, keep, in_service) for account in accounts},
            asking=None if asking is None else asking._account,
            wanted=nbytes,
            all_there_is=all_there_is,
            over_quota=over_quota,
            vital=vital,
        )

    def _in_service(self) -> float:
        """What was used later than this is."""
        return self._clock() - SERVING_SECONDS

    def _take(self, victim: Charge) -> Charge:
        """Put it out of everybody's reach, to be evicted."""
        del victim._account._evictable[victim]
        victim._evicted = True
        return victim

    def _evict(self, victim: Charge) -> None:
        assert victim._on_evict is not None
        entries = victim._on_evict()
        with self._lock:
            self._change(victim, -victim.nbytes)
            self._count_evictions(victim.cache, EvictionReason.MEMORY_LIMIT, entries)

    def _change(self, charge: Charge, nbytes: int) -> None:
        charge.nbytes += nbytes
        charge._account._held += nbytes
        charge._account._held_by_cache[charge.cache] += nbytes
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

    def _record_evictions(self, cache: CacheType, reason: EvictionReason, entries: int) -> None:
        with self._lock:
            self._count_evictions(cache, reason, entries)

    def _count_evictions(self, cache: CacheType, reason: EvictionReason, entries: int) -> None:
        self._evictions[cache, reason] = self._evictions.get((cache, reason), 0) + entries

    def _record_lookup(self, cache: CacheType, result: LookupResult) -> None:
        with self._lock:
            self._lookups[cache, result] += 1

    def _shrink(self, charge: Charge, nbytes: int) -> None:
        with self._lock:
            assert 0 <= nbytes <= charge.nbytes, "a charge gives back at most what it holds"
            self._change(charge, -nbytes)

    def _absorb(self, charge: Charge, other: Charge) -> None:
        with self._lock:
            same = charge.cache is other.cache and charge._account is other._account
            assert same, "a charge moves only within its tenant's cache"
            charge.nbytes += other.nbytes
            other.nbytes = 0

    def _split(self, charge: Charge, nbytes: int) -> Charge:
        part = Charge(charge._account, charge.cache, None)
        with self._lock:
            assert 0 <= nbytes <= charge.nbytes, "a charge gives away at most what it holds"
            charge.nbytes -= nbytes
            part.nbytes = nbytes
        return part

    def _touch(self, charge: Charge) -> None:
        with self._lock:
            if charge in charge._account._evictable:
                self._offer(charge)

    def _pin(self, charge: Charge) -> bool:
        with self._lock:
            if charge._pins == 0:
                if charge not in charge._account._evictable:
                    return False
                del charge._account._evictable[charge]
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
        evictable = charge._account._evictable
        evictable[charge] = None
        evictable.move_to_end(charge)

    def _claim(self, charge: Charge) -> bool:
        with self._lock:
            if charge not in charge._account._evictable:
                return False
            del charge._account._evictable[charge]
            charge._evicted = True
            return True

    def _release(self, charge: Charge) -> None:
        with self._lock:
            charge._account._evictable.pop(charge, None)
            charge._evicted = True
            self._change(charge, -charge.nbytes)


def _suffice(charges: Iterable[Charge], account: MemoryAccount, missing: int, over_quota: int) -> bool:
    """Whether evicting *charges* frees what is missing, and of *account* what is over its quota."""
    for charge in charges:
        missing -= charge.nbytes
        if charge._account is account:
            over_quota -= charge.nbytes
        if missing <= 0 and over_quota <= 0:
            return True
    return False
