"""Payload indexes on a collection: built, found again, rebuilt where damaged, removed; and what is kept of filters."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.collection.model import MiB, params, vectors_of
from tests.engine.collection.test_collection import settled, wait_until
from tests.engine.disks import FailingDisk
from vectorizer_engine.cache.memory_manager import CacheMemoryManager, CacheType, LookupResult
from vectorizer_engine.collection.check_data import check_data
from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.compaction import Compaction
from vectorizer_engine.collection.environment import ShardLimits
from vectorizer_engine.collection.field_values import FieldIndexer
from vectorizer_engine.collection.filters import compile_filter
from vectorizer_engine.collection.store import VectorStore
from vectorizer_engine.collection.types import IndexedField, Predicate
from vectorizer_engine.errors import InvalidRequest, StorageFailure, StoreClosed
from vectorizer_engine.storage.commit import GroupCommit
from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.payload_index import FieldType
from vectorizer_engine.storage.segment import Segment

COUNT = 1000
LIMITS = ShardLimits(head_points=250, quiet_seconds=0.1)
FILE = "*.payload-index"


def open_at(
    path: Path, *, memory: CacheMemoryManager | None = None, files: Files | None = None
) -> VectorStore:
    return VectorStore.open(path, memory=memory or CacheMemoryManager(64 * MiB), files=files, limits=LIMITS)


def fill(collection: Collection, start: int = 0, count: int = COUNT) -> None:
    """Points of which all but the last 250 are in sealed segments."""
    for first in range(start, start + count, 250):
        ids = list(range(first, first + 250))
        collection.upsert(
            ids, vectors_of(ids), [{"group": point % 10, "name": f"point {point}"} for point in ids]
        )


def group(number: int) -> Predicate:
    compiled = compile_filter({"must": {"key": "group", "match": {"value": number}}})
    assert compiled is not None
    return compiled


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many payloads of sealed segments were read, in a list of one number."""
    counted = [0]
    scan = Segment.scan

    def counting(self: Segment, *arguments: Any) -> Iterator[Any]:
        for item in scan(self, *arguments):
            counted[0] += 1
            yield item

    with monkeypatch.context() as patch:
        patch.setattr(Segment, "scan", counting)
        yield counted


@pytest.fixture
def store(tmp_path: Path) -> Iterator[VectorStore]:
    store = open_at(tmp_path)
    yield store
    store.close()


def sealed(collection: Collection) -> list[Segment]:
    return [segment for segment, _ in collection._shard.view.segments()]


def test_an_index_spares_the_reading_of_payloads(store: VectorStore, reads: list[int]) -> None:
    collection = store.create_collection("c", params())
    fill(collection)
    wait_until(lambda: settled(collection))
    assert collection.create_payload_index("group", FieldType.INTEGER)
    reads[0] = 0
    assert collection.count(group(3)) == 100
    page, following = collection.scroll(limit=7, predicate=group(4))
    assert ([record.id for record in page], following) == (list(range(4, 74, 10)), 74)
    (found,) = collection.search(vectors_of([1]), limit=200, predicate=group(5))
    assert len(found) == 100
    assert reads[0] == 0


def test_a_change_by_filter_reads_what_it_changes(store: VectorStore, reads: list[int]) -> None:
    collection = store.create_collection("c", params())
    fill(collection)
    wait_until(lambda: settled(collection))
    collection.create_payload_index("group", FieldType.INTEGER)
    reads[0] = 0
    collection.set_payload({"group": 77}, predicate=group(3))
    collection.delete(predicate=group(4))
    assert reads[0] == 0
    assert [collection.count(group(number)) for number in (3, 4, 5, 77)] == [0, 0, 100, 100]


def test_a_filter_is_remembered_for_a_segment_and_true_after_writes(
    store: VectorStore, reads: list[int]
) -> None:
    collection = store.create_collection("c", params())
    fill(collection)
    wait_until(lambda: settled(collection))
    assert collection.count(group(3)) == 100
    reads[0] = 0
    assert collection.count(group(3)) == 100
    assert reads[0] == 0
    collection.delete(ids=[3])
    collection.upsert([13, 14], vectors_of([1, 2]), [{"group": 0}, {"group": 3}])
    assert collection.count(group(3)) == 99
    assert reads[0] == 0


