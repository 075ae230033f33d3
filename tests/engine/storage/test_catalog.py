"""The catalog: every pod sees the same changes in the same order, and one name is one collection."""

from __future__ import annotations

import contextlib
import secrets
import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.engine.s3 import S3Server
from tests.engine.stores import Fault, FaultyStore, MemoryStore
from vectorizer_engine.errors import CollectionExists, StoreCorrupt
from vectorizer_engine.storage.catalog import Catalog, Entries
from vectorizer_engine.storage.object_store import ObjectStore


def create(catalog: Catalog, path: str) -> str:
    def check(entries: Entries) -> None:
        if path in alive(entries):
            raise CollectionExists(path)

    token = secrets.token_hex(8)
    catalog.create(token, path, b"{}", check=check)
    return token


def alive(entries: Entries) -> set[str]:
    return {entry.path for entry in entries.values() if not entry.deleted}


def test_what_one_pod_creates_and_deletes_another_sees() -> None:
    store = MemoryStore()
    one, other = Catalog(store), Catalog(store)
    token = create(one, "a")
    create(one, "b")
    assert alive(other.entries) == set()
    assert alive(other.refresh()) == {"a", "b"}
    assert other.delete(token) is True
    assert one.delete(token) is False
    assert one.entries[token].deleted
    one.forget(token)
    other.forget(token)
    assert token not in other.refresh()
    assert other.delete(token) is False
    assert alive(Catalog(store).entries) == {"b"}


def test_a_name_is_created_once_however_many_try(s3: S3Server) -> None:
    stores: list[ObjectStore] = [s3.store("catalog-race") for _ in range(6)]
    made: list[str] = []
    refused: list[str] = []
    start = threading.Barrier(6)

    def work(store: ObjectStore) -> None:
        catalog = Catalog(store)
        start.wait()
        for number in range(5):
            try:
                create(catalog, f"c{number}")
                made.append(f"c{number}")
            except CollectionExists:
                refused.append(f"c{number}")

    threads = [threading.Thread(target=work, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [f"c{number}" for number in range(5)]
    assert len(refused) == 25
    assert alive(Catalog(stores[0]).entries) == set(made)


def test_opening_reads_few_of_many_changes() -> None:
    memory = MemoryStore()
    catalog = Catalog(memory)
    for number in range(150):
        create(catalog, f"c{number}")
    store = FaultyStore(memory)
    assert alive(Catalog(store).entries) == {f"c{number}" for number in range(150)}
    assert len(store.calls) <= 64 + 2


def test_a_lost_answer_makes_no_second_collection() -> None:
    store = FaultyStore(MemoryStore())
    catalog = Catalog(store)
    store.faults.extend([Fault.NONE, Fault.LOST_ANSWER])
    create(catalog, "a")
    store.faults.extend([Fault.NONE, Fault.CONFLICT])
    create(catalog, "b")
    assert [entry.path for entry in Catalog(store.store).entries.values()] == ["a", "b"]


@pytest.mark.parametrize("position", [0, 7, 12, -1])
def test_a_damaged_change_is_refused_by_name(position: int) -> None:
    store = MemoryStore()
    create(Catalog(store), "a")
    ((name, data),) = store.objects.items()
    damaged = bytearray(data)
    damaged[position] ^= 1
    store.objects[name] = bytes(damaged)
    with pytest.raises(StoreCorrupt, match=name):
        Catalog(store)


def test_a_missing_change_is_refused_by_name() -> None:
    store = MemoryStore()
    catalog = Catalog(store)
    for path in "abc":
        create(catalog, path)
    name = sorted(store.objects)[1]
    del store.objects[name]
    with pytest.raises(StoreCorrupt, match=f"{name} is missing"):
        Catalog(store)


FAULTS = st.lists(st.sampled_from(Fault), max_size=4)


class CatalogMachine(RuleBasedStateMachine):
    """Three pods on a store that fails, each of which may lag behind the others."""

    @initialize()
    def start(self) -> None:
        self.memory = MemoryStore()
        self.stores = [FaultyStore(self.memory) for _ in range(3)]
        self.catalogs = [Catalog(store, patience=0.0) for store in self.stores]
        self.made: dict[str, str] = {}
        self.deleted: set[str] = set()

    @rule(pod=st.integers(0, 2), path=st.sampled_from("abc"), faults=FAULTS)
    def create(self, pod: int, path: str, faults: list[Fault]) -> None:
        self.stores[pod].faults.extend(faults)
        with contextlib.suppress(OSError, CollectionExists):
            self.made[create(self.catalogs[pod], path)] = path
        self.stores[pod].faults.clear()

    @rule(pod=st.integers(0, 2), data=st.data(), faults=FAULTS)
    def delete(self, pod: int, data: st.DataObject, faults: list[Fault]) -> None:
        if not self.made:
            return
        token = data.draw(st.sampled_from(list(self.made)))  # in the order made: the names are random
        self.stores[pod].faults.extend(faults)
        try:
            self.catalogs[pod].delete(token)
            self.deleted.add(token)
        except OSError:
            self.made.pop(token)  # perhaps
        self.stores[pod].faults.clear()

    @rule(pod=st.integers(0, 2))
    def deliver(self, pod: int) -> None:
        self.stores[pod].deliver()

    @rule(pod=st.integers(0, 2))
    def restart(self, pod: int) -> None:
        self.catalogs[pod] = Catalog(self.stores[pod], patience=0.0)

    @invariant()
    def all_see_the_same(self) -> None:
        seen = [dict(catalog.refresh()) for catalog in self.catalogs]
        assert seen[0] == seen[1] == seen[2] == dict(Catalog(self.memory).entries)
        paths = [entry.path for entry in seen[0].values() if not entry.deleted]
        assert len(paths) == len(set(paths))
        for token, path in self.made.items():
            assert seen[0][token].path == path
            assert seen[0][token].deleted == (token in self.deleted)


TestCatalogMachine = CatalogMachine.TestCase
TestCatalogMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
