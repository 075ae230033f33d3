"""The ledger between tenants: nobody loses anything to somebody who holds more, and no quota is exceeded."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vectorizer_engine.cache.memory_manager import (
    AccountSnapshot,
    CacheMemoryManager,
    CacheType,
    Charge,
    MemoryAccount,
)
from vectorizer_engine.errors import CacheMemoryLimitExceeded
from vectorizer_engine.tenants import NO_TENANT


class Evicted(list[str]):
    """Reserves what may be evicted, and notes whose it was when it is."""

    def reserve(self, account: MemoryAccount, nbytes: int, times: int = 1) -> list[Charge | None]:
        def evict() -> int:
            self.append(account.tenant)
            return 1

        return [account.reserve(CacheType.QUERY, nbytes, on_evict=evict) for _ in range(times)]


def two_tenants(limit: int, **quotas: int) -> tuple[CacheMemoryManager, MemoryAccount, MemoryAccount]:
    manager = CacheMemoryManager(limit, quotas={"quiet": None, "noisy": None, **quotas})
    return manager, manager.account("quiet"), manager.account("noisy")


def test_a_noisy_tenant_evicts_its_own_and_a_quiet_one_keeps_what_it_has() -> None:
    manager, quiet, noisy = two_tenants(100)
    evicted = Evicted()
    evicted.reserve(quiet, 10, times=3)
    assert None not in evicted.reserve(noisy, 10, times=50)
    assert set(evicted) == {"noisy"}
    assert manager.snapshot().tenants["quiet"].used == 30


def test_a_tenant_that_comes_later_gets_its_half_from_the_one_that_has_everything() -> None:
    manager, late, first = two_tenants(100)
    evicted = Evicted()
    evicted.reserve(first, 10, times=10)
    assert None not in evicted.reserve(late, 10, times=20)
    tenants = manager.snapshot().tenants
    assert (tenants[first.tenant].used, tenants[late.tenant].used) == (50, 50)
    assert evicted.count(first.tenant) == 5


def test_what_cannot_be_had_from_those_who_hold_more_is_refused_and_nothing_is_evicted() -> None:
    manager, quiet, noisy = two_tenants(100)
    evicted = Evicted()
    evicted.reserve(quiet, 10, times=4)
    held = noisy.reserve(CacheType.HNSW, 60)
    assert held is not None
    assert noisy.reserve(CacheType.HNSW, 10) is None
    assert noisy.available() == 0
    assert evicted == []
    assert manager.snapshot().refusals == 1


def test_what_is_vital_is_refused_for_the_limit_only() -> None:
    _, quiet, noisy = two_tenants(100, noisy=60)
    evicted = Evicted()
    evicted.reserve(quiet, 10, times=4)
    held = noisy.reserve(CacheType.HNSW, 60)
    vital = noisy.reserve(CacheType.METADATA, 40, vital=True)
    assert held is not None and vital is not None
    assert evicted == ["quiet"] * 4
    assert noisy.reserve(CacheType.METADATA, 1, vital=True) is None


def test_a_tenant_at_its_quota_evicts_its_own_although_there_is_memory_left() -> None:
    manager, quiet, noisy = two_tenants(1000, noisy=30)
    evicted = Evicted()
    evicted.reserve(quiet, 10, times=40)
    assert None not in evicted.reserve(noisy, 10, times=10)
    assert noisy.reserve(CacheType.HNSW, 31) is None
    assert evicted == ["noisy"] * 7
    assert manager.snapshot().tenants["noisy"] == AccountSnapshot(
        30, 30, {CacheType.QUERY: 30, CacheType.HNSW: 0, CacheType.METADATA: 0}
    )
    assert (noisy.limit, noisy.available()) == (30, 30)


def test_a_quota_takes_what_is_missing_of_the_limit_from_others_too() -> None:
    _, quiet, noisy = two_tenants(100, noisy=50)
    evicted = Evicted()
    evicted.reserve(noisy, 10, times=2)
    evicted.reserve(quiet, 10, times=8)
    assert noisy.reserve(CacheType.HNSW, 40) is not None
    assert sorted(evicted) == ["noisy", "quiet", "quiet", "quiet"]


def test_what_exceeds_a_quota_for_good_is_an_error_that_names_the_quota() -> None:
    _, _, noisy = two_tenants(100, noisy=50)
    noisy.require_possible("a batch", 50)
    with pytest.raises(
        CacheMemoryLimitExceeded, match=r"limit for this tenant is 50 bytes.*memory_quota_bytes"
    ):
        noisy.require_possible("a batch", 51)


def test_what_belongs_to_a_tenant_that_is_not_named_is_charged_to_none() -> None:
    manager = CacheMemoryManager(100, quotas={"a": None})
    assert manager.account("b") is manager.account(NO_TENANT) is manager
    assert manager.snapshot().tenants.keys() == {NO_TENANT, "a"}


def test_in_advance_of_need_the_one_that_holds_most_gives() -> None:
    manager, quiet, noisy = two_tenants(100)
    evicted = Evicted()
    evicted.reserve(quiet, 10, times=3)
    evicted.reserve(noisy, 10, times=7)
    manager.relieve()
    assert evicted == ["noisy", "noisy"]


QUOTAS = {"a": None, "b": None, "c": 40}
LIMIT = 100


class TenantsMachine(RuleBasedStateMachine):
    """Random reservations of three tenants. Each eviction is held against the rule when it happens."""

    def __init__(self) -> None:
        super().__init__()
        self.manager = CacheMemoryManager(LIMIT, quotas=QUOTAS)
        self.charges: dict[Charge, str] = {}
        self.vital = dict.fromkeys(QUOTAS, 0)
        self.asking: tuple[str, int, bool] | None = None

    def _held(self, tenant: str) -> int:
        return sum(charge.nbytes for charge, owner in self.charges.items() if owner == tenant)

    @rule(tenant=st.sampled_from(sorted(QUOTAS)), nbytes=st.integers(1, 50), evictable=st.booleans())
    def reserve(self, tenant: str, nbytes: int, evictable: bool) -> None:
        self._reserve(tenant, nbytes, evictable, vital=False)

    @rule(tenant=st.sampled_from(sorted(QUOTAS)), nbytes=st.integers(1, 20))
    def reserve_vital(self, tenant: str, nbytes: int) -> None:
        free = LIMIT - sum(
            charge.nbytes for charge in self.charges if charge not in charge._account._evictable
        )
        charge = self._reserve(tenant, nbytes, evictable=False, vital=True)
        assert (charge is not None) == (nbytes <= free)
        self.vital[tenant] += nbytes if charge else 0

    def _reserve(self, tenant: str, nbytes: int, evictable: bool, *, vital: bool) -> Charge | None:
        account = self.manager.account(tenant)
        possible = account.available()
        before = set(self.charges)
        box: list[Charge] = []

        def evict() -> int:
            assert self.asking is not None
            asker, wanted, is_vital = self.asking
            assert is_vital or asker == tenant or self._held(tenant) > self._held(asker) + wanted
            del self.charges[box[0]]
            return 1

        self.asking = tenant, nbytes, vital
        charge = account.reserve(CacheType.QUERY, nbytes, on_evict=evict if evictable else None, vital=vital)
        self.asking = None
        if charge is not None:
            box.append(charge)
            self.charges[charge] = tenant
            assert vital or nbytes <= possible, "more was given than there was said to be"
        else:
            assert set(self.charges) == before, "a refused reservation evicts nothing"
        return charge

    @precondition(lambda self: self.charges)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        charge = data.draw(st.sampled_from(list(self.charges)))
        charge.release()
        del self.charges[charge]

    @invariant()
    def the_ledger_is_what_is_held_by_each(self) -> None:
        snapshot = self.manager.snapshot()
        assert snapshot.used == sum(tenant.used for tenant in snapshot.tenants.values()) <= LIMIT
        for name, tenant in snapshot.tenants.items():
            assert tenant.used == sum(tenant.by_cache.values()) == self._held(name)
            assert tenant.quota is None or tenant.used <= tenant.quota + self.vital[name]


TestTenantsMachine = TenantsMachine.TestCase
TestTenantsMachine.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
