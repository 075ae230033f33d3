"""The thread beside the requests: warnings, eviction ahead of need, and memory that really goes back."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable

import pytest

from tests.engine.children import output_of
from tests.engine.collection.model import MiB
from vectorizer_engine.cache.advanced_cache import AdvancedCache
from vectorizer_engine.cache.keeper import WARNING_SECONDS, CacheKeeper
from vectorizer_engine.cache.memory_manager import CacheMemoryManager, CacheType


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_passing_the_warning_threshold_is_logged_but_not_again_and_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 0.0
    memory = CacheMemoryManager(1000, 80)
    keeper = CacheKeeper(memory, clock=lambda: now)
    charge = memory.reserve(CacheType.METADATA, 800)
    assert charge is not None

    def passes() -> None:
        charge.shrink(1)
        keeper.look()
        charge.grow(1)
        keeper.look()

    with caplog.at_level(logging.WARNING):
        keeper.look()
        assert caplog.messages == []
        charge.grow(1)
        keeper.look()
        keeper.look()
        assert caplog.messages == [
            "the caches hold 801 of 1000 bytes, more than the 80 % of cluster.cache_warning_threshold"
        ]
        now = WARNING_SECONDS - 1
        passes()
        assert len(caplog.messages) == 1
        now = WARNING_SECONDS
        passes()
        assert len(caplog.messages) == 2


def test_requests_that_fill_a_cache_find_that_room_was_made() -> None:
    memory = CacheMemoryManager(MiB)
    cache = AdvancedCache(memory)
    keeper = CacheKeeper(memory)
    keeper.start()
    try:
        for number in range(5000):
            if memory.snapshot().used > 0.9 * memory.limit:
                until(lambda: memory.snapshot().used <= 0.85 * memory.limit)
            cache.put(b"%05d" % number, bytes(500))
    finally:
        keeper.close()
    ledger = memory.snapshot()
    assert ledger.watermarks["background"] >= 3
    assert ledger.watermarks["forced"] == 0, "no request had to wait for an eviction"
    assert ledger.peak <= 0.93 * ledger.limit


def test_the_keeper_leaves_open_indexes_alone() -> None:
    memory = CacheMemoryManager(1000)
    memory.reserve(CacheType.HNSW, 950, on_evict=lambda: pytest.fail("evicted an index"))
    CacheKeeper(memory).look()
    assert memory.snapshot().used == 950


RELEASE = """
import json, sys
from vectorizer_engine.cache.advanced_cache import AdvancedCache
from vectorizer_engine.cache.heap import keep_little_freed_memory
from vectorizer_engine.cache.keeper import CacheKeeper
from vectorizer_engine.cache.memory_manager import CacheMemoryManager, CacheType
from vectorizer_engine.metrics import process_memory

keep_little_freed_memory()
memory = CacheMemoryManager(32 * 2**20)
cache, keeper = AdvancedCache(memory), CacheKeeper(memory)
value = int(sys.argv[1])

def fill(share, round):
    number = 0
    while memory.snapshot().used < share * memory.limit:
        cache.put(b"%02d%030d" % (round, number), bytes(value))
        number += 1

fill(0.1, 0)
cache.clear()
idle = process_memory().anonymous
fill(0.85, 1)
full, charged = process_memory().anonymous, memory.snapshot().used
pinned = memory.reserve(CacheType.METADATA, int(0.9 * memory.limit))
keeper.look()
left = memory.snapshot().by_cache[CacheType.QUERY]
print(json.dumps({"charged": charged, "taken": full - idle, "left": left,
                  "still": process_memory().anonymous - idle}))
"""


@pytest.mark.parametrize("value", [164, 2000])
def test_evicted_memory_goes_back_to_the_operating_system(value: int) -> None:
    """Anonymous resident memory of a process that does nothing else, in bytes."""
    measured = json.loads(output_of(RELEASE, str(value), seconds=60))
    assert measured["taken"] == pytest.approx(measured["charged"], rel=0.15), measured
    assert measured["left"] < 0.15 * measured["charged"]
    # Python's arenas of a megabyte, in which something else lives too: one or two as a rule, seldom four of the 27.
    shared = 6 * MiB
    assert measured["still"] <= measured["left"] + shared, measured
