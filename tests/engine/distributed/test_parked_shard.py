"""A shard that is closed and opened again under the same claim, against a dictionary and against the log's objects."""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.engine.collection.model import RESTLESS, MiB, assert_same, everything, params, vectors_of
from tests.engine.collection.test_collection import settled
from tests.engine.collection.test_shared_store import SharedCollectionMachine, fill, ids
from tests.kube.eventually import eventually
from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.compaction import Compaction
from vectorizer_engine.collection.data_folder import Description
from vectorizer_engine.collection.environment import ShardEnvironment
from vectorizer_engine.collection.maintenance import Maintenance
from vectorizer_engine.collection.shared_collections import create_in_catalog, open_shared
from vectorizer_engine.collection.types import CollectionParams
from vectorizer_engine.config import ObjectStoreConfig
from vectorizer_engine.distributed import claimed_shard, held_shard
from vectorizer_engine.distributed.held_shard import HeldShard, NotHeld, ShardId
from vectorizer_engine.distributed.parked_collection import ParkedCollection
from vectorizer_engine.distributed.volume import Volume
from vectorizer_engine.errors import Fenced, StorageFailure, StoreCorrupt
from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.object_frame import Kind
from vectorizer_engine.storage.object_log import ObjectLog


class Member:
    """A process with a volume in *folder*, that has the one shard of the only collection in *objects*."""

    def __init__(self, folder: Path, objects: Path, *, files: Files | None = None) -> None:
        self.files = files or Files()
        self.memory = CacheMemoryManager(16 * MiB)
        self.maintenance = Maintenance()
        for each in (folder / "collections", folder / "scratch"):
            self.files.make_folder(each)
        shared = open_shared(folder, ObjectStoreConfig(url=f"file://{objects}"), self.files)
        assert shared is not None
        self.shared = shared
        self.root = folder / "collections"
        self.volume = Volume(
            self.root,
            shared,
            ShardEnvironment(
                self.memory.account(""), self.maintenance, self.files, folder / "scratch", RESTLESS, shared
            ),
            memory=self.memory,
            results={},
            most_bytes=None,
            is_used=lambda shard: True,
            givers=lambda: iter(()),
            observe=lambda shard, number, size: None,
            index_kept=lambda shard: None,
        )
        self._held: HeldShard | None = None

    def create_collection(self, name: str, params: CollectionParams) -> None:
        create_in_catalog(self.shared, Description(name, params), secrets.token_hex(8))

    @property
    def held(self) -> HeldShard:
        if self._held is None:
            [token] = self.shared.catalog.entries
            self._held = self.volume.open(ShardId(token, 0), None)
        return self._held

    @property
    def collection(self) -> Collection:
        with self.held.used(deadline=time.monotonic() + 20) as collection:
            return collection

    @property
    def folder(self) -> Path:
        [folder] = self.root.glob("*/shard-0")
        return folder

    def park(self) -> bool:
        """As `Room` does it."""
        parked = self.held.park(within=20)
        if parked:
            self.volume.copies.remove(next(iter(self.root.glob("*/shard-0")), self.root / "none"))
        return parked

    def close(self) -> None:
        if self._held is not None:
            self._held.close()
        self.maintenance.close()
        self.volume.close()


