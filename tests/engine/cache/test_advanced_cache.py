"""The query-result cache: bounded in memory, number and age, and never an answer from before a write."""

from __future__ import annotations

import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tests.engine.collection.model import MiB, params, vectors_of
from vectorizer_engine.cache.advanced_cache import (
    BLOCK_BYTES,
    BLOCK_OVERHEAD_BYTES,
    ENTRY_BYTES,
    AdvancedCache,
)
from vectorizer_engine.cache.memory_manager import CacheMemoryManager, CacheType, EvictionReason, LookupResult
from vectorizer_engine.collection.records import Scored
from vectorizer_engine.collection.store import VectorStore
from vectorizer_engine.tenants import NO_TENANT

ALONE = ENTRY_BYTES + 10 + BLOCK_OVERHEAD_BYTES
"""What an entry of ten bytes costs under a limit so small that each has a block of its own."""


def lookups(memory: CacheMemoryManager) -> dict[str, int]:
    """Those of query results, by result."""
    counted = memory.snapshot().lookups
    return {result: counted[CacheType.QUERY, result] for result in LookupResult}


def test_what_was_put_is_found_until_it_is_too_old() -> None:
    now = 0.0
    memory = CacheMemoryManager(MiB)
    cache = AdvancedCache(memory, ttl=10, clock=lambda: now)
    cache.put(b"key", b"value")
    now = 9.9
    assert cache.get(b"key") == b"value"
    now = 10.0
    assert cache.get(b"key") is None
    assert (lookups(memory), len(cache)) == ({"hit": 1, "miss": 1}, 0)
    assert memory.snapshot().used == 0
    assert memory.snapshot().evictions == {(CacheType.QUERY, EvictionReason.TTL): 1}


def test_an_answer_that_two_searches_found_at_once_is_kept_once_and_charged() -> None:
    memory = CacheMemoryManager(MiB)
    cache = AdvancedCache(memory)
    cache.put(b"key", b"value")
    once = memory.snapshot().used
    cache.put(b"key", b"again")
    assert memory.snapshot().used == once
    cache.put(b"other", b"value")
    assert cache.get(b"key") == b"again"


def test_beyond_the_number_of_entries_the_oldest_use_goes() -> None:
    memory = CacheMemoryManager(MiB)
    cache = AdvancedCache(memory, max_entries=2)
    for key in (b"a", b"b"):
        cache.put(key, key)
    cache.get(b"a")
    cache.put(b"c", b"c")
    assert [cache.get(key) for key in (b"a", b"b", b"c")] == [b"a", None, b"c"]
    assert memory.snapshot().evictions == {(CacheType.QUERY, EvictionReason.SIZE_LIMIT): 1}


def test_memory_that_is_wanted_elsewhere_is_given_up() -> None:
    memory = CacheMemoryManager(10 * ALONE)
    cache = AdvancedCache(memory)
    for number in range(20):
        cache.put(b"%05d" % number, b"12345")
    assert len(cache) == 10
    assert cache.get(b"00019") == b"12345"
    assert memory.reserve(CacheType.HNSW, 9 * ALONE) is not None
    assert len(cache) == 1
    assert cache.get(b"00019") == b"12345"
    cache.put(b"large", bytes(memory.limit))
    assert cache.get(b"large") is None
    cache.put(b"00019", b"other")
    assert cache.get(b"00019") == b"other"
    cache.clear()
    assert memory.snapshot().by_cache[CacheType.QUERY] == 0


def test_what_is_too_old_leaves_without_being_asked_for() -> None:
    now = 0.0
    memory = CacheMemoryManager(MiB)
    cache = AdvancedCache(memory, ttl=10, clock=lambda: now)
    for number in range(100):
        cache.put(b"%03d" % number, bytes(1000))
    now = 5.0
    for number in range(100, 200):
        cache.put(b"%03d" % number, bytes(1000))
    now = 12.0
    cache.put(b"new", b"value")
    assert 100 <= len(cache) <= 125, "all but those that share a block with younger ones"
    gone = memory.snapshot().evictions[CacheType.QUERY, EvictionReason.TTL]
    assert gone == 201 - len(cache)