def test_what_is_remembered_of_filters_is_charged_and_counted_and_given_back(tmp_path: Path) -> None:
    memory = CacheMemoryManager(64 * MiB)
    store = open_at(tmp_path, memory=memory)
    collection = store.create_collection("c", params())
    fill(collection)
    wait_until(lambda: settled(collection))
    before = memory.snapshot().by_cache[CacheType.METADATA]
    for number in range(50):
        collection.count(group(number))
    assert memory.snapshot().by_cache[CacheType.METADATA] > before
    counted = memory.snapshot().lookups
    collection.count(group(3))
    again = memory.snapshot().lookups
    assert again[CacheType.METADATA, LookupResult.HIT] > counted[CacheType.METADATA, LookupResult.HIT]
    assert (
        again[CacheType.METADATA, LookupResult.MISS] == counted[CacheType.METADATA, LookupResult.MISS] >= 50
    )
    memory.evict_down_to(0)
    assert memory.snapshot().by_cache[CacheType.METADATA] == before
    assert collection.count(group(3)) == 100
    store.delete_collection("c")
    wait_until(lambda: memory.snapshot().used == 0)
    store.close()


def test_the_schema_and_the_indexes_are_there_after_a_restart(tmp_path: Path) -> None:
    store = open_at(tmp_path)
    collection = store.create_collection("c", params())
    collection.create_payload_index("group", FieldType.INTEGER)
    fill(collection)
    collection.create_payload_index("name", FieldType.TEXT)
    collection.delete(ids=range(0, COUNT, 2))
    wait_until(lambda: settled(collection))
    assert collection.payload_schema() == {
        "group": IndexedField(FieldType.INTEGER, COUNT // 2),
        "name": IndexedField(FieldType.TEXT, COUNT // 2),
    }
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob(FILE)}
    store.close()
    assert check_data(tmp_path) == []
    store = open_at(tmp_path)
    collection = store.collection("c")
    assert collection.payload_schema()["name"] == IndexedField(FieldType.TEXT, COUNT // 2)
    assert all(len(segment.fields) == 2 for segment in sealed(collection))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob(FILE)} == files
    store.close()


def test_a_head_that_could_not_be_sealed_when_writes_had_ceased_is_sealed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused = GroupCommit.paused
    failures = iter(["what became of an earlier write is not known"])

    def fail_once(commit: GroupCommit, *, within: float | None = None) -> AbstractContextManager[None]:
        for reason in failures if within is not None else ():
            raise StorageFailure(reason)
        return paused(commit, within=within)

    monkeypatch.setattr(GroupCommit, "paused", fail_once)
    limits = ShardLimits(quiet_seconds=0.1)
    store = VectorStore.open(tmp_path, memory=CacheMemoryManager(64 * MiB), limits=limits)
    collection = store.create_collection("c", params())
    collection.create_payload_index("group", FieldType.INTEGER)
    fill(collection, 0, 500)
    wait_until(lambda: sum(segment.count for segment in sealed(collection)) == 500)
    assert next(failures, None) is None
    store.close()


def test_a_head_is_sealed_when_writes_have_ceased_so_that_it_has_indexes_too(tmp_path: Path) -> None:
    store = VectorStore.open(
        tmp_path, memory=CacheMemoryManager(64 * MiB), limits=ShardLimits(quiet_seconds=0.1)
    )
    indexed = store.create_collection("indexed", params())
    indexed.create_payload_index("group", FieldType.INTEGER)
    fill(indexed, 0, 500)
    wait_until(lambda: sum(segment.count for segment in sealed(indexed)) == 500)
    fill(indexed, 500, 250)
    indexed.upsert([1], vectors_of([1]), [{"group": 3}])
    wait_until(lambda: indexed.info().segments == len(sealed(indexed)) + 1 and settled(indexed))
    assert indexed.count(group(3)) == 76
    indexed.delete_payload_index("group")
    store.close()


def test_a_merged_segment_has_the_indexes_of_its_payloads(store: VectorStore) -> None:
    collection = store.create_collection("c", params())
    collection.create_payload_index("group", FieldType.INTEGER)
    fill(collection, 0, 8 * 250)
    wait_until(lambda: settled(collection))
    assert len(sealed(collection)) < 7
    assert all(len(segment.fields) == 1 for segment in sealed(collection))
    assert collection.count(group(3)) == 200


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_a_damaged_index_is_found_removed_and_built_again(tmp_path: Path, damage: str) -> None:
    store = open_at(tmp_path)
    collection = store.create_collection("c", params())
    fill(collection)
    wait_until(lambda: settled(collection))
    collection.create_payload_index("group", FieldType.INTEGER)
    store.close()
    (file, *_) = tmp_path.rglob(FILE)
    content = bytearray(file.read_bytes())
    content[40] ^= 1
    file.write_bytes({"flipped": content, "cut": content[:-7], "empty": b""}[damage])
    file.with_name(file.name + ".part").write_bytes(b"left by a crash")
    (problem,) = check_data(tmp_path)
    assert str(file) in problem.message

    store = open_at(tmp_path)
    collection = store.collection("c")
    assert collection.info().problems == ()
    assert collection.count(group(3)) == 100
    wait_until(lambda: all(segment.fields for segment in sealed(collection)))
    assert collection.count(group(4)) == 100
    store.close()
    assert check_data(tmp_path) == []
    assert not list(tmp_path.rglob("*.part"))


def test_an_index_that_is_deleted_or_replaced_leaves_no_files(tmp_path: Path, store: VectorStore) -> None:
    collection = store.create_collection("c", params())
    fill(collection)
    wait_until(lambda: settled(collection))
    collection.create_payload_index("group", FieldType.INTEGER)
    before = set(tmp_path.rglob(FILE))
    collection.create_payload_index('"group"', FieldType.KEYWORD)
    assert collection.payload_schema() == {'"group"': IndexedField(FieldType.KEYWORD, 0)}
    assert not before & set(tmp_path.rglob(FILE))
    assert collection.count(group(3)) == 100
    collection.delete_payload_index("group")
    collection.delete_payload_index("nowhere")
    assert collection.payload_schema() == {}
    assert list(tmp_path.rglob(FILE)) == []


@contextlib.contextmanager
def a_build_under_way(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """While inside, an index is being built for somebody who waits for it, and comes to no end."""
    begun, may_end = threading.Event(), threading.Event()
    add = FieldIndexer.add
    builder = threading.Thread(target=collection.create_payload_index, args=("name", FieldType.TEXT))

    def hang(self: FieldIndexer, row: int, payload: dict[str, Any]) -> None:
        if threading.current_thread() is builder:
            begun.set()
            assert may_end.wait(30)
        add(self, row, payload)

    with monkeypatch.context() as patch:
        patch.setattr(FieldIndexer, "add", hang)
        builder.start()
        assert begun.wait(20)
        try:
            yield
        finally:
            may_end.set()
            builder.join()


def in_time(work: Callable[[], object]) -> bool:
    """Whether *work* is done soon, in a thread of its own."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(5)
    return not thread.is_alive()


def test_an_index_is_deleted_without_waiting_for_its_build_and_leaves_no_files(
    tmp_path: Path, store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = store.create_collection("c", params())
    fill(collection)
    wait_until(lambda: settled(collection))
    with a_build_under_way(collection, monkeypatch):
        assert in_time(lambda: collection.delete_payload_index("name"))
        assert collection.payload_schema() == {}
    wait_until(lambda: settled(collection))
    assert list(tmp_path.rglob(FILE)) == []


def test_heads_are_sealed_while_indexes_of_other_segments_are_built(
    store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = store.create_collection("c", params())
    fill(collection, 0, 500)
    wait_until(lambda: settled(collection))
    before = len(sealed(collection))
    with a_build_under_way(collection, monkeypatch):
        fill(collection, 500, 500)
        wait_until(lambda: len(sealed(collection)) >= before + 2)


def test_a_segment_that_was_written_while_an_index_was_deleted_keeps_no_file_of_it(
    tmp_path: Path, store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = store.create_collection("c", params())
    collection.create_payload_index("group", FieldType.INTEGER)
    publish = Compaction._publish

    def delete_first(self: Compaction, *arguments: Any) -> None:
        schema = collection._shard._payload_indexes.schema
        if schema:
            collection._shard._segments.publish_payload_schema({})
            collection._shard._payload_indexes.schema = {}
        publish(self, *arguments)

    monkeypatch.setattr(Compaction, "_publish", delete_first)
    fill(collection, 0, 500)
    wait_until(lambda: bool(sealed(collection)) and settled(collection))
    assert collection.payload_schema() == {}
    assert list(tmp_path.rglob(FILE)) == []


def test_a_file_that_cannot_be_removed_does_not_keep_an_index_from_being_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Files()
    store = open_at(tmp_path, files=disk)
    collection = store.create_collection("c", params())
    fill(collection)
    wait_until(lambda: settled(collection))
    collection.create_payload_index("group", FieldType.INTEGER)

    def refuse(path: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(disk, "remove", refuse)
    collection.delete_payload_index("group")
    assert collection.payload_schema() == {}
    store.close()
    assert list(tmp_path.rglob(FILE))
    open_at(tmp_path).close()
    assert list(tmp_path.rglob(FILE)) == []


def test_what_is_no_path_gets_no_index(store: VectorStore) -> None:
    collection = store.create_collection("c", params())
    for change in (
        lambda: collection.create_payload_index("a.", FieldType.KEYWORD),
        lambda: collection.delete_payload_index("a."),
    ):
        with pytest.raises(InvalidRequest, match="is not a payload path"):
            change()


def test_a_collection_has_a_hundred_payload_indexes_at_most(store: VectorStore) -> None:
    collection = store.create_collection("c", params())
    for number in range(100):
        collection.create_payload_index(f"field{number}", FieldType.KEYWORD)
    collection.create_payload_index("field7", FieldType.INTEGER)
    with pytest.raises(InvalidRequest, match="'another' would be payload index 101"):
        collection.create_payload_index("another", FieldType.KEYWORD)


def test_without_memory_an_index_is_built_later_and_filters_hold_meanwhile(tmp_path: Path) -> None:
    memory = CacheMemoryManager(8 * MiB)
    store = open_at(tmp_path, memory=memory)
    collection = store.create_collection("c", params())
    fill(collection)
    wait_until(lambda: settled(collection))
    taken = memory.reserve(CacheType.METADATA, memory.available())
    assert taken is not None
    assert not collection.create_payload_index("group", FieldType.INTEGER)
    assert not any(segment.fields for segment in sealed(collection))
    assert collection.count(group(3)) == 100
    taken.release()
    assert collection.create_payload_index("group", FieldType.INTEGER)
    assert all(segment.fields for segment in sealed(collection))
    assert memory.snapshot().peak <= 8 * MiB
    store.close()


def test_few_payloads_with_many_values_are_indexed_within_the_limit(tmp_path: Path) -> None:
    """250 lists of 2,000 numbers are 17 MB while they are sorted, which is refused where the limit is 8 MiB."""
    memory = CacheMemoryManager(8 * MiB)
    store = open_at(tmp_path, memory=memory)
    collection = store.create_collection("c", params())
    ids = list(range(250))
    for first in range(0, 250, 50):
        some = ids[first : first + 50]
        payloads = [{"seen": list(range(point, point + 2000))} for point in some]
        collection.upsert(some, vectors_of(some), payloads)
    collection._shard.flush(within=5.0)
    wait_until(lambda: settled(collection))
    assert not collection.create_payload_index("seen", FieldType.INTEGER)
    store.close()
    store = open_at(tmp_path)
    wait_until(lambda: all(segment.fields for segment in sealed(store.collection("c"))))
    store.close()


def test_no_failing_write_leaves_a_wrong_index_or_blocks_the_collection(tmp_path: Path) -> None:
    failures = 0
    for call in range(100):
        disk = FailingDisk()
        store = open_at(tmp_path / str(call), files=disk)
        collection = store.create_collection("c", params())
        fill(collection, count=500)
        wait_until(lambda: settled(collection))  # noqa: B023
        disk.fail_after = call
        disk.once = True
        try:
            collection.create_payload_index("group", FieldType.INTEGER)
        except Exception as error:  # noqa: BLE001
            assert "cannot" in str(error)
            failures += 1
        assert collection.count(group(3)) == 50
        failed = disk.fail_after is None
        store.close()
        store = open_at(tmp_path / str(call))
        collection = store.collection("c")
        if "group" in collection.payload_schema():
            wait_until(lambda: all(segment.fields for segment in sealed(collection)))  # noqa: B023
        assert collection.count(group(3)) == 50
        store.close()
        if not failed:
            break
    assert failures >= 5


def test_a_collection_may_be_deleted_while_its_payloads_are_indexed(
    tmp_path: Path, store: VectorStore
) -> None:
    collection = store.create_collection("c", params())
    fill(collection)
    wait_until(lambda: settled(collection))

    def index() -> None:
        with contextlib.suppress(StorageFailure, StoreClosed):
            collection.create_payload_index("name", FieldType.TEXT)

    thread = threading.Thread(target=index)
    thread.start()
    store.delete_collection("c")
    thread.join(20)
    assert not thread.is_alive()
    wait_until(lambda: list((tmp_path / "collections").iterdir()) == [])


def test_readers_writers_and_schema_changes_at_once_never_disagree(store: VectorStore) -> None:
    collection = store.create_collection("c", params())
    fill(collection, 0, 500)
    stop = threading.Event()
    problems: list[str] = []

    def read() -> None:
        while not stop.is_set():
            if collection.count(group(3)) < 50:
                problems.append("a point was missed")
            (found,) = collection.search(vectors_of([1]), limit=10, predicate=group(3))
            if len(found) != 10:
                problems.append("a search found too little")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    rng = np.random.default_rng(0)
    try:
        for turn in range(6):
            fill(collection, 500 + 250 * turn, 250)
            ids = [int(point) // 10 * 10 + 3 for point in rng.integers(0, 500, 40)]
            collection.upsert(ids, vectors_of(ids), [{"group": 3}] * len(ids))
            collection.create_payload_index("group", (FieldType.INTEGER, FieldType.FLOAT)[turn % 2])
            if turn % 3 == 2:
                collection.delete_payload_index("group")
    finally:
        stop.set()
        for reader in readers:
            reader.join(20)
    assert problems == []
    assert collection.count(group(3)) == 200
