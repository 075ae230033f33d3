"""The ledger: never above the limit, equal to what is held, and evicting what was used longest ago."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vectorizer_engine.cache.memory_manager import (
    RETURN_BYTES,
    CacheMemoryManager,
    CacheType,
    Charge,
    EvictionReason,
)
from vectorizer_engine.errors import CacheMemoryLimitExceeded


def held(manager: CacheMemoryManager, cache: CacheType, nbytes: int) -> Charge:
    charge = manager.reserve(cache, nbytes)
    assert charge is not None
    return charge


def noting(evicted: list[Any], what: Any) -> Callable[[], int]:
    """A callback of one entry that says that it was evicted."""

    def evict() -> int:
        evicted.append(what)
        return 1

    return evict


def test_a_reservation_is_charged_until_it_is_released() -> None:
    manager = CacheMemoryManager(100)
    charge = held(manager, CacheType.HNSW, 60)
    assert manager.snapshot().by_cache[CacheType.HNSW] == 60
    assert manager.reserve(CacheType.QUERY, 41) is None
    charge.release()
    charge.release()
    snapshot = manager.snapshot()
    assert (snapshot.used, snapshot.peak, snapshot.refusals) == (0, 60, 1)


def test_what_was_used_longest_ago_is_evicted_first_across_caches() -> None:
    manager = CacheMemoryManager(100)
    evicted: list[str] = []
    first = manager.reserve(CacheType.QUERY, 40, on_evict=noting(evicted, "first"))
    manager.reserve(CacheType.HNSW, 40, on_evict=noting(evicted, "second"))
    assert first is not None
    first.touch()
    held(manager, CacheType.METADATA, 50)
    assert evicted == ["second"]
    assert manager.snapshot().evictions == {(CacheType.HNSW, EvictionReason.MEMORY_LIMIT): 1}


def test_a_pinned_charge_stays_until_it_is_unpinned() -> None:
    manager = CacheMemoryManager(100)
    evicted: list[int] = []
    charge = manager.reserve(CacheType.HNSW, 80, on_evict=noting(evicted, 1))
    assert charge is not None
    assert charge.pin()
    assert manager.reserve(CacheType.QUERY, 30) is None
    assert evicted == []
    charge.unpin()
    assert manager.reserve(CacheType.QUERY, 30) is not None
    assert evicted == [1]
    assert not charge.pin()
    assert not charge.grow(1)


def test_what_can_never_fit_evicts_nothing() -> None:
    manager = CacheMemoryManager(100)
    evicted: list[int] = []
    manager.reserve(CacheType.HNSW, 80, on_evict=noting(evicted, 1))
    assert manager.reserve(CacheType.QUERY, 101) is None
    assert evicted == []
    with pytest.raises(
        CacheMemoryLimitExceeded, match=r"a batch needs 101 bytes .* limit for all caches is 100"
    ):
        manager.require_possible("a batch", 101)


def test_a_charge_that_grows_does_not_evict_itself() -> None:
    manager = CacheMemoryManager(100)
    charge = manager.reserve(CacheType.QUERY, 60, on_evict=lambda: pytest.fail("evicted itself"))
    assert charge is not None
    assert not charge.grow(41)
    assert charge.grow(40)
    charge.shrink(70)
    assert manager.snapshot().used == 30


def test_an_absorbed_charge_keeps_the_ledger_as_it_is() -> None:
    manager = CacheMemoryManager(100)
    one, other = held(manager, CacheType.METADATA, 10), held(manager, CacheType.METADATA, 20)
    one.absorb(other)
    other.release()
    assert manager.snapshot().used == 30
    one.release()
    assert manager.snapshot().used == 0


def test_a_cache_counts_the_evictions_it_decides_on() -> None:
    manager = CacheMemoryManager(100)
    manager.record_evictions(CacheType.QUERY, EvictionReason.SIZE_LIMIT, 1)
    manager.record_evictions(CacheType.QUERY, EvictionReason.SIZE_LIMIT, 2)
    assert manager.snapshot().evictions == {(CacheType.QUERY, EvictionReason.SIZE_LIMIT): 3}


def test_a_reservation_that_would_be_refused_evicts_nothing() -> None:
    manager = CacheMemoryManager(100)
    held(manager, CacheType.METADATA, 50)
    evicted: list[int] = []
    manager.reserve(CacheType.QUERY, 30, on_evict=noting(evicted, 1))
    assert manager.reserve(CacheType.HNSW, 60) is None
    assert evicted == []


def test_what_is_to_be_kept_is_passed_over() -> None:
    manager = CacheMemoryManager(100)
    evicted: list[str] = []
    manager.reserve(CacheType.HNSW, 40, on_evict=noting(evicted, "index"))
    manager.reserve(CacheType.QUERY, 40, on_evict=noting(evicted, "result"))
    assert manager.available(keep=CacheType.HNSW) == 60
    assert manager.reserve(CacheType.METADATA, 61, keep=CacheType.HNSW) is None
    assert manager.reserve(CacheType.METADATA, 60, keep=CacheType.HNSW) is not None
    assert evicted == ["result"]
    assert manager.available() == 40


def test_the_three_watermarks_are_counted_each_time_that_they_are_reached() -> None:
    manager = CacheMemoryManager(1000, warning_threshold=80)
    charge = held(manager, CacheType.METADATA, 800)
    assert not manager.attention.is_set()
    assert charge.grow(1)
    assert manager.attention.is_set()
    assert charge.grow(99)
    assert manager.snapshot().watermarks == {"warning": 1, "background": 0, "forced": 0}
    charge.shrink(400)
    assert charge.grow(401)
    assert manager.snapshot().watermarks == {"warning": 2, "background": 1, "forced": 0}
    charge.shrink(401)
    for _ in range(5):
        manager.reserve(CacheType.QUERY, 100, on_evict=lambda: 1)
    assert charge.grow(150)
    assert manager.snapshot().watermarks["forced"] == 1, "two charges were evicted for one reservation"


def test_usage_above_the_second_watermark_is_brought_down_from_it() -> None:
    manager = CacheMemoryManager(1000)
    evicted: list[int] = []
    for number in range(18):
        manager.reserve(CacheType.QUERY, 50, on_evict=noting(evicted, number))
    manager.relieve()
    assert evicted == [], "90 % is not above 90 %"
    manager.reserve(CacheType.QUERY, 50, on_evict=noting(evicted, 18))
    manager.relieve()
    assert evicted == [0, 1]
    assert manager.snapshot().used == 850


def test_freed_bytes_are_told_once_there_are_many() -> None:
    manager = CacheMemoryManager(2 * RETURN_BYTES)
    charge = held(manager, CacheType.METADATA, 2 * RETURN_BYTES)
    manager.attention.clear()
    charge.shrink(RETURN_BYTES - 1)
    assert not manager.take_freed()
    assert not manager.attention.is_set()
    charge.shrink(1)
    assert manager.attention.is_set()
    assert manager.take_freed()
    assert not manager.take_freed()


def test_usage_above_the_threshold_warns() -> None:
    manager = CacheMemoryManager(100, warning_threshold=80)
    charge = held(manager, CacheType.QUERY, 80)
    assert not manager.snapshot().over_warning_threshold
    assert charge.grow(1)
    assert manager.snapshot().over_warning_threshold


def test_sixteen_threads_never_see_a_ledger_above_the_limit() -> None:
    """Each looks at the ledger after every reservation, and says itself what it has allocated."""
    manager = CacheMemoryManager(1000)
    lock = threading.Lock()
    allocated = most = samples = 0
    failures: list[BaseException] = []

    def change(by: int) -> None:
        nonlocal allocated, most
        with lock:
            allocated += by
            most = max(most, allocated)

    def sample() -> None:
        nonlocal samples
        ledger = manager.snapshot()
        assert ledger.used <= ledger.limit
        assert ledger.used == sum(ledger.by_cache.values())
        with lock:
            samples += 1

    def fill(seed: int) -> None:
        for step in range(300):
            size = (seed * 31 + step * 17) % 200 + 1
            mine = {"size": 0}

            def evict(mine: dict[str, int] = mine) -> int:
                change(-mine["size"])
                return 1

            charge = manager.reserve(CacheType.QUERY, size, on_evict=evict)
            sample()
            if charge is not None and charge.pin():
                mine["size"] = size
                change(size)
                charge.unpin()

    def hold(seed: int) -> None:
        for step in range(300):
            size = (seed * 13 + step * 7) % 60 + 1
            charge = manager.reserve(CacheType.METADATA, size)
            sample()
            if charge is not None:
                change(size)
                if charge.grow(size):
                    sample()
                    change(size)
                    size *= 2
                change(-size)
                charge.release()

    def relieve(_: int) -> None:
        for _ in range(300):
            manager.relieve()
            sample()

    def guarded(work: Callable[[int], None], seed: int) -> None:
        try:
            work(seed)
        except BaseException as error:  # noqa: BLE001 - shown by the main thread
            failures.append(error)

    jobs = [fill, hold, fill, hold, relieve, fill, hold, fill] * 2
    threads = [threading.Thread(target=guarded, args=(job, seed)) for seed, job in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert samples >= 16 * 300
    assert 0 < most <= manager.snapshot().peak <= 1000
    assert manager.snapshot().by_cache[CacheType.METADATA] == 0


KEEP = st.none() | st.sampled_from(CacheType)
T = TypeVar("T")


class LedgerMachine(RuleBasedStateMachine):
    """The manager against a plain list of what is held, in order of use."""

    LIMIT = 100

    def __init__(self) -> None:
        super().__init__()
        self.manager = CacheMemoryManager(self.LIMIT)
        self.fixed: list[Charge] = []
        self.evictable: list[Charge] = []
        self.pinned: list[Charge] = []
        self.keep: CacheType | None = None

    def _possible(self, keep: CacheType | None) -> int:
        """What can be reserved when all that may be evicted is."""
        kept = [charge for charge in self.evictable if charge.cache is keep]
        return self.LIMIT - sum(charge.nbytes for charge in (*self.fixed, *self.pinned, *kept))

    def _keeping(self, keep: CacheType | None, call: Callable[[], T]) -> T:
        """Let the callbacks know meanwhile what must not be evicted."""
        self.keep = keep
        return call()

    def _sum(self) -> int:
        return sum(charge.nbytes for charge in (*self.fixed, *self.evictable, *self.pinned))

    @rule(cache=st.sampled_from(CacheType), nbytes=st.integers(0, 120), keep=KEEP)
    def reserve_fixed(self, cache: CacheType, nbytes: int, keep: CacheType | None) -> None:
        fits = nbytes <= self._possible(keep)
        before = list(self.evictable)
        charge = self._keeping(keep, lambda: self.manager.reserve(cache, nbytes, keep=keep))
        assert (charge is not None) == fits
        if charge is not None:
            self.fixed.append(charge)
        else:
            assert self.evictable == before, "a refused reservation evicts nothing"

    @rule(cache=st.sampled_from(CacheType), nbytes=st.integers(1, 120), keep=KEEP)
    def reserve_evictable(self, cache: CacheType, nbytes: int, keep: CacheType | None) -> None:
        box: list[Charge] = []

        def evict() -> int:
            due = next(charge for charge in self.evictable if charge.cache is not self.keep)
            assert box[0] is due, "not the least recently used"
            self.evictable.remove(due)
            return 1

        fits = nbytes <= self._possible(keep)
        charge = self._keeping(keep, lambda: self.manager.reserve(cache, nbytes, on_evict=evict, keep=keep))
        assert (charge is not None) == fits
        if charge is not None:
            box.append(charge)
            self.evictable.append(charge)

    @precondition(lambda self: self.fixed or self.pinned)
    @rule(data=st.data(), nbytes=st.integers(0, 60), keep=KEEP)
    def grow(self, data: st.DataObject, nbytes: int, keep: CacheType | None) -> None:
        charge = data.draw(st.sampled_from([*self.fixed, *self.pinned]))
        fits = nbytes <= self._possible(keep)
        assert self._keeping(keep, lambda: charge.grow(nbytes, keep=keep)) == fits

    @precondition(lambda self: self.fixed or self.pinned)
    @rule(data=st.data())
    def shrink(self, data: st.DataObject) -> None:
        charge = data.draw(st.sampled_from([*self.fixed, *self.pinned]))
        charge.shrink(data.draw(st.integers(0, charge.nbytes)))

    @rule(keep=KEEP)
    def relieve(self, keep: CacheType | None) -> None:
        above = self._sum() > 90
        self._keeping(keep, lambda: self.manager.relieve(keep=keep))
        left = sum(charge.nbytes for charge in self.evictable if charge.cache is not keep)
        assert not above or self._sum() <= 85 or left == 0

    @precondition(lambda self: self.evictable)
    @rule(data=st.data())
    def touch(self, data: st.DataObject) -> None:
        charge = data.draw(st.sampled_from(self.evictable))
        charge.touch()
        self.evictable.remove(charge)
        self.evictable.append(charge)

    @precondition(lambda self: self.evictable)
    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        charge = data.draw(st.sampled_from(self.evictable))
        assert charge.pin()
        self.evictable.remove(charge)
        self.pinned.append(charge)

    @precondition(lambda self: self.pinned)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        charge = data.draw(st.sampled_from(self.pinned))
        charge.unpin()
        self.pinned.remove(charge)
        self.evictable.append(charge)

    @precondition(lambda self: self.fixed or self.evictable or self.pinned)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        charge = data.draw(st.sampled_from([*self.fixed, *self.evictable, *self.pinned]))
        charge.release()
        for charges in (self.fixed, self.evictable, self.pinned):
            if charge in charges:
                charges.remove(charge)

    @invariant()
    def the_ledger_is_what_is_held(self) -> None:
        snapshot = self.manager.snapshot()
        assert snapshot.used == self._sum() == sum(snapshot.by_cache.values())
        assert snapshot.used <= snapshot.peak <= self.LIMIT


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
