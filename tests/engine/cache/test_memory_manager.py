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
    SERVING_SECONDS,
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


def test_what_serves_is_passed_over_where_it_is_to_be_kept() -> None:
    now = 0.0
    manager = CacheMemoryManager(100, clock=lambda: now)
    evicted: list[str] = []
    index = manager.reserve(CacheType.HNSW, 40, on_evict=noting(evicted, "index"))
    manager.reserve(CacheType.QUERY, 40, on_evict=noting(evicted, "result"))
    assert manager.available(keep=CacheType.HNSW) == 60
    assert manager.reserve(CacheType.METADATA, 61, keep=CacheType.HNSW) is None
    build = manager.reserve(CacheType.METADATA, 60, keep=CacheType.HNSW)
    assert build is not None
    assert evicted == ["result"]
    assert manager.available() == 40
    assert index is not None
    now = SERVING_SECONDS - 1
    index.touch()
    now = 2 * SERVING_SECONDS - 2
    assert not build.grow(1, keep=CacheType.HNSW)
    now = 2 * SERVING_SECONDS - 1
    assert build.grow(1, keep=CacheType.HNSW)
    assert evicted == ["result", "index"]


def test_a_lower_limit_evicts_at_once_and_what_cannot_go_is_charged_until_it_is_freed() -> None:
    manager = CacheMemoryManager(100)
    evicted: list[str] = []
    fixed = held(manager, CacheType.METADATA, 50)
    manager.reserve(CacheType.QUERY, 20, on_evict=noting(evicted, "old"))
    manager.reserve(CacheType.HNSW, 20, on_evict=noting(evicted, "new"))
    manager.attention.clear()
    manager.set_limit(75, warning_threshold=70)
    assert evicted == ["old"]
    assert manager.attention.is_set(), "the keeper may have something to warn of"
    snapshot = manager.snapshot()
    assert (snapshot.limit, snapshot.used, snapshot.peak) == (75, 70, 70)
    assert snapshot.over_warning_threshold
    manager.set_limit(40)
    assert evicted == ["old", "new"]
    assert (manager.snapshot().used, manager.available()) == (50, -10)
    assert manager.reserve(CacheType.QUERY, 1) is None
    assert not fixed.grow(1)
    assert manager.reserve(CacheType.METADATA, 0) is not None, "what holds nothing yet always fits"
    fixed.shrink(20)
    assert manager.reserve(CacheType.QUERY, 10) is not None
    manager.set_limit(1000)
    assert manager.reserve(CacheType.QUERY, 960) is not None
    with pytest.raises(CacheMemoryLimitExceeded, match=r"limit for all caches is 1000"):
        manager.require_possible("a batch", 1001)


