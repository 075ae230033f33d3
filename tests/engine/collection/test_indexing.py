"""Indexes of sealed segments: built behind the writes, opened again, built again when they are lost."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.collection.model import MiB, params
from tests.engine.collection.test_collection import settled, wait_until
from tests.engine.disks import FailingDisk
from tests.engine.index.samples import clustered
from vectorizer_engine.cache.memory_manager import CacheMemoryManager, CacheType, Charge
from vectorizer_engine.collection import compaction
from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.environment import ShardLimits
from vectorizer_engine.collection.indexing import SegmentIndexes
from vectorizer_engine.collection.maintenance import Maintenance
from vectorizer_engine.collection.store import VectorStore
from vectorizer_engine.collection.types import Distance
from vectorizer_engine.index import quantized
from vectorizer_engine.index.backends import BACKENDS
from vectorizer_engine.index.planner import SegmentLayout
from vectorizer_engine.storage.files import Files

COUNT, DIMENSION = 4950, 24
LIMITS = ShardLimits(head_points=1100, quiet_seconds=0.2)
"""Four heads make a segment of 4,400 points, which is worth an index."""


def open_at(
    path: Path, *, memory: CacheMemoryManager | None = None, files: Files | None = None
) -> VectorStore:
    return VectorStore.open(path, memory=memory or CacheMemoryManager(64 * MiB), files=files, limits=LIMITS)


def fill(store: VectorStore, distance: Distance = Distance.COSINE, *, batch: int = 550) -> Collection:
    collection = store.create_collection("c", params(DIMENSION, distance))
    rows = clustered(COUNT, DIMENSION)
    for start in range(0, COUNT, batch):
        ids = list(range(start, min(start + batch, COUNT)))
        collection.upsert(ids, rows[start : start + batch], [{"even": point % 2 == 0} for point in ids])
    return collection


def indexed(collection: Collection) -> bool:
    return settled(collection) and collection.info().indexed_vectors >= 4400


def recall(collection: Collection, *, ef: int | None = None) -> float:
    queries = clustered(50, DIMENSION, seed=0) + np.float32(0.05)
    found = collection.search(queries, limit=10, ef=ef)
    true = collection.search(queries, limit=10, exact=True)
    return float(
        np.mean([len({h.id for h in a} & {h.id for h in b}) / 10 for a, b in zip(found, true, strict=True)])
    )


def test_at_rest_a_collection_becomes_one_indexed_segment_and_was_yellow_until_then(tmp_path: Path) -> None:
    store = open_at(tmp_path)
    collection = fill(store)
    assert not settled(collection)
    wait_until(lambda: settled(collection))
    info = collection.info()
    assert (info.segments, info.indexed_vectors) == (1, COUNT)
    assert recall(collection) >= 0.97
    rows = clustered(COUNT, DIMENSION)
    collection.upsert(range(COUNT, COUNT + 255), rows[:255], [None] * 255)
    assert settled(collection), "a head that is small enough stays"
    collection.delete(ids=range(COUNT // 2))
    assert not settled(collection), "a segment that lost much is written again"
    wait_until(lambda: settled(collection))
    assert sorted(part.rows for part in collection._shard.view.parts) == [255, COUNT - COUNT // 2]
    store.close()


def test_what_is_loaded_in_one_go_is_indexed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four heads, which are merged while writes go on, and what comes behind them and is merged with them at rest."""
    built: list[int] = []

    def build(path: Path, vectors: Any, *arguments: Any, **options: Any) -> None:
        built.append(len(vectors))
        quantized.build(path, vectors, *arguments, **options)

    backend = BACKENDS[SegmentLayout.HNSW_SQ8]._replace(build=build)
    monkeypatch.setitem(BACKENDS, SegmentLayout.HNSW_SQ8, backend)
    limits = ShardLimits(head_points=1100, quiet_seconds=3.0)
    store = VectorStore.open(tmp_path, memory=CacheMemoryManager(64 * MiB), limits=limits)
    collection = fill(store)
    wait_until(lambda: settled(collection))
    assert built == [COUNT]
    store.close()


def test_a_merged_segment_is_indexed_when_the_next_head_is_full_though_writes_go_on(tmp_path: Path) -> None:
    limits = ShardLimits(head_points=1100, quiet_seconds=3600.0)
    store = VectorStore.open(tmp_path, memory=CacheMemoryManager(64 * MiB), limits=limits)
    collection = fill(store)
    wait_until(lambda: [part.rows for part in collection._shard.view.parts] == [4400, 550])
    assert collection.info().indexed_vectors == 0
    rows = clustered(COUNT, DIMENSION)
    collection.upsert(range(COUNT, COUNT + 600), rows[:600], [None] * 600)
    wait_until(lambda: collection.info().indexed_vectors == 4400)
    store.close()


