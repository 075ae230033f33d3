"""What a member asks of the store: a put for each group of writes, a look where a read needs one, and else nothing."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.engine.collection.model import MiB, params
from tests.kube.eventually import eventually
from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.config import ObjectStoreConfig
from vectorizer_engine.distributed import held_shards
from vectorizer_engine.distributed.held_shards import HeldShards
from vectorizer_engine.distributed.spread import SpreadCollection
from vectorizer_engine.distributed.store import DistributedStore
from vectorizer_engine.distributed.topology import Member, Topology

SHARDS = 3


class Counted:
    """A member that is alone. Its calls to the store are counted by kind, and the groups of writes."""

    def __init__(self, folder: Path) -> None:
        self.calls: Counter[str] = Counter()
        self.groups = 0
        self._lock = threading.Lock()
        self.store = DistributedStore.open(
            folder / "volume",
            name="pod-0",
            key="key",
            readers=2,
            memory=CacheMemoryManager(64 * MiB),
            object_store=ObjectStoreConfig(url=f"file://{folder}/objects"),
            observe_append=self._appended,
            observe_store=self._called,
        )
        self.store.topology.adopt(Topology(1, (Member("pod-0", "127.0.0.1:1"),)))
        self.collection: SpreadCollection = self.store.create_collection("c", params(), shards=SHARDS)
        eventually(lambda: not self.store.waiting)
        self.settle()

    def settle(self) -> None:
        """Count from here on."""
        self.calls.clear()
        self.groups = 0

    def _appended(self, writes: int, seconds: float) -> None:
        with self._lock:
            self.groups += 1

    def _called(self, call: str, sent: int, received: int) -> None:
        with self._lock:
            self.calls[call] += 1


@pytest.fixture
def member(tmp_path: Path) -> Iterator[Counted]:
    member = Counted(tmp_path)
    yield member
    member.store.close()


def upsert(member: Counted, first: int) -> None:
    vectors = np.full((16, 4), first, np.float32)
    member.collection.upsert(range(first, first + 16), vectors, [None] * 16)


def test_a_group_of_writes_costs_a_put_and_nothing_else(member: Counted) -> None:
    with ThreadPoolExecutor(8) as writers:
        for written in [writers.submit(upsert, member, 16 * each) for each in range(40)]:
            written.result()
    assert 0 < member.groups <= 40 * SHARDS
    assert member.calls == {"create": member.groups}


def test_reads_soon_after_writes_ask_nothing(member: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vectorizer_engine.distributed.held_shard.LEASE_SECONDS", 1000.0)
    upsert(member, 0)
    member.settle()
    for _ in range(20):
        assert member.collection.count() == 16
        member.collection.search(np.ones((1, 4), np.float32), limit=3)
    assert not member.calls


def test_nothing_is_asked_while_idle(member: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = threading.Semaphore(0)
    look = HeldShards._leave_what_was_taken

    def seen(held: HeldShards) -> None:
        look(held)
        looks.release()

    monkeypatch.setattr(HeldShards, "_leave_what_was_taken", seen)
    monkeypatch.setattr(held_shards, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(held_shards, "LOOK_SECONDS", 0.02)
    upsert(member, 0)
    member.settle()
    for _ in range(20):
        assert looks.acquire(timeout=20)
    assert not member.calls
