"""Points in and out of a collection: exact answers, clear refusals, and faults that lose nothing."""

from __future__ import annotations

import errno
import threading
import time
import tracemalloc
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.engine.collection.model import (
    SMALL,
    MiB,
    assert_same,
    everything,
    open_store,
    params,
    scores,
    vectors_of,
)
from tests.engine.disks import FailingDisk
from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.collection import sealing
from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.environment import ShardLimits
from vectorizer_engine.collection.store import VectorStore
from vectorizer_engine.collection.types import CollectionParams, CollectionStatus, Distance
from vectorizer_engine.errors import (
    CacheMemoryLimitExceeded,
    DimensionMismatch,
    InvalidPoint,
    InvalidRequest,
    InvalidVector,
    PointNotFound,
    StorageFailure,
    StorageFull,
)


def make(path: Path, **options: object) -> tuple[VectorStore, Collection]:
    store = open_store(path, **options)  # type: ignore[arg-type]
    return store, store.create_collection("c", params())


def wait_until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "did not come in time"
        time.sleep(0.005)


def settled(collection: Collection) -> bool:
    return collection.info().status is not CollectionStatus.YELLOW


@pytest.mark.parametrize("distance", Distance)
def test_a_search_finds_what_comparing_everything_finds(tmp_path: Path, distance: Distance) -> None:
    store = open_store(tmp_path)
    collection = store.create_collection("c", params(dimension=16, distance=distance))
    rows = vectors_of(list(range(300)), 16)
    for start in range(0, 300, 20):
        collection.upsert(list(range(start, start + 20)), rows[start : start + 20], [{"n": start}] * 20)
    collection.delete(ids=range(0, 300, 3))
    alive = np.array([row for row in range(300) if row % 3])
    queries = vectors_of([1000 + number for number in range(30)], 16)
    for query, found in zip(queries, collection.search(queries, limit=10), strict=True):
        expected = scores(query, rows[alive], distance)
        order = np.argsort(-expected if distance.larger_is_closer else expected)[:10]
        assert [hit.id for hit in found] == alive[order].tolist()
        np.testing.assert_allclose([hit.score for hit in found], expected[order], rtol=1e-4, atol=1e-5)
    store.close()


def test_offset_threshold_and_payload_of_a_search(tmp_path: Path) -> None:
    store, collection = make(tmp_path)
    collection.upsert(
        list(range(20)), np.eye(20, 4, dtype=np.float32) + np.arange(20)[:, None], [{"n": 1}] * 20
    )
    query = np.ones((1, 4), np.float32)
    (best,) = collection.search(query, limit=5)
    (later,) = collection.search(query, limit=3, offset=2)
    assert [hit.id for hit in later] == [hit.id for hit in best[2:]]
    assert later[0].payload == {"n": 1}
    assert later[0].vector.shape == (4,)
    assert best[0].version == 1
    (near,) = collection.search(query, limit=20, score_threshold=best[1].score)
    assert [hit.id for hit in near] == [hit.id for hit in best[:2]]
    (chosen,) = collection.search(query, limit=20, predicate=lambda point, _: point in (3, 4))
    assert {hit.id for hit in chosen} == {3, 4}
    assert [list(hits) for hits in collection.search(query, limit=3, predicate=lambda *_: False)] == [[]]
    store.close()