def test_searches_have_an_index_while_a_merge_of_indexed_segments_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_at(tmp_path)
    collection = fill(store)
    wait_until(lambda: settled(collection))
    seen: list[int] = []

    def build(*arguments: Any, **options: Any) -> None:
        quantized.build(*arguments, **options)
        seen.append(collection.info().indexed_vectors)

    backend = BACKENDS[SegmentLayout.HNSW_SQ8]._replace(build=build)
    monkeypatch.setitem(BACKENDS, SegmentLayout.HNSW_SQ8, backend)
    rows = clustered(COUNT, DIMENSION)
    collection.upsert(range(COUNT, 2 * COUNT), rows, [None] * COUNT)
    wait_until(lambda: settled(collection))
    assert collection.info().indexed_vectors == 2 * COUNT
    assert min(seen) >= COUNT
    store.close()


def test_small_segments_are_indexed_though_writes_go_on_when_no_more_segments_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vectorizer_engine.collection.compaction._SETTLED_SECONDS", 0.5)
    limits = ShardLimits(head_points=4400, quiet_seconds=0.3)
    store = VectorStore.open(tmp_path, memory=CacheMemoryManager(64 * MiB), limits=limits)
    collection = fill(store)
    row = clustered(1, DIMENSION)

    def is_indexed() -> bool:
        collection.upsert([COUNT], row, [None])
        return collection.info().indexed_vectors >= 4400

    wait_until(is_indexed)
    store.close()


def test_a_merged_segment_is_indexed_and_found_again_after_a_restart(tmp_path: Path) -> None:
    memory = CacheMemoryManager(64 * MiB)
    store = open_at(tmp_path, memory=memory)
    collection = fill(store)
    wait_until(lambda: indexed(collection))
    (layout,) = collection.info().layouts
    assert layout.layout == "hnsw-sq8"
    assert "fits into the memory" in layout.reason
    assert recall(collection) >= 0.97
    assert memory.snapshot().by_cache[CacheType.HNSW] > 0
    store.close()
    assert memory.snapshot().used == 0
    (file,) = tmp_path.rglob("index.hnsw-sq8")
    written = file.stat().st_mtime_ns
    store = open_at(tmp_path)
    collection = store.collection("c")
    assert collection.info().indexed_vectors >= 4400
    assert recall(collection) >= 0.97
    assert file.stat().st_mtime_ns == written
    store.close()


def test_deletes_and_overwrites_are_exact_at_once_under_an_index(tmp_path: Path) -> None:
    store = open_at(tmp_path)
    collection = fill(store)
    wait_until(lambda: indexed(collection))
    query = clustered(COUNT, DIMENSION)[:1]
    (before,) = collection.search(query, limit=5)
    assert before[0].id == 0
    collection.delete(ids=[0])
    collection.upsert([before[1].id], -query, [None])
    (after,) = collection.search(query, limit=5)
    assert not {hit.id for hit in after} & {0, before[1].id}
    (filtered,) = collection.search(query, limit=20, predicate=lambda _, payload: payload.get("even") is True)
    assert len(filtered) == 20
    assert all(isinstance(hit.id, int) and hit.id % 2 == 0 for hit in filtered)
    store.close()


def test_a_damaged_index_file_is_built_again(tmp_path: Path) -> None:
    store = open_at(tmp_path)
    collection = fill(store)
    wait_until(lambda: indexed(collection))
    store.close()
    (file,) = tmp_path.rglob("index.hnsw-sq8")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    file.with_name("index.hnsw-sq8.unfinished").write_bytes(b"left by a crash")
    store = open_at(tmp_path)
    collection = store.collection("c")
    assert collection.info().problems == ()
    wait_until(lambda: indexed(collection))
    assert recall(collection) >= 0.97
    assert not list(tmp_path.rglob("*.unfinished"))
    store.close()


@pytest.mark.parametrize("call", ["create", "write", "rename"])
def test_an_index_that_cannot_be_written_leaves_exact_search(tmp_path: Path, call: str) -> None:
    class NoIndex(FailingDisk):
        def create(self, path: Path) -> int:
            if call == "create" and "index" in path.name:
                raise OSError(28, "No space left on device")
            descriptor = super().create(path)
            self.index = descriptor if "index" in path.name else None
            return descriptor

        def write(self, descriptor: int, data: bytes | memoryview, position: int) -> None:
            if call == "write" and descriptor == self.index:
                raise OSError(28, "No space left on device")
            super().write(descriptor, data, position)

        def rename(self, source: Path, target: Path) -> None:
            if call == "rename" and "index" in target.name:
                raise OSError(28, "No space left on device")
            super().rename(source, target)

    store = open_at(tmp_path, files=NoIndex())
    collection = fill(store)
    wait_until(lambda: settled(collection) and len(collection.info().layouts) == 1)
    info = collection.info()
    assert info.indexed_vectors == 0
    assert info.layouts[0].reason == "hnsw-sq8 is not built yet"
    assert recall(collection) == 1
    assert not list(tmp_path.rglob("index*"))
    store.close()