def test_what_was_claimed_is_freed_by_who_claimed_it() -> None:
    manager = CacheMemoryManager(100)
    charge = manager.reserve(CacheType.HNSW, 80, on_evict=lambda: pytest.fail("evicted what was claimed"))
    assert charge is not None
    assert charge.pin()
    assert not charge.claim()
    charge.unpin()
    assert charge.claim()
    assert not charge.claim()
    assert not charge.pin()
    assert manager.reserve(CacheType.QUERY, 30) is None, "its bytes are charged until they are freed"
    charge.release()
    assert manager.reserve(CacheType.QUERY, 100) is not None


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
    manager = CacheMemoryManager(1000, clock=lambda: 0.0)
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
        cache = (CacheType.QUERY, CacheType.HNSW)[seed % 2]
        for step in range(300):
            size = (seed * 31 + step * 17) % 200 + 1
            mine = {"size": 0}

            def evict(mine: dict[str, int] = mine) -> int:
                change(-mine["size"])
                return 1

            charge = manager.reserve(cache, size, on_evict=evict, keep=(None, CacheType.HNSW)[step % 2])
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

    def __init__(self) -> None:
        super().__init__()
        self.limit = self.most = 100
        self.now = 0.0
        self.manager = CacheMemoryManager(self.limit, clock=lambda: self.now)
        self.used_at: dict[Charge, float] = {}
        self.fixed: list[Charge] = []
        self.evictable: list[Charge] = []
        self.pinned: list[Charge] = []
        self.claimed: list[Charge] = []
        self.keep: CacheType | None = None

    def _possible(self, keep: CacheType | None) -> int:
        """What can be reserved when all that may be evicted is."""
        kept = [charge for charge in self.evictable if self._is_kept(charge, keep)]
        return self.limit - sum(charge.nbytes for charge in (*self.fixed, *self.pinned, *self.claimed, *kept))

    def _is_kept(self, charge: Charge, keep: CacheType | None) -> bool:
        return charge.cache is keep and self.now - self.used_at[charge] < SERVING_SECONDS

    def _use(self, charge: Charge) -> None:
        """It is evictable from now on, and the last to go."""
        if charge in self.evictable:
            self.evictable.remove(charge)
        self.evictable.append(charge)
        self.used_at[charge] = self.now

    def _keeping(self, keep: CacheType | None, call: Callable[[], T]) -> T:
        """Let the callbacks know meanwhile what must not be evicted."""
        self.keep = keep
        return call()

    def _sum(self) -> int:
        held = (*self.fixed, *self.evictable, *self.pinned, *self.claimed)
        return sum(charge.nbytes for charge in held)

    @rule(cache=st.sampled_from(CacheType), nbytes=st.integers(0, 120), keep=KEEP)
    def reserve_fixed(self, cache: CacheType, nbytes: int, keep: CacheType | None) -> None:
        fits = nbytes <= max(0, self._possible(keep))
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
            due = next(charge for charge in self.evictable if not self._is_kept(charge, self.keep))
            assert box[0] is due, "not the least recently used"
            self.evictable.remove(due)
            return 1

        fits = nbytes <= self._possible(keep)
        charge = self._keeping(keep, lambda: self.manager.reserve(cache, nbytes, on_evict=evict, keep=keep))
        assert (charge is not None) == fits
        if charge is not None:
            box.append(charge)
            self._use(charge)

    @precondition(lambda self: self.fixed or self.pinned)
    @rule(data=st.data(), nbytes=st.integers(0, 60), keep=KEEP)
    def grow(self, data: st.DataObject, nbytes: int, keep: CacheType | None) -> None:
        charge = data.draw(st.sampled_from([*self.fixed, *self.pinned]))
        fits = nbytes <= max(0, self._possible(keep))
        assert self._keeping(keep, lambda: charge.grow(nbytes, keep=keep)) == fits

    @precondition(lambda self: self.fixed or self.pinned)
    @rule(data=st.data())
    def shrink(self, data: st.DataObject) -> None:
        charge = data.draw(st.sampled_from([*self.fixed, *self.pinned]))
        charge.shrink(data.draw(st.integers(0, charge.nbytes)))

    @rule(keep=KEEP)
    def relieve(self, keep: CacheType | None) -> None:
        above = self._sum() > 90 * self.limit // 100
        self._keeping(keep, lambda: self.manager.relieve(keep=keep))
        left = sum(charge.nbytes for charge in self.evictable if not self._is_kept(charge, keep))
        assert not above or self._sum() <= 85 * self.limit // 100 or left == 0

    @rule(seconds=st.sampled_from([1.0, SERVING_SECONDS / 2, SERVING_SECONDS]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(limit=st.integers(1, 200))
    def set_limit(self, limit: int) -> None:
        self.limit = limit
        self._keeping(None, lambda: self.manager.set_limit(limit))
        assert self._sum() <= limit or not any(charge.nbytes for charge in self.evictable)
        assert self.manager.snapshot().peak == self._sum()
        self.most = max(limit, self._sum())

    @precondition(lambda self: self.evictable)
    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        charge = data.draw(st.sampled_from(self.evictable))
        assert charge.claim()
        self.evictable.remove(charge)
        self.claimed.append(charge)

    @precondition(lambda self: self.evictable)
    @rule(data=st.data())
    def touch(self, data: st.DataObject) -> None:
        charge = data.draw(st.sampled_from(self.evictable))
        charge.touch()
        self._use(charge)

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
        self._use(charge)

    @precondition(lambda self: self.fixed or self.evictable or self.pinned or self.claimed)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        charge = data.draw(st.sampled_from([*self.fixed, *self.evictable, *self.pinned, *self.claimed]))
        charge.release()
        for charges in (self.fixed, self.evictable, self.pinned, self.claimed):
            if charge in charges:
                charges.remove(charge)

    @invariant()
    def the_ledger_is_what_is_held(self) -> None:
        snapshot = self.manager.snapshot()
        assert snapshot.used == self._sum() == sum(snapshot.by_cache.values())
        assert snapshot.limit == self.limit
        assert snapshot.used <= snapshot.peak
        assert snapshot.used <= self.most, "it grew above the limit"
        self.most = max(self.limit, snapshot.used)


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