def test_a_distance_threshold_keeps_what_is_nearer(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    collection = store.create_collection("c", params(1, Distance.EUCLID))
    collection.upsert([1, 2, 3], np.array([[1], [2], [3]], np.float32), [None] * 3)
    (found,) = collection.search(np.zeros((1, 1), np.float32), limit=3, score_threshold=2.0)
    assert [hit.id for hit in found] == [1, 2]
    store.close()


def test_near_duplicates_far_from_zero_keep_their_order(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    collection = store.create_collection("c", params(2, Distance.EUCLID))
    rows = np.array([[10_000 + step / 100, 0] for step in range(64)], np.float32)
    collection.upsert(list(range(64)), rows, [None] * 64)
    for found in collection.search(np.repeat(rows[:1], 40, axis=0), limit=5):
        assert [hit.id for hit in found] == [0, 1, 2, 3, 4]
    store.close()


def test_cosine_stores_vectors_of_length_one(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    collection = store.create_collection("c", params(2, Distance.COSINE))
    sent = np.array([[3, 4], [3e30, 4e30], [3e-30, 4e-30]], np.float32)
    collection.upsert([1, 2, 3], sent, [None] * 3)
    assert sent[0, 0] == 3, "the caller's array stays as it is"
    for record in collection.retrieve([1, 2, 3]):
        np.testing.assert_allclose(record.vector, [0.6, 0.8], rtol=1e-6)
    store.close()


def test_of_an_id_that_comes_twice_the_last_wins(tmp_path: Path) -> None:
    store, collection = make(tmp_path)
    collection.upsert([1, 2, 1], vectors_of([1, 2, 3]), [{"n": 1}, {"n": 2}, {"n": 3}])
    assert [record.payload for record in collection.retrieve([1, 2])] == [{"n": 3}, {"n": 2}]
    np.testing.assert_array_equal(everything(collection)[1][0], vectors_of([3])[0])
    store.close()


def test_an_id_that_is_deleted_twice_at_once_is_deleted_once(tmp_path: Path) -> None:
    store, collection = make(tmp_path)
    collection.upsert([1, 2, 3], vectors_of([1, 2, 3]), [None] * 3)
    collection.delete(ids=[1, 1, 1])
    assert collection.count() == 2
    store.close()
    store = open_store(tmp_path)
    assert store.collection("c").count() == 2
    store.close()


def test_bad_batches_are_refused_whole(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    collection = store.create_collection("c", params(2, Distance.COSINE))
    good = [1.0, 2.0]
    cases: list[tuple[list[int], list[list[float]], list[dict[str, object] | None], type[Exception], str]] = [
        ([1, 2], [good, [1.0, float("nan")]], [None, None], InvalidVector, "vector 1 .* NaN"),
        ([1, 2], [good, [1.0, float("inf")]], [None, None], InvalidVector, "vector 1 .* float32"),
        ([1, 2], [good, [0.0, 0.0]], [None, None], InvalidVector, "vector 1 .* all zeros"),
        ([1, 2], [[1.0] * 3] * 2, [None, None], DimensionMismatch, "dimension 2, got one of dimension 3"),
        ([1, -2], [good] * 2, [None, None], InvalidPoint, "id -2 is out of range"),
        ([1, 2**64], [good] * 2, [None, None], InvalidPoint, "out of range"),
        ([1, 2], [good] * 2, [None, {"a": object()}], InvalidPoint, "cannot be stored as JSON"),
        ([1, 2], [good], [None, None], InvalidRequest, "2 ids, 1 vectors and 2 payloads"),
        ([1], [good], [], InvalidRequest, "1 ids, 1 vectors and 0 payloads: expected as many of each"),
    ]
    for ids, rows, payloads, error, message in cases:
        with pytest.raises(error, match=message):
            collection.upsert(ids, np.array(rows, np.float32), payloads)
        assert collection.count() == 0
    with pytest.raises(DimensionMismatch):
        collection.search(np.ones((1, 3), np.float32), limit=1)
    store.close()


@pytest.mark.parametrize("dimension", [0, -1, 65_537])
def test_a_dimension_that_cannot_be_one_is_refused(dimension: int) -> None:
    with pytest.raises(InvalidRequest, match="expected a whole number from 1 to 65536"):
        CollectionParams(dimension, Distance.DOT)


def test_a_write_that_runs_out_of_memory_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoMemory:
        def encode(self, _: object) -> bytes:
            raise MemoryError("a batch that is too large")

    store, collection = make(tmp_path)
    collection.upsert([1], vectors_of([1]), [None])
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr("vectorizer_engine.collection.operations._encoder", NoMemory())
        collection.upsert([2, 3], vectors_of([2, 3]), [{"n": 2}] * 2)
    collection.upsert([4], vectors_of([4]), [{"n": 4}])
    expected = {1: (vectors_of([1])[0], {}), 4: (vectors_of([4])[0], {"n": 4})}
    assert_same(everything(collection), expected)
    store.close()


def test_payloads_are_set_overwritten_and_removed(tmp_path: Path) -> None:
    store, collection = make(tmp_path)
    collection.upsert([1, 2, 3], vectors_of([1, 2, 3]), [{"a": 1, "b": 2}] * 3)
    collection.set_payload({"b": 3, "c": [1]}, ids=[1])
    collection.overwrite_payload({"z": 0}, predicate=lambda point, _: point == 2)
    collection.delete_payload(["a", "q"], ids=[3])
    assert [record.payload for record in collection.retrieve([1, 2, 3])] == [
        {"a": 1, "b": 3, "c": [1]},
        {"z": 0},
        {"b": 2},
    ]
    collection.clear_payload(ids=[1, 1])
    assert collection.retrieve([1])[0].payload == {}
    for point, (vector, _) in everything(collection).items():
        np.testing.assert_array_equal(vector, vectors_of([int(str(point))])[0])
    with pytest.raises(PointNotFound, match="no point with id 9"):
        collection.set_payload({"x": 1}, ids=[1, 9])
    assert collection.retrieve([1])[0].payload == {}
    store.close()


LONG = "x" * 512 * 1024


@pytest.mark.parametrize(
    ("before", "change", "most_mib"),
    [
        (LONG, lambda collection, **chosen: collection.set_payload({"n": 1}, **chosen), 40),
        (LONG, lambda collection, **chosen: collection.delete(**chosen), 4),
        ("", lambda collection, **chosen: collection.overwrite_payload({"n": 1, "text": LONG}, **chosen), 40),
        ("", lambda collection, **chosen: collection.set_payload({"n": 1, "text": LONG}, **chosen), 40),
    ],
    ids=["a little set", "deleted", "overwritten by much", "much set"],
)
def test_a_change_of_many_long_payloads_holds_few_of_them_at_a_time(
    tmp_path: Path, before: str, change: Callable[..., int], most_mib: int
) -> None:
    store = open_store(tmp_path, limits=ShardLimits(head_points=100))
    collection = store.create_collection("c", params())
    points = list(range(60))
    for point in points:
        collection.upsert([point], vectors_of([point]), [{"text": before, "odd": point % 2 == 1}])
    tracemalloc.start()
    change(collection, predicate=lambda _, payload: payload["odd"])
    by_ids = collection.scroll(limit=60)[0]
    change(collection, ids=[record.id for record in by_ids])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < most_mib * MiB
    assert all(record.payload.get("n") == 1 for record in collection.scroll(limit=60)[0])
    store.close()


def test_a_change_of_payloads_beside_long_vectors_holds_few_of_them_at_a_time(tmp_path: Path) -> None:
    store = open_store(tmp_path, limits=ShardLimits(head_points=1000))
    collection = store.create_collection("c", params(16_384))
    for start in range(0, 400, 50):
        points = list(range(start, start + 50))
        collection.upsert(points, np.ones((50, 16_384), np.float32), [None] * 50)
    tracemalloc.start()
    collection.set_payload({"n": 1}, predicate=lambda *_: True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * MiB
    assert collection.count(lambda _, payload: payload == {"n": 1}) == 400
    store.close()


def test_a_write_that_changes_nothing_has_the_number_of_the_last_one(tmp_path: Path) -> None:
    store, collection = make(tmp_path)
    number = collection.upsert([1], vectors_of([1]), [None])
    nobody: Callable[..., bool] = lambda *_: False  # noqa: E731
    assert collection.upsert([], vectors_of([]), []) == number
    assert collection.delete(predicate=nobody) == number
    assert collection.delete(ids=[]) == number
    assert collection.set_payload({"a": 1}, predicate=nobody) == number
    assert collection.delete(ids=[1]) == number + 1
    store.close()


def test_scroll_goes_through_integers_then_uuids(tmp_path: Path) -> None:
    store, collection = make(tmp_path)
    ids = [uuid.UUID(int=5), 2**64 - 1, 0, 256, uuid.UUID(int=1 << 120), 255]
    collection.upsert(ids, vectors_of([0] * 6), [None] * 6)
    page, following = collection.scroll(limit=4)
    assert [record.id for record in page] == [0, 255, 256, 2**64 - 1]
    assert following == uuid.UUID(int=5)
    page, following = collection.scroll(start=following, limit=4, predicate=lambda point, _: point != ids[0])
    assert [record.id for record in page] == [uuid.UUID(int=1 << 120)]
    assert following is None
    store.close()


def test_a_write_without_waiting_is_durable_and_soon_visible(tmp_path: Path) -> None:
    store, collection = make(tmp_path)
    for number in range(50):
        collection.upsert([number], vectors_of([number]), [None], wait=False)
    wait_until(lambda: collection.count() == 50)
    store.close()
    store = open_store(tmp_path)
    assert store.collection("c").count() == 50
    store.close()


def test_deletes_alone_do_not_let_the_log_grow(tmp_path: Path) -> None:
    store, collection = make(tmp_path)
    for _ in range(40):
        collection.upsert(list(range(8)), vectors_of(list(range(8))), [None] * 8)
        collection.delete(ids=range(8))
    for _ in range(100):
        collection.delete(ids=range(500, 600))
    wait_until(lambda: settled(collection))
    logs = list(tmp_path.rglob("*.log"))
    assert sum(path.stat().st_size for path in logs) < 4 * SMALL.log_bytes
    assert collection.info().points == 0
    store.close()


def test_merging_gives_back_the_space_of_what_was_deleted(tmp_path: Path) -> None:
    limits = ShardLimits(head_points=500, segment_points=100_000)
    store = open_store(tmp_path, limits=limits)
    collection = store.create_collection("c", params(dimension=64))
    rows = vectors_of(list(range(500)), 64)
    for start in range(0, 5000, 500):
        collection.upsert(list(range(start, start + 500)), rows, [None] * 500)
    collection.upsert([9999], rows[:1], [None])
    wait_until(lambda: settled(collection))
    full = collection.info().disk_bytes
    collection.delete(ids=range(5000))
    for start in range(10_000, 11_500, 500):  # what has heads sealed and merges looked for
        collection.upsert(list(range(start, start + 500)), rows, [None] * 500)
    wait_until(lambda: settled(collection) and collection.info().disk_bytes < full / 2)
    assert collection.count() == 1501
    assert len(list(tmp_path.rglob("vectors.f32"))) <= 4
    store.close()


def test_readers_see_every_point_once_while_it_is_overwritten_sealed_and_merged(tmp_path: Path) -> None:
    store, collection = make(tmp_path)
    ids = list(range(40))
    collection.upsert(ids, vectors_of([0] * 40), [{"round": 0}] * 40)
    stop = threading.Event()
    problems: list[str] = []

    def read() -> None:
        query = vectors_of([7])
        while not stop.is_set():
            (found,) = collection.search(query, limit=100)
            if sorted(hit.id for hit in found) != ids:
                problems.append(f"search saw {len(found)}")
            if len({record.id for record in collection.retrieve(ids)}) != 40:
                problems.append("retrieve missed some")
            page, _ = collection.scroll(limit=100)
            if [record.id for record in page] != ids:
                problems.append("scroll missed some")
            if len({str(record.payload) for record in page}) != 1:
                problems.append("scroll saw half a batch")

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(1, 60):
        collection.upsert(ids, vectors_of([number] * 40), [{"round": number}] * 40)
    stop.set()
    for reader in readers:
        reader.join()
    assert problems == []
    store.close()


def test_many_writers_share_the_fsyncs(tmp_path: Path) -> None:
    class SlowDisk(FailingDisk):
        def sync(self, descriptor: int) -> None:
            time.sleep(0.005)
            super().sync(descriptor)

    disk = SlowDisk()
    store = open_store(tmp_path, files=disk, limits=ShardLimits())
    collection = store.create_collection("c", params())
    disk.calls.clear()

    def write(thread: int) -> None:
        for number in range(20):
            collection.upsert([thread * 100 + number], vectors_of([number]), [None])

    threads = [threading.Thread(target=write, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert collection.count() == 160
    assert disk.calls.count("sync") < 100
    store.close()


def test_a_disk_that_fails_right_after_a_manifest_is_in_its_place_loses_nothing(tmp_path: Path) -> None:
    """What is found at the next start is either manifest, so the segments of both have to be there."""

    class DyingDisk(FailingDisk):
        dies = False

        def sync_folder(self, folder: Path) -> None:
            if self.dies and self.calls[-1] == "rename MANIFEST":
                self.fail_after = 0
            super().sync_folder(folder)

    disk = DyingDisk()
    store = open_store(tmp_path, files=disk)
    collection = store.create_collection("c", params())
    disk.dies = True
    model = {}
    while disk.fail_after is None:
        seed = len(model)
        try:
            collection.upsert([seed], vectors_of([seed]), [{"seed": seed}])
        except StorageFull:
            break
        model[seed] = (vectors_of([seed])[0], {"seed": seed})
    store.close()
    store = open_store(tmp_path)
    assert_same(everything(store.collection("c")), model)
    assert store.collection("c").info().problems == ()
    store.close()


@pytest.mark.parametrize(("number", "error"), [(errno.ENOSPC, StorageFull), (errno.EIO, StorageFailure)])
def test_a_disk_that_fails_at_any_call_loses_nothing_acknowledged(
    tmp_path: Path, number: int, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every writing call fails in turn, the background's too. Reads go on; then writes do, without a restart."""
    monkeypatch.setattr(sealing, "_RETRY_SECONDS", 0.02)
    disk = FailingDisk()
    disk.errno = number
    store = open_store(tmp_path, files=disk)
    collection = store.create_collection("c", params())
    model = {}
    failed = 0
    for moment in range(30):
        disk.fail_after, disk.once = moment, False
        for step in range(12):
            ids = [(moment * 7 + step * 3 + k) % 50 for k in range(3)]
            seeds = [moment * 100 + step * 10 + k for k in range(3)]
            try:
                collection.upsert(ids, vectors_of(seeds), [{"seed": seed} for seed in seeds])
            except error:
                failed += 1
                break
            for point, seed in zip(ids, seeds, strict=True):
                model[point] = (vectors_of([seed])[0], {"seed": seed})
        assert_same(everything(collection), model)
        disk.fail_after = None
        wait_until(lambda: writes_again(collection, error))
        model[1000] = (vectors_of([1000])[0], {})
    assert failed > 15
    store.close()
    store = open_store(tmp_path)
    assert_same(everything(store.collection("c")), model)
    store.close()


def writes_again(collection: Collection, error: type[Exception]) -> bool:
    try:
        collection.upsert([1000], vectors_of([1000]), [None])
    except error:
        return False
    return True


def test_a_batch_that_can_never_fit_is_refused(tmp_path: Path) -> None:
    store = VectorStore.open(tmp_path, memory=CacheMemoryManager(MiB))
    collection = store.create_collection("c", params(1))
    with pytest.raises(CacheMemoryLimitExceeded, match="a batch of 50000 points needs"):
        collection.upsert(list(range(50_000)), np.ones((50_000, 1), np.float32), [None] * 50_000)
    assert collection.count() == 0
    store.close()


def test_writes_wait_for_memory_instead_of_failing(tmp_path: Path) -> None:
    """Heads of several collections, far larger together than the limit."""
    memory = CacheMemoryManager(2 * MiB)
    store = VectorStore.open(tmp_path, memory=memory)
    collections = [store.create_collection(f"c{number}", params()) for number in range(4)]
    rows = vectors_of(list(range(1000)))
    for step in range(6):
        for collection in collections:
            collection.upsert(list(range(step * 1000, step * 1000 + 1000)), rows, [{"n": 1}] * 1000)
    assert [collection.count() for collection in collections] == [6000] * 4
    assert memory.snapshot().peak <= 2 * MiB
    store.close()
    assert memory.snapshot().used == 0


FILES = ["vectors.f32", "points.lmdb", "CHECKSUMS"]


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_sets_one_segment_aside_and_the_rest_is_served(tmp_path: Path, name: str) -> None:
    store, collection = make(tmp_path, limits=ShardLimits(head_points=8, segment_points=8))
    for start in range(0, 24, 8):
        collection.upsert(list(range(start, start + 8)), vectors_of(list(range(8))), [None] * 8)
    collection.upsert([99], vectors_of([1]), [None])
    wait_until(lambda: len(list(tmp_path.rglob("vectors.f32"))) == 3 and settled(collection))
    store.close()
    damaged = sorted(tmp_path.rglob(name))[1]
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 4
    damaged.write_bytes(data)
    for _ in range(2):
        store = open_store(tmp_path)
        collection = store.collection("c")
        info = collection.info()
        assert info.status is CollectionStatus.RED
        assert len(info.problems) == 1
        assert f"{name} fails its checksum" in info.problems[0]
        assert everything(collection).keys() == {*range(8), *range(16, 24), 99}
        store.close()
    assert len(list(tmp_path.rglob(f"quarantine/*/{name}"))) == 1


def test_a_log_that_lost_acknowledged_records_is_refused(tmp_path: Path) -> None:
    store, collection = make(tmp_path, limits=ShardLimits(head_points=8))
    collection.upsert(list(range(8)), vectors_of(list(range(8))), [None] * 8)
    collection.upsert([8], vectors_of([8]), [None])
    wait_until(lambda: bool(list(tmp_path.rglob("vectors.f32"))) and settled(collection))
    store.close()
    for log in tmp_path.rglob("*.log"):
        log.unlink()
    store = open_store(tmp_path)
    assert "acknowledged records are missing" in store.damaged["c"]
    store.close()