def test_what_is_found_again_outlives_what_was_put_beside_it() -> None:
    memory = CacheMemoryManager(64 * BLOCK_BYTES)
    cache = AdvancedCache(memory)
    for number in range(10_000):
        cache.put(b"%05d" % number, bytes(100))
    wanted = [b"%05d" % number for number in range(0, 1000, 50)]
    assert all(cache.get(key) for key in wanted)
    memory.evict_down_to(memory.snapshot().used // 2)
    assert all(cache.get(key) for key in wanted)
    assert cache.get(b"00001") is None
    assert cache.get(b"09999") is not None
    assert memory.snapshot().evictions[CacheType.QUERY, EvictionReason.MEMORY_LIMIT] == 10_000 - len(cache)


def test_an_entry_costs_what_is_charged() -> None:
    memory = CacheMemoryManager(64 * MiB)
    cache = AdvancedCache(memory)
    tracemalloc.start()
    try:
        start = tracemalloc.get_traced_memory()[0]
        for number in range(22_000):  # just after a dictionary has grown
            cache.put(b"%032d" % number, bytes(200))
        measured = tracemalloc.get_traced_memory()[0] - start
    finally:
        tracemalloc.stop()
    assert measured == pytest.approx(memory.snapshot().used, rel=0.05)


def test_threads_that_fill_it_at_once_leave_a_true_ledger() -> None:
    memory = CacheMemoryManager(50 * ALONE)
    cache = AdvancedCache(memory, max_entries=40)

    def work(seed: int) -> None:
        for number in range(500):
            key = b"%05d" % ((seed * 7 + number) % 90)
            if cache.get(key) not in (None, key):
                raise AssertionError("another key's value")
            cache.put(key, key)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert memory.snapshot().used == len(cache) * ALONE
    assert memory.snapshot().peak <= memory.limit


def told(answers: list[list[Scored]]) -> list[list[tuple[object, ...]]]:
    return [[(hit.id, hit.score, hit.version, hit.payload) for hit in hits] for hits in answers]


def test_a_search_is_answered_from_the_cache_until_something_is_written(tmp_path: Path) -> None:
    memory = CacheMemoryManager(16 * MiB)
    results = AdvancedCache(memory)
    store = VectorStore.open(tmp_path, memory=memory, results={NO_TENANT: results})
    collections = [store.create_collection(name, params()) for name in "ab"]
    for number, collection in enumerate(collections):
        seeds = list(range(number * 100, number * 100 + 20))
        collection.upsert(seeds, vectors_of(seeds), [{"n": seed} for seed in seeds])
    queries = vectors_of([3, 4])
    for collection in collections:
        first = collection.search(queries, limit=5)
        hits = lookups(memory)["hit"]
        again = collection.search(queries, limit=5)
        assert lookups(memory)["hit"] == hits + 2
        assert told(again) == told(first)
        [alone] = collection.search(queries[1:], limit=5)
        assert told([alone]) == told(first[1:])
        more = collection.search(vectors_of([3, 5, 4]), limit=5)
        assert lookups(memory)["hit"] == hits + 5, "only the query that is new is looked for"
        assert told([more[0], more[2]]) == told(first)
        assert told([more[1]]) == told(collection.search(vectors_of([5]), limit=5, exact=True))
        assert [len(answer) for answer in collection.search(queries, limit=4, offset=2)] == [4, 4]
        best = first[0][0].id
        collection.set_payload({"n": -1}, ids=[best])
        assert collection.search(queries, limit=5)[0][0].payload == {"n": -1}
        collection.delete(ids=[best])
        assert best not in [hit.id for hit in collection.search(queries, limit=5)[0]]
        collection.search(queries, limit=5, predicate=lambda *_: True)
    different = [
        collections[0].search(queries, limit=3),
        collections[0].search(queries[:1], limit=3),
        collections[0].search(np.ascontiguousarray(queries[::-1]), limit=3),
    ]
    assert [hit.id for hit in different[0][0]] == [hit.id for hit in different[2][1]]
    assert len(different[1]) == 1
    store.close()
    assert memory.snapshot().used == 0
