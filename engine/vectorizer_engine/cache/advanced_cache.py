"""The query-result cache: answers by the bytes of their question, under the one memory limit. What filters take of
a segment is kept in caches of the same kind, as metadata.

What an answer means, and when it stops being true, is for whoever makes the keys: a key holds the version of
what was asked, so an old answer is never found again and leaves by itself, as the least recently used.

Entries are charged and evicted by the block, of a few hundred entries that were used at about the same time: a
new entry goes into the newest block, and so does an old one that is found again. So what a charge costs is shared,
100 MB are evicted in milliseconds, and what was used longest ago still goes first, to within a block.

An entry leaves when memory is wanted elsewhere (`memory_limit`), when there are too many (`size_limit`), or when
it is too old (`ttl`). An entry that cannot be reserved is not kept; the caller has its answer anyway.
"""

from __future__ import annotations

import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from vectorizer_engine.cache.memory_manager import CacheType, Charge, EvictionReason, MemoryAccount

ENTRY_BYTES = 165
"""Heap bytes of an entry besides the content of key and value: its objects and its places in two dictionaries."""

BLOCK_OVERHEAD_BYTES = 700
"""Heap bytes of a block without entries, most of it the charge and its callback."""

BLOCK_BYTES = 256 * 1024
"""About the size of a block: 4,096 of them fill 1 GiB, and evicting one takes 0.1 ms."""

_EXPIRES = struct.Struct("<d")

MAX_ENTRIES = 100_000
TTL_SECONDS = 300.0


class _Block(dict[bytes, bytes]):
    """Entries that are evicted together, least recently used first. `expires` is when the last of them does.

    An entry's value is preceded by when it expires. Neither a float nor a plain dictionary is kept for it: Python
    holds on to the last hundred of those that were freed, each of which would hold on to a megabyte around it.
    """

    __slots__ = ("charge", "expires", "number")

    def __init__(self, number: int, charge: Charge) -> None:
        self.number = number
        self.charge = charge
        self.expires = 0.0

    def add(self, key: bytes, entry: bytes) -> None:
        self[key] = entry
        self.expires = max(self.expires, _expires(entry))


def _expires(entry: bytes) -> float:
    expires: float = _EXPIRES.unpack_from(entry)[0]
    return expires


def _cost(key: bytes, entry: bytes) -> int:
    return ENTRY_BYTES + len(key) + len(entry) - _EXPIRES.size


class AdvancedCache:
    """Bytes by bytes, least recently used first to go. Any thread may call."""

    def __init__(
        self,
        memory: MemoryAccount,
        *,
        cache: CacheType = CacheType.QUERY,
        max_entries: int = MAX_ENTRIES,
        ttl: float = TTL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*ttl* is in seconds of *clock*, which must not go backwards."""
        self._memory = memory
        self._cache = cache
        self._max_entries = max_entries
        self._ttl = ttl
        self._clock = clock
        # Guards what follows. Never held while memory is reserved: an eviction takes it.
        self._lock = threading.Lock()
        self._blocks: OrderedDict[int, _Block] = OrderedDict()
        self._places: dict[bytes, _Block] = {}
        self._most_places = 0
        self._next_number = 0

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: bytes) -> bytes | None:
        """The value of *key*, None where there is none or it is too old."""
        with self._lock:
            block = self._places.get(key)
            entry = b"" if block is None else block[key]
            fresh = block is not None and self._clock() < _expires(entry)
            self._memory.record_lookup(self._cache, found=fresh)
            if block is None:
                return None
            if not fresh:
                self._memory.record_evictions(self._cache, EvictionReason.TTL, 1)
            elif block is self._newest():
                block[key] = block.pop(key)
                block.charge.touch()
                return entry[_EXPIRES.size :]
            self._remove(key)
        if not fresh:
            return None
        self._store(key, entry)
        return entry[_EXPIRES.size :]

    def put(self, key: bytes, value: bytes) -> None:
        """Keep *value*, if the memory for it can be had."""
        now = self._clock()
        with self._lock:
            self._remove_expired(now)
        self._store(key, _EXPIRES.pack(now + self._ttl) + value)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            for block in list(self._blocks.values()):
                self._drop(block)
                block.charge.release()

    def _store(self, key: bytes, entry: bytes) -> None:
        block = self._room_for(_cost(key, entry))
        if block is None:
            return
        with self._lock:
            if block.number not in self._blocks:
                return  # evicted since, and what was reserved with it
            if key in self._places:
                self._remove(key, filling=block)
            block.add(key, entry)
            block.charge.touch()
            self._places[key] = block
            self._most_places = max(self._most_places, len(self._places))
            if len(self._places) > self._max_entries:
                self._remove(next(key for block in self._blocks.values() for key in block))
                self._memory.record_evictions(self._cache, EvictionReason.SIZE_LIMIT, 1)

    def _room_for(self, nbytes: int) -> _Block | None:
        """The newest block, or one after it, with *nbytes* reserved in it.

        An answer is not worth an index that answers.
        """
        largest = min(BLOCK_BYTES, self._memory.limit // 64)
        with self._lock:
            block = self._newest()
            number = self._next_number
            self._next_number += 1
        fits = block is not None and block.charge.nbytes + nbytes <= largest
        if block is not None and fits and block.charge.grow(nbytes, keep=CacheType.HNSW):
            return block
        charge = self._memory.reserve(
            self._cache,
            BLOCK_OVERHEAD_BYTES + nbytes,
            on_evict=lambda: self._evicted(number),
            keep=CacheType.HNSW,
        )
        # Pinned, or it could be evicted before it is in its place, and then be put there.
        if charge is None or not charge.pin():
            return None
        block = _Block(number, charge)
        with self._lock:
            self._blocks[number] = block
        charge.unpin()
        return block

    def _newest(self) -> _Block | None:
        return next(reversed(self._blocks.values()), None)

    def _remove(self, key: bytes, *, filling: _Block | None = None) -> None:
        """Forget one entry, and its block with the last of them, unless the block is being filled again."""
        block = self._places.pop(key)
        entry = block.pop(key)
        if block or block is filling:
            block.charge.shrink(_cost(key, entry))
        else:
            del self._blocks[block.number]
            block.charge.release()

    def _remove_expired(self, now: float) -> None:
        """Forget the oldest blocks as far as all in them is too old, whether it is asked for again or not."""
        while self._blocks:
            oldest = next(iter(self._blocks.values()))
            if not oldest or now < oldest.expires:
                return
            entries = self._drop(oldest)
            oldest.charge.release()
            self._memory.record_evictions(self._cache, EvictionReason.TTL, entries)

    def _evicted(self, number: int) -> int:
        with self._lock:
            block = self._blocks.get(number)
            return 0 if block is None else self._drop(block)

    def _drop(self, block: _Block) -> int:
        """Forget a block, and return how many entries it had. Its charge is for the caller."""
        del self._blocks[block.number]
        for key in block:
            del self._places[key]
        if len(self._places) * 4 < self._most_places:
            self._places = dict(self._places)  # a dictionary does not shrink by itself
            self._most_places = len(self._places)
        return len(block)
