"""What caches hold of the ledger: charges, and the account of the tenant that they are charged to.

How a reservation is granted, and what is evicted for it, is the affair of `memory_manager`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from vectorizer_engine.cache.memory_types import CacheType, EvictionReason, LookupResult
from vectorizer_engine.errors import CacheMemoryLimitExceeded

if TYPE_CHECKING:
    from vectorizer_engine.cache.memory_manager import CacheMemoryManager

OnEvict = Callable[[], int]
"""Frees what a charge is for, and returns how many entries of the cache that were."""


class Charge:
    """A number of bytes that are reserved until `release`. Made by `MemoryAccount.reserve`."""

    __slots__ = ("_account", "_evicted", "_manager", "_on_evict", "_pins", "_used", "cache", "nbytes")

    def __init__(self, account: MemoryAccount, cache: CacheType, on_evict: OnEvict | None) -> None:
        self._account = account
        self._manager = account._manager
        self._on_evict = on_evict
        self._pins = 0
        self._evicted = False
        self._used = 0.0
        self.cache = cache
        self.nbytes = 0

    def grow(self, nbytes: int, *, keep: CacheType | None = None) -> bool:
        """Reserve *nbytes* more for the same thing. False, and nothing changes, where they do not fit."""
        return self._manager._grow(self, nbytes, keep)

    def shrink(self, nbytes: int) -> None:
        """Give *nbytes* back, after they were freed."""
        self._manager._shrink(self, nbytes)

    def absorb(self, other: Charge) -> None:
        """Take over what *other*, of the same cache, holds: the bytes now belong to what this one is for."""
        self._manager._absorb(self, other)

    def split(self, nbytes: int) -> Charge:
        """A charge of its own for *nbytes* of what this one holds, for what will take their place."""
        return self._manager._split(self, nbytes)

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


class MemoryAccount:
    """The part of the budget that is one tenant's: what its caches reserve from. Made by `CacheMemoryManager`."""

    def __init__(self, manager: CacheMemoryManager, tenant: str, quota: int | None) -> None:
        self.tenant = tenant
        self.quota = quota
        self._manager = manager
        self._held = 0
        self._held_by_cache = dict.fromkeys(CacheType, 0)
        # Charges that may be evicted, least recently used first.
        self._evictable: OrderedDict[Charge, None] = OrderedDict()

    @property
    def limit(self) -> int:
        """The most that could be held here if nobody else held anything, in bytes."""
        limit = self._manager._limit
        return limit if self.quota is None else min(limit, self.quota)

    def reserve(
        self,
        cache: CacheType,
        nbytes: int,
        *,
        on_evict: OnEvict | None = None,
        keep: CacheType | None = None,
        vital: bool = False,
    ) -> Charge | None:
        """Reserve *nbytes* before allocating them, evicting what was used longest ago where needed.

        With *on_evict* the charge itself may be evicted later: the callback frees the memory, after which the
        manager takes the bytes back (it must not call `release`). It runs in the thread that needs the
        space. Without it the charge stays until it is released. Of the cache *keep* nothing is evicted for it that
        is in service: that was used within SERVING_SECONDS. What is *vital*, because without it there would be no
        service at all, is refused for the limit only: not for a quota, or for what others need.

        Returns None where the bytes would not fit although everything that may be evicted were. Then nothing is.
        """
        charge = Charge(self, cache, on_evict)
        if not self._manager._grow(charge, nbytes, keep, vital=vital):
            return None
        if on_evict is not None:
            with self._manager._lock:
                self._manager._offer(charge)
        return charge

    def available(self, *, keep: CacheType | None = None) -> int:
        """What could be reserved now, evicting everything that may be evicted but what is in service in *keep*.

        Bytes; below 0 where more is held than a lowered limit allows.
        """
        return self._manager._available(self, keep)

    def gains_from(self, other: MemoryAccount) -> bool:
        """Whether what *other* gives back could be reserved here: nobody has to give to one who holds more."""
        at_quota = self.quota is not None and self._held >= self.quota
        return other is self or (other._held > self._held and not at_quota)

    def require_possible(self, what: str, nbytes: int) -> None:
        """Raise CacheMemoryLimitExceeded where *nbytes* could not even fit into empty caches."""
        if nbytes > self.limit:
            raise self.limit_exceeded(what, nbytes)

    def limit_exceeded(self, what: str, nbytes: int) -> CacheMemoryLimitExceeded:
        """The error for *what*, for which *nbytes* cannot be had."""
        by_quota = self.quota is not None and self.quota <= self._manager._limit
        return CacheMemoryLimitExceeded(what=what, requested=nbytes, limit=self.limit, by_quota=by_quota)

    def record_evictions(self, cache: CacheType, reason: EvictionReason, entries: int) -> None:
        """Count entries that a cache let go by itself."""
        self._manager._record_evictions(cache, reason, entries)

    def record_lookup(self, cache: CacheType, *, found: bool) -> None:
        """Count that a cache was asked for something that it may keep, and whether it had it."""
        self._manager._record_lookup(cache, LookupResult.HIT if found else LookupResult.MISS)

    def _candidates(
        self, asking: Charge | None, keep: CacheType | None, in_service: float
    ) -> Iterator[Charge]:
        """What of this may be evicted for *asking*, used longest ago first."""
        for charge in self._evictable:
            if charge is not asking and (charge.cache is not keep or charge._used <= in_service):
                yield charge
