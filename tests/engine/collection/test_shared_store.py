"""Collections in an object store: the data folder may be lost at any moment, and a second process takes over."""

from __future__ import annotations

import random
import shutil
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from tests.engine.collection.model import SMALL, MiB, assert_same, everything, params, vectors_of
from tests.engine.collection.test_collection import settled, wait_until
from tests.engine.collection.test_machine import CollectionMachine
from tests.engine.disks import ForgetfulDisk
from tests.engine.stores import Fault, FaultyStore, MemoryStore
from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.collection import shared_collections
from vectorizer_engine.collection.check_data import check_data
from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.compaction import Compaction
from vectorizer_engine.collection.maintenance import Maintenance
from vectorizer_engine.collection.shard import Shard
from vectorizer_engine.collection.store import VectorStore
from vectorizer_engine.config import ObjectStoreConfig
from vectorizer_engine.errors import (
    CollectionExists,
    CollectionNotFound,
    Fenced,
    StorageFailure,
    StoreUnsuitable,
    WriteInDoubt,
)
from vectorizer_engine.storage import object_log
from vectorizer_engine.storage.catalog import Catalog
from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.garbage import Garbage
from vectorizer_engine.storage.log import Record
from vectorizer_engine.storage.object_frame import Kind
from vectorizer_engine.storage.object_log import ObjectLog
from vectorizer_engine.storage.shared_store import SharedStore


def open_shared(folder: Path, objects: Path, *, files: Files | None = None) -> VectorStore:
    return VectorStore.open(
        folder,
        memory=CacheMemoryManager(16 * MiB),
        files=files,
        limits=SMALL,
        object_store=ObjectStoreConfig(url=f"file://{objects}"),
    )


def fill(collection: Collection, start: int, stop: int) -> None:
    for number in range(start, stop):
        collection.upsert([number], vectors_of([number]), [{"n": number}])


def ids(collection: Collection) -> list[int]:
    return sorted(everything(collection))  # type: ignore[type-var]


def all_but_claims(objects: Path) -> list[Path]:
    files = (path for path in (objects / "collections").rglob("*") if path.is_file())
    return [path for path in files if path.parent.name != "log" or path.read_bytes()[8] != Kind.CLAIM]


def test_everything_acknowledged_is_there_after_the_data_folder_is_lost(tmp_path: Path) -> None:
    store = open_shared(tmp_path / "a", tmp_path / "objects")
    collection = store.create_collection("c", params())
    fill(collection, 0, 50)
    collection.delete(ids=[3, 4])
    before = everything(collection)
    # No close: what a kill -9 leaves, on a volume that is gone as well.
    again = open_shared(tmp_path / "b", tmp_path / "objects")
    assert_same(everything(again.collection("c")), before)
    fill(again.collection("c"), 50, 60)
    again.close()
    last = open_shared(tmp_path / "b", tmp_path / "objects")
    assert ids(last.collection("c")) == sorted({*range(60)} - {3, 4})
    last.close()
    store.close()


def test_a_second_process_takes_over_and_the_first_acknowledges_nothing_more(tmp_path: Path) -> None:
    first = open_shared(tmp_path / "a", tmp_path / "objects")
    fill(first.create_collection("c", params()), 0, 20)
    second = open_shared(tmp_path / "b", tmp_path / "objects")
    for _ in range(2):
        with pytest.raises(Fenced, match="another process has taken over"):
            fill(first.collection("c"), 20, 21)
    fill(second.collection("c"), 30, 40)
    first.close()
    second.close()
    third = open_shared(tmp_path / "a", tmp_path / "objects")
    assert ids(third.collection("c")) == [*range(20), *range(30, 40)]
    third.close()


