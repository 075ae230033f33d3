"""The ledger: never above the limit, equal to what is held, and evicting what was used longest ago."""

from __future__ import annotations

import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vectorizer_engine.cache.memory_manager import CacheMemoryManager, CacheType, Charge, EvictionReason
from vectorizer_engine.errors import CacheMemoryLimitExceeded


def held(manager: CacheMemoryManager, cache: CacheType, nbytes: int) -> Charge:
    charge = manager.reserve(cache, nbytes)
    assert charge is not None
    return charge


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
    first = manager.reserve(CacheType.QUERY, 40, on_evict=lambda: evicted.append("first"))
    manager.reserve(CacheType.HNSW, 40, on_evict=lambda: evicted.append("second"))
    assert first is not None
    first.touch()
    held(manager, CacheType.METADATA, 50)
    assert evicted == ["second"]
    assert manager.snapshot().evictions == {(CacheType.HNSW, EvictionReason.MEMORY_LIMIT): 1}


def test_a_pinned_charge_stays_until_it_is_unpinned() -> None:
    manager = CacheMemoryManager(100)
    evicted: list[int] = []
    charge = manager.reserve(CacheType.HNSW, 80, on_evict=lambda: evicted.append(1))
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
    manager.reserve(CacheType.HNSW, 80, on_evict=lambda: evicted.append(1))
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
    held(manager, CacheType.QUERY, 10).release(EvictionReason.TTL)
    manager.record_eviction(CacheType.QUERY, EvictionReason.SIZE_LIMIT)
    assert manager.snapshot().evictions == {
        (CacheType.QUERY, EvictionReason.TTL): 1,
        (CacheType.QUERY, EvictionReason.SIZE_LIMIT): 1,
    }


def test_usage_above_the_threshold_warns() -> None:
    manager = CacheMemoryManager(100, warning_threshold=80)
    charge = held(manager, CacheType.QUERY, 80)
    assert not manager.snapshot().over_warning_threshold
    assert charge.grow(1)
    assert manager.snapshot().over_warning_threshold


def test_sixteen_threads_never_hold_more_than_the_limit() -> None:
    manager = CacheMemoryManager(1000)
    lock = threading.Lock()
    allocated = 0
    most = 0
    failures: list[BaseException] = []

    def change(by: int) -> None:
        nonlocal allocated, most
        with lock:
            allocated += by
            most = max(most, allocated)

    def work(seed: int) -> None:
        try:
            for step in range(300):
                size = (seed * 31 + step * 17) % 200 + 1
                mine = {"size": 0}
                charge = manager.reserve(
                    CacheType.QUERY, size, on_evict=lambda mine=mine: change(-mine["size"])
                )
                if charge is not None and charge.pin():
                    mine["size"] = size
                    change(size)
                    charge.unpin()
        except BaseException as error:  # noqa: BLE001 - shown by the main thread
            failures.append(error)

    def pinned_work(seed: int) -> None:
        for step in range(300):
            size = (seed * 13 + step * 7) % 60 + 1
            charge = manager.reserve(CacheType.METADATA, size)
            if charge is not None:
                change(size)
                change(-size)
                charge.release()

    threads = [threading.Thread(target=work if n % 2 else pinned_work, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert 0 < most <= manager.snapshot().peak <= 1000
    assert manager.snapshot().by_cache[CacheType.METADATA] == 0


class LedgerMachine(RuleBasedStateMachine):
    """The manager against a plain list of what is held, in order of use."""

    LIMIT = 100

    def __init__(self) -> None:
        super().__init__()
        self.manager = CacheMemoryManager(self.LIMIT)
        self.fixed: list[Charge] = []
        self.evictable: list[Charge] = []
        self.pinned: list[Charge] = []

    def _sum(self) -> int:
        return sum(charge.nbytes for charge in (*self.fixed, *self.evictable, *self.pinned))

    @rule(cache=st.sampled_from(CacheType), nbytes=st.integers(0, 120))
    def reserve_fixed(self, cache: CacheType, nbytes: int) -> None:
        fits = nbytes <= self.LIMIT - sum(charge.nbytes for charge in (*self.fixed, *self.pinned))
        charge = self.manager.reserve(cache, nbytes)
        assert (charge is not None) == fits
        if charge is not None:
            self.fixed.append(charge)

    @rule(cache=st.sampled_from(CacheType), nbytes=st.integers(1, 120))
    def reserve_evictable(self, cache: CacheType, nbytes: int) -> None:
        box: list[Charge] = []

        def evict() -> None:
            assert box[0] is self.evictable.pop(0), "not the least recently used"

        charge = self.manager.reserve(cache, nbytes, on_evict=evict)
        if charge is not None:
            box.append(charge)
            self.evictable.append(charge)

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