@pytest.fixture(autouse=True, scope="module")
def always_asked() -> Iterator[None]:
    """Nobody relies on what was so a moment ago: the next owner does not wait here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claimed_shard, "LEASE_SECONDS", 0.0)
        yield


@pytest.fixture
def member(tmp_path: Path) -> Iterator[Member]:
    member = Member(tmp_path / "a", tmp_path / "objects")
    member.create_collection("c", params())
    yield member
    member.close()


def frames(objects: Path, *kinds: Kind) -> list[str]:
    """The frames of these kinds, or all, that the log has or had."""
    files = sorted(objects.glob("collections/*/shard-0/log/*"))
    return [file.name for file in files if not kinds or file.read_bytes()[8] in kinds]


def test_a_hundred_times_parked_and_opened_it_has_one_claim_and_holds_nothing_while_parked(
    member: Member, tmp_path: Path
) -> None:
    fill(member.collection, 0, 60)
    before = everything(member.collection)
    claims = frames(tmp_path / "objects", Kind.CLAIM)
    for _ in range(100):
        assert member.park()
        eventually(lambda: member.memory.snapshot().used == 0)
        assert member.held.is_parked
        eventually(lambda: not any(each.is_file() for each in member.root.rglob("*")))
        assert_same(everything(member.collection), before)
    assert frames(tmp_path / "objects", Kind.CLAIM) == claims
    assert member.volume.opened_again == 100


def test_nothing_of_a_parked_shard_is_mapped_any_more(member: Member) -> None:
    fill(member.collection, 0, 60)
    eventually(lambda: settled(member.collection))
    folder = str(member.folder)

    def is_mapped() -> bool:
        return folder in Path("/proc/self/maps").read_text()

    assert is_mapped()
    assert member.park()
    eventually(lambda: not is_mapped())


def test_what_is_written_after_it_was_opened_again_is_there_for_the_next_owner(
    member: Member, tmp_path: Path
) -> None:
    for start in range(0, 100, 10):
        fill(member.collection, start, start + 10)
        member.collection.delete(ids=[start])
        assert member.park()
    expected = [number for number in range(100) if number % 10]
    assert ids(member.collection) == expected
    other = Member(tmp_path / "b", tmp_path / "objects")
    assert ids(other.collection) == expected
    other.close()


def test_a_long_log_is_sealed_before_a_shard_is_parked_and_a_short_one_is_not(
    member: Member, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Maintenance, "merge", lambda self, job: None)  # nothing is sealed at rest
    monkeypatch.setattr(Maintenance, "merge_later", lambda self, seconds, job: None)
    fill(member.collection, 0, 2)
    assert member.park()
    assert frames(tmp_path / "objects", Kind.CHECKPOINT) == []
    for _ in range(70):
        member.collection.delete(ids=[1])
        member.collection.set_payload({"n": 1}, ids=[0])
    assert member.park()
    assert len(frames(tmp_path / "objects", Kind.CHECKPOINT)) >= 1
    assert ids(member.collection) == [0]


def test_a_shard_that_is_used_is_not_parked(member: Member) -> None:
    with member.held.used():
        assert not member.park()
    assert member.park()
    assert not member.park()


def test_a_shard_that_was_asked_for_while_it_was_made_ready_is_not_parked(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(member.collection, 0, 3)
    settle = member.held._claim.settle

    def settle_and_be_asked(*arguments: object, within: float) -> None:
        settle(*arguments, within=within)  # type: ignore[arg-type]
        assert member.collection.count() == 3

    monkeypatch.setattr(member.held._claim, "settle", settle_and_be_asked)
    assert not member.park()
    assert not member.held.is_parked


def test_several_requests_open_a_parked_shard_once(member: Member) -> None:
    fill(member.collection, 0, 10)
    assert member.park()
    with ThreadPoolExecutor(16) as threads:
        counts = list(threads.map(lambda _: member.collection.count(), range(64)))
    assert counts == [10] * 64
    assert member.volume.opened_again == 1


def held_up(member: Member, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The shard is opened again once this is set."""
    may_open = threading.Event()
    open_ = member.held._claim.open
    monkeypatch.setattr(member.held._claim, "open", lambda: (may_open.wait(20), open_())[1])
    return may_open