def test_a_limit_too_small_for_an_index_leaves_exact_search_and_says_why(tmp_path: Path) -> None:
    memory = CacheMemoryManager(3 * MiB)
    store = open_at(tmp_path, memory=memory)
    collection = fill(store)
    wait_until(lambda: settled(collection) and collection.info().segments <= 3)
    assert collection.count() == COUNT
    assert recall(collection) >= 0.97
    for layout in collection.info().layouts:
        assert layout.layout in {"exact", "hnsw-sq8", "ivf-rabitq"}
        assert layout.reason
    assert memory.snapshot().peak <= 3 * MiB
    store.close()


@pytest.mark.parametrize("gives_back", [True, False])
def test_a_segment_whose_memory_went_to_somebody_quicker_is_indexed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gives_back: bool
) -> None:
    """*gives_back*: at once, so that there seems to be enough all the time."""
    monkeypatch.setattr(compaction, "_SHORT_OF_MEMORY_SECONDS", 0.1)
    memory = CacheMemoryManager(64 * MiB)
    rival: list[Charge] = []
    refused = threading.Event()
    reserve = memory.reserve

    def reserve_after_the_rival(cache: CacheType, nbytes: int, **options: Any) -> Charge | None:
        if cache is not CacheType.HNSW or refused.is_set():
            return reserve(cache, nbytes, **options)
        taken = reserve(CacheType.METADATA, memory.available(keep=CacheType.HNSW))
        assert taken is not None
        rival.append(taken)
        assert reserve(cache, nbytes, **options) is None
        refused.set()
        if gives_back:
            taken.release()
        return None

    monkeypatch.setattr(memory, "reserve", reserve_after_the_rival)
    store = open_at(tmp_path, memory=memory)
    collection = fill(store)
    assert refused.wait(20)
    if not gives_back:
        wait_until(lambda: "are free now" in collection.info().layouts[0].reason)
        rival[0].release()
    wait_until(lambda: indexed(collection))
    assert memory.snapshot().peak <= 64 * MiB
    store.close()
    assert memory.snapshot().used == 0


def test_manhattan_is_served_exactly_and_says_so(tmp_path: Path) -> None:
    store = open_at(tmp_path)
    # At once: what comes in parts is left in parts on a busy machine, as no index is gained by merging it.
    collection = fill(store, Distance.MANHATTAN, batch=COUNT)
    wait_until(lambda: settled(collection) and collection.info().layouts)
    largest = max(collection.info().layouts)
    assert largest.layout == "exact"
    assert "Manhattan" in largest.reason
    assert recall(collection) == 1
    store.close()


def test_an_index_that_is_ready_after_the_end_holds_nothing(tmp_path: Path) -> None:
    store = open_at(tmp_path)
    collection = fill(store)
    wait_until(lambda: indexed(collection))
    segment = max((segment for segment, _ in collection._shard.view.segments()), key=lambda s: s.count)
    memory = CacheMemoryManager(64 * MiB)
    indexes = SegmentIndexes(
        Distance.COSINE, memory=memory, files=Files(), maintenance=Maintenance(), rebuild=lambda: None
    )
    indexes.close()
    assert not indexes.build(segment, still_wanted=lambda: True)
    assert memory.snapshot().used == 0
    store.close()


def test_a_build_that_outlasts_the_stop_is_thrown_away_and_done_after_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, stopped = threading.Event(), threading.Event()
    builders: list[threading.Thread] = []

    def build(path: Path, *arguments: Any, **options: Any) -> None:
        builders.append(threading.current_thread())
        begun.set()
        assert stopped.wait(20)
        quantized.build(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr("vectorizer_engine.collection.maintenance.STOP_SECONDS", 0.1)
        backend = BACKENDS[SegmentLayout.HNSW_SQ8]._replace(build=build)
        patch.setitem(BACKENDS, SegmentLayout.HNSW_SQ8, backend)
        store = open_at(tmp_path)
        fill(store)
        assert begun.wait(20)
        store.close()
        assert builders[0].is_alive()
        stopped.set()
        builders[0].join(20)
    assert not list(tmp_path.rglob("index*"))
    store = open_at(tmp_path)
    collection = store.collection("c")
    assert collection.count() == COUNT
    wait_until(lambda: indexed(collection))
    store.close()


def test_a_collection_that_is_deleted_while_it_is_indexed_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()

    def build(*arguments: Any, **options: Any) -> None:
        begun.set()
        quantized.build(*arguments, **options)

    backend = BACKENDS[SegmentLayout.HNSW_SQ8]._replace(build=build)
    monkeypatch.setitem(BACKENDS, SegmentLayout.HNSW_SQ8, backend)
    memory = CacheMemoryManager(64 * MiB)
    store = open_at(tmp_path, memory=memory)
    fill(store)
    assert begun.wait(20)
    store.delete_collection("c")
    wait_until(lambda: memory.snapshot().used == 0)
    assert list((tmp_path / "collections").iterdir()) == []
    store.close()