def test_a_writer_that_waits_for_heads_to_be_sealed_learns_that_another_process_has_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_seal = threading.Event()
    seal = Compaction.seal

    def seal_later(compaction: Compaction, *arguments: Any, **named: Any) -> None:
        assert may_seal.wait(20)
        seal(compaction, *arguments, **named)

    first = open_shared(tmp_path / "a", tmp_path / "objects")
    collection = first.create_collection("c", params())
    with ThreadPoolExecutor() as threads:
        with monkeypatch.context() as patch:
            patch.setattr(Compaction, "seal", seal_later)
            writing = threads.submit(fill, collection, 0, 100)
            wait_until(lambda: len(collection._shard._sealing._heads) > SMALL.sealing_heads)
        open_shared(tmp_path / "b", tmp_path / "objects").close()
        may_seal.set()
        with pytest.raises(Fenced, match="another process has taken over"):
            writing.result()
    first.close()


def test_a_deleted_collection_leaves_nothing_but_claims_and_its_name_is_free(tmp_path: Path) -> None:
    store = open_shared(tmp_path / "a", tmp_path / "objects")
    fill(store.create_collection("c", params()), 0, 30)
    assert store.delete_collection("c") is True
    assert store.delete_collection("c") is False
    assert all_but_claims(tmp_path / "objects") == []
    fill(store.create_collection("c", params()), 5, 7)
    store.close()
    again = open_shared(tmp_path / "a", tmp_path / "objects")
    assert ids(again.collection("c")) == [5, 6]
    again.close()


def test_a_collection_that_another_process_made_or_deleted_is_known_after_a_start(tmp_path: Path) -> None:
    first = open_shared(tmp_path / "a", tmp_path / "objects")
    first.create_collection("old", params())
    second = open_shared(tmp_path / "b", tmp_path / "objects")
    second.delete_collection("old")
    fill(second.create_collection("new", params()), 0, 3)
    with pytest.raises(CollectionExists):
        first.create_collection("new", params())
    first.close()
    second.close()
    again = open_shared(tmp_path / "a", tmp_path / "objects")
    assert [each.name for each in again.collections()] == ["new"]
    with pytest.raises(CollectionNotFound):
        again.collection("old")
    again.close()


def test_a_deletion_that_was_interrupted_is_finished_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_shared(tmp_path / "a", tmp_path / "objects")
    fill(store.create_collection("c", params()), 0, 5)
    with monkeypatch.context() as patch:
        patch.setattr(SharedStore, "purge", _refuse)
        assert store.delete_collection("c") is True
    store.close()
    assert len(all_but_claims(tmp_path / "objects")) == 5
    open_shared(tmp_path / "b", tmp_path / "objects").close()
    assert all_but_claims(tmp_path / "objects") == []


def _refuse(*_: object, **__: object) -> None:
    raise OSError("service unavailable")


def test_a_data_folder_is_never_taken_for_what_it_is_not(tmp_path: Path) -> None:
    own = VectorStore.open(tmp_path / "own", memory=CacheMemoryManager(MiB))
    own.create_collection("c", params())
    own.close()
    with pytest.raises(
        StoreUnsuitable, match=r"holds collections that are in no object store.*leave the setting out"
    ):
        open_shared(tmp_path / "own", tmp_path / "objects")
    open_shared(tmp_path / "copies", tmp_path / "objects").close()
    with pytest.raises(
        StoreUnsuitable, match=r"holds copies of the object store file:///.*objects, and .* is not set"
    ):
        VectorStore.open(tmp_path / "copies", memory=CacheMemoryManager(MiB))
    with pytest.raises(
        StoreUnsuitable, match=r"is file:///.*others: set it to file:///.*objects, or choose an empty"
    ):
        open_shared(tmp_path / "copies", tmp_path / "others")
    with pytest.raises(StoreUnsuitable, match=r"copies of the object store .* when it starts"):
        check_data(tmp_path / "copies")


@pytest.mark.parametrize("damage", ["description", "folder"])
def test_a_damaged_copy_of_a_collection_is_made_again(tmp_path: Path, damage: str) -> None:
    store = open_shared(tmp_path / "a", tmp_path / "objects")
    fill(store.create_collection("c", params()), 0, 20)
    store.close()
    (folder,) = (tmp_path / "a" / "collections").iterdir()
    if damage == "folder":
        shutil.rmtree(folder)
    else:
        (folder / "collection.json").write_bytes(b"{}")
    again = open_shared(tmp_path / "a", tmp_path / "objects")
    assert again.damaged == {}
    assert ids(again.collection("c")) == list(range(20))
    again.close()