def test_who_does_not_wait_any_longer_is_told_and_the_next_one_finds_it_open(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(member.collection, 0, 10)
    assert member.park()
    may_open = held_up(member, monkeypatch)
    with pytest.raises(NotHeld), member.held.used(deadline=time.monotonic()):
        pass
    may_open.set()
    assert member.collection.count() == 10


def test_a_parked_shard_is_closed_without_being_opened_and_a_request_that_waits_is_told(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(member.collection, 0, 10)
    assert member.park()
    may_open = held_up(member, monkeypatch)
    with ThreadPoolExecutor(2) as threads:
        waiting = threads.submit(lambda: member.collection.count())
        eventually(lambda: member.held._users == 1)
        closing = threads.submit(member.held.close)
        with pytest.raises(NotHeld):
            waiting.result(10)
        may_open.set()
        closing.result(10)
    eventually(lambda: member.memory.snapshot().used == 0)


def test_what_is_known_of_a_parked_shard_is_what_it_had(member: Member) -> None:
    fill(member.collection, 0, 10)
    member.collection.delete(ids=[3])
    last = member.collection.last_operation
    assert member.park()
    info = member.held.describe(lambda collection: collection.info())
    assert (info.points, info.disk_bytes, info.problems) == (9, 0, ())
    with member.held.described(deadline=0.0) as described:
        assert isinstance(described, ParkedCollection)
        assert described.last_operation == last
    assert member.held.is_parked


def test_a_member_that_takes_a_parked_shard_is_found_out_and_nothing_is_taken_for_damaged(
    member: Member, tmp_path: Path
) -> None:
    fill(member.collection, 0, 40)
    eventually(lambda: settled(member.collection))
    assert member.park()
    other = Member(tmp_path / "b", tmp_path / "objects")
    fill(other.collection, 40, 60)
    for each in (tmp_path / "objects").glob("collections/*/shard-0/segments/*"):
        shutil.rmtree(each)  # as the other one would after it has merged, and ten minutes
    with pytest.raises(Fenced):
        _ = member.collection
    assert ids(other.collection) == [*range(60)]
    with pytest.raises(Fenced):
        member.held.confirm()
    other.close()


def test_a_damaged_segment_is_set_aside_when_it_is_fetched_again(member: Member, tmp_path: Path) -> None:
    fill(member.collection, 0, 40)
    eventually(lambda: settled(member.collection))
    assert member.park()
    for vectors in (tmp_path / "objects").glob("collections/*/shard-0/segments/*/vectors.f32"):
        content = bytearray(vectors.read_bytes())
        content[5] ^= 1
        vectors.write_bytes(content)
    info = member.collection.info()
    assert info.status == "red"
    assert "fails its checksum" in info.problems[0]
    fill(member.collection, 100, 110)
    assert ids(member.collection) == [*range(100, 110)]
    assert member.park()
    assert member.held.describe(lambda collection: collection.info()).status == "red"


def test_a_damaged_frame_refuses_the_shard_for_good_and_names_the_object(
    member: Member, tmp_path: Path
) -> None:
    fill(member.collection, 0, 2)
    assert member.park()
    last = sorted((tmp_path / "objects").glob("collections/*/shard-0/log/*"))[-1]
    last.write_bytes(last.read_bytes()[:-1])
    for _ in range(3):
        with pytest.raises(StoreCorrupt, match=last.name):
            _ = member.collection
    assert member.held.damage is not None


def test_a_store_that_is_away_is_asked_again_later(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(member.collection, 0, 2)
    assert member.park()
    monkeypatch.setattr(held_shard, "AGAIN_SECONDS", 0.02)
    with monkeypatch.context() as patch:
        patch.setattr(ObjectLog, "confirm", _refuse)
        with pytest.raises(StorageFailure, match="service unavailable"):
            _ = member.collection

    def is_back() -> bool:
        try:
            return member.collection.count() == 2
        except StorageFailure:
            return False

    eventually(is_back)


def _refuse(*_: object, **__: object) -> None:
    raise OSError("service unavailable")


def test_a_merge_that_runs_on_while_a_shard_is_parked_and_opened_again_spoils_nothing(
    member: Member, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on with files that are being removed, in a folder that another opening uses."""
    merging, goes_on = threading.Event(), threading.Event()
    batches = Compaction._batches

    def wait_in_the_middle(compaction: Compaction, view: object) -> Iterator[object]:
        for batch in batches(compaction, view):  # type: ignore[arg-type]
            if not merging.is_set() and threading.current_thread().name == "merge":
                merging.set()
                assert goes_on.wait(20)
            yield batch

    monkeypatch.setattr(Compaction, "_batches", wait_in_the_middle)
    numbers = iter(range(0, 10_000, 8))
    while not merging.is_set():
        start = next(numbers)
        fill(member.collection, start, start + 8)
    expected = ids(member.collection)
    assert member.park()
    assert ids(member.collection) == expected
    fill(member.collection, 10_000, 10_020)
    goes_on.set()
    eventually(lambda: settled(member.collection))
    expected += range(10_000, 10_020)
    assert ids(member.collection) == expected
    assert member.park()
    assert ids(member.collection) == expected
    other = Member(tmp_path / "b", tmp_path / "objects")
    assert other.collection.info().problems == ()
    assert ids(other.collection) == expected
    other.close()


class ParkingMachine(SharedCollectionMachine):
    """The machine of shared collections, whose shard is parked again and again."""

    def create(self) -> None:
        self.member = Member(self.data, self.objects, files=self.disk)
        self.member.create_collection("c", params())

    @property
    def store(self) -> Member:  # type: ignore[override]
        return self.member

    @property
    def collection(self) -> Collection:  # type: ignore[override]
        return self.member.collection

    @rule(times=st.integers(1, 3))
    def park(self, times: int) -> None:
        for _ in range(times):
            assert self.member.park()
            assert self.member.held.describe(lambda each: each.info()).points == len(self.model)
            _ = self.collection

    @rule(point=st.integers(0, 29), seed=st.integers(0, 99))
    def another_takes_it_while_it_is_parked(self, point: int, seed: int) -> None:
        assert self.member.park()
        other = Member(self.root / "other", self.objects, files=self.disk)
        vectors = vectors_of([seed])
        other.collection.upsert([point], vectors, [{}])
        self.model[point] = (vectors[0], {})
        with pytest.raises(Fenced):
            _ = self.collection
        self.member.close()
        other.close()
        shutil.rmtree(self.root / "other")
        self._open()

    @property
    def objects(self) -> Path:
        return self.folder / "objects"

    def _open(self) -> None:
        self.member = Member(self.data, self.objects, files=self.disk)
        assert self.collection.info().problems == ()

    def teardown(self) -> None:
        if hasattr(self, "root"):
            self.member.park()
            eventually(lambda: self.member.memory.snapshot().used == 0)
        super().teardown()


TestParkingMachine = ParkingMachine.TestCase
TestParkingMachine.settings = settings(
    max_examples=15, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