def test_a_collection_that_cannot_be_opened_leaves_no_name_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_shared(tmp_path / "a", tmp_path / "objects")
    with monkeypatch.context() as patch:
        patch.setattr(SharedStore, "open_shard", _refuse)
        with pytest.raises(StorageFailure, match="service unavailable"):
            store.create_collection("c", params())
    store.create_collection("c", params())
    store.close()
    again = open_shared(tmp_path / "a", tmp_path / "objects")
    assert [each.name for each in again.collections()] == ["c"]
    again.close()


def test_a_store_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailure, match=r"cannot use the object store file:///.*/file: File exists"):
        open_shared(tmp_path / "a", tmp_path / "file")


def test_many_small_writes_are_sealed_before_replaying_them_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_log, "_CROWDED", 5)
    store = open_shared(tmp_path / "a", tmp_path / "objects")
    collection = store.create_collection("c", params())
    fill(collection, 0, 3)
    assert collection.info().segments == 1
    fill(collection, 3, 7)  # of the eight points that would fill a head
    assert collection.info().segments == 2
    store.close()


def test_segments_that_are_merged_while_the_log_is_replayed_are_kept_until_a_checkpoint_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_shared(tmp_path / "a", tmp_path / "objects")
    fill(first.create_collection("c", params()), 0, 30)
    wait_until(lambda: settled(first.collection("c")))
    with monkeypatch.context() as patch:
        patch.setattr(Maintenance, "seal", lambda self, job: None)
        fill(first.collection("c"), 30, 44)
        first.collection("c").delete(ids=range(20))  # so that what is sealed already is merged
    recovering: list[Shard] = []
    recover, replay = Shard._recover, ObjectLog.replay

    def note_and_recover(shard: Shard) -> None:
        recovering.append(shard)
        recover(shard)

    def replay_and_wait(log: ObjectLog, *, after: int) -> Iterator[Record]:
        yield from replay(log, after=after)
        log.replayed = False
        wait_until(lambda: not recovering[0].busy)
        log.replayed = True

    assert Garbage.__init__.__kwdefaults__ is not None
    monkeypatch.setitem(Garbage.__init__.__kwdefaults__, "grace", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(Shard, "_recover", note_and_recover)
        patch.setattr(ObjectLog, "replay", replay_and_wait)
        second = open_shared(tmp_path / "b", tmp_path / "objects")
        wait_until(lambda: settled(second.collection("c")))
        patch.setattr(ObjectLog, "write_checkpoint", _refuse)
        fill(second.collection("c"), 50, 59)
        wait_until(lambda: second.collection("c")._shard._sealing._error is not None)
    # No close: it was killed before its first checkpoint.
    third = open_shared(tmp_path / "d", tmp_path / "objects")
    assert third.collection("c").info().problems == ()
    assert ids(third.collection("c")) == [*range(20, 44), *range(50, 59)]
    for store in (first, second, third):
        store.close()


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> FaultyStore:
    """What `open_impatient` opens: a store whose every failure is believed at once."""
    faulty = FaultyStore(MemoryStore())
    monkeypatch.setattr(shared_collections, "open_object_store", lambda config, *, files: faulty)
    for each in (ObjectLog, Catalog):
        assert each.__init__.__kwdefaults__ is not None
        monkeypatch.setitem(each.__init__.__kwdefaults__, "patience", 0.0)
    return faulty


def open_impatient(folder: Path, *, memory: CacheMemoryManager | None = None) -> VectorStore:
    return VectorStore.open(
        folder,
        memory=memory or CacheMemoryManager(16 * MiB),
        limits=SMALL,
        object_store=ObjectStoreConfig(url="s3://bucket"),
    )


def test_a_write_in_doubt_is_visible_or_gone_before_the_next_one_and_its_memory_is_given_back(
    tmp_path: Path, faulty: FaultyStore
) -> None:
    memory = CacheMemoryManager(16 * MiB)
    store = open_impatient(tmp_path, memory=memory)
    collection = store.create_collection("c", params())
    fill(collection, 0, 1)
    for number, fault in enumerate((Fault.LOST_ANSWER, Fault.LATE), start=1):
        faulty.faults.append(fault)
        with pytest.raises(WriteInDoubt, match="it is not known which: send it again"):
            fill(collection, number, number + 1)
        assert ids(collection) == [0] if number == 1 else [0, 1, 10]
        fill(collection, 10 * number, 10 * number + 1)
        faulty.deliver()
    assert ids(collection) == [0, 1, 10, 20]
    store.close()
    assert memory.snapshot().used == 0


NO_ANSWER = (Fault.UNAVAILABLE, Fault.LOST_ANSWER, Fault.LATE)
"""Nothing is there; it is there; it comes to be there."""


def lose_the_answer(faulty: FaultyStore, fault: Fault, *, creating: bool) -> None:
    """Have the next change of the catalog fail with *fault*, after the calls that come before it."""
    faulty.faults.extend([*[Fault.NONE] * (2 if creating else 1), fault])


@pytest.mark.parametrize("change", ["create", "delete"])
def test_nobody_else_waits_for_a_store_that_hangs_while_a_collection_is_made_or_deleted(
    tmp_path: Path, faulty: FaultyStore, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    store = open_impatient(tmp_path)
    collection = store.create_collection("c", params())
    doomed = store.create_collection("doomed", params())
    hangs, goes_on = threading.Event(), threading.Event()
    create = faulty.create

    def hang(name: str, data: bytes) -> None:
        if name.startswith("catalog/"):
            hangs.set()
            assert goes_on.wait(30)
        create(name, data)

    monkeypatch.setattr(faulty, "create", hang)
    changing = threading.Thread(
        target=store.create_collection if change == "create" else store.delete_collection,
        args=("new", params()) if change == "create" else ("doomed",),
    )
    changing.start()
    assert hangs.wait(30)
    asking = threading.Thread(
        target=lambda: (store.collections(), store.serves(collection), store.collection("c"))
    )
    asking.start()
    asking.join(5)
    answered = not asking.is_alive()
    goes_on.set()
    changing.join()
    asking.join()
    assert answered
    assert store.serves(doomed) is (change == "create")
    store.close()


@pytest.mark.parametrize("fault", NO_ANSWER)
def test_a_collection_whose_creation_had_no_answer_is_there_when_it_is_created_again(
    tmp_path: Path, faulty: FaultyStore, fault: Fault
) -> None:
    store = open_impatient(tmp_path / "a")
    lose_the_answer(faulty, fault, creating=True)
    with pytest.raises(WriteInDoubt, match=r"whether collection 'c' was created: .*: send it again"):
        store.create_collection("c", params())
    with pytest.raises(CollectionNotFound):
        store.collection("c")
    faulty.deliver()
    fill(store.create_collection("c", params()), 0, 3)
    with pytest.raises(CollectionExists):
        store.create_collection("c", params())
    store.close()
    again = open_impatient(tmp_path / "b")
    assert [ids(each) for each in again.collections()] == [[0, 1, 2]]
    again.close()


def test_what_others_wrote_to_a_collection_whose_creation_had_no_answer_is_kept(
    tmp_path: Path, faulty: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_impatient(tmp_path / "a")
    lose_the_answer(faulty, Fault.LOST_ANSWER, creating=True)
    with pytest.raises(WriteInDoubt):
        first.create_collection("c", params())
    second = open_impatient(tmp_path / "b")
    fill(second.collection("c"), 0, 3)
    with pytest.raises(CollectionExists):
        first.create_collection("c", params(dimension=5))
    with monkeypatch.context() as patch:
        patch.setattr(SharedStore, "open_shard", _refuse)
        with pytest.raises(StorageFailure, match="service unavailable"):
            first.create_collection("c", params())
    assert ids(first.create_collection("c", params())) == [0, 1, 2]
    first.close()
    second.close()


@pytest.mark.parametrize("fault", NO_ANSWER)
def test_a_collection_whose_creation_had_no_answer_can_be_deleted(
    tmp_path: Path, faulty: FaultyStore, fault: Fault
) -> None:
    store = open_impatient(tmp_path / "a")
    lose_the_answer(faulty, fault, creating=True)
    with pytest.raises(WriteInDoubt):
        store.create_collection("c", params())
    faulty.deliver()
    assert store.delete_collection("other") is False
    assert store.delete_collection("c") is (fault is not Fault.UNAVAILABLE)
    assert store.delete_collection("c") is False
    store.close()
    again = open_impatient(tmp_path / "b")
    assert again.collections() == []
    again.close()


@pytest.mark.parametrize("fault", NO_ANSWER)
def test_a_collection_whose_deletion_had_no_answer_takes_no_writes_and_is_deleted_by_the_next_call(
    tmp_path: Path, faulty: FaultyStore, fault: Fault
) -> None:
    store = open_impatient(tmp_path / "a")
    fill(store.create_collection("c", params()), 0, 3)
    lose_the_answer(faulty, fault, creating=False)
    with pytest.raises(WriteInDoubt, match=r"whether collection 'c' was deleted: .*: send it again"):
        store.delete_collection("c")
    with pytest.raises(CollectionNotFound):
        store.collection("c")
    faulty.deliver()
    if fault is Fault.LATE:
        assert store.delete_collection("c") is True
    assert ids(store.create_collection("c", params())) == []
    store.close()
    again = open_impatient(tmp_path / "b")
    assert [ids(each) for each in again.collections()] == [[]]
    again.close()


def test_a_store_that_is_away_leaves_a_collection_that_is_to_be_deleted_as_it_is(
    tmp_path: Path, faulty: FaultyStore
) -> None:
    store = open_impatient(tmp_path)
    fill(store.create_collection("c", params()), 0, 3)
    faulty.faults.append(Fault.UNAVAILABLE)
    with pytest.raises(StorageFailure, match="cannot delete collection 'c'"):
        store.delete_collection("c")
    fill(store.collection("c"), 3, 4)
    assert ids(store.collection("c")) == [0, 1, 2, 3]
    store.close()


def test_a_collection_that_could_be_neither_opened_nor_deleted_is_made_anew(
    tmp_path: Path, faulty: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_impatient(tmp_path)

    def fail(*_: object, **__: object) -> None:
        faulty.faults.append(Fault.UNAVAILABLE)
        raise OSError("too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(SharedStore, "open_shard", fail)
        with pytest.raises(StorageFailure, match="too many open files"):
            store.create_collection("c", params())
    fill(store.create_collection("c", params()), 0, 3)
    assert ids(store.collection("c")) == [0, 1, 2]
    store.close()


class SharedCollectionMachine(CollectionMachine):
    """The same, in a folder of objects; a crash takes the data folder with it."""

    @initialize(seed=st.integers(0, 2**32))
    def start(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.root = Path(tempfile.mkdtemp())
        self.life = 0
        self.disk = ForgetfulDisk()
        (self.root / "0").mkdir()
        self.disk.sync_folder(self.root / "0")
        self.create()
        self.model = {}

    def create(self) -> None:
        self.store = open_shared(self.data, self.folder / "objects", files=self.disk)
        self.collection = self.store.create_collection("c", params())

    @property
    def data(self) -> Path:
        return self.root / f"data-{self.life}"

    @rule()
    def lose_the_data_folder(self) -> None:
        self.store.close()
        shutil.rmtree(self.data)
        self._open()

    def _open(self) -> None:
        self.store = open_shared(self.data, self.folder / "objects", files=self.disk)
        self.collection = self.store.collection("c")
        assert self.collection.info().problems == ()


TestSharedCollectionMachine = SharedCollectionMachine.TestCase
TestSharedCollectionMachine.settings = settings(
    max_examples=10, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
