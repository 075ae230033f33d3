"""Indexes that are built once, whatever becomes of the volume: the shared store has them, and nobody waits for it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from tests.engine.collection.model import MiB
from tests.engine.collection.test_collection import wait_until
from tests.engine.collection.test_indexing import COUNT, DIMENSION, LIMITS, fill, indexed, recall
from tests.engine.index.samples import clustered
from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.collection import index_uploads
from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.payload_indexes import PayloadIndexes
from vectorizer_engine.collection.store import VectorStore
from vectorizer_engine.config import ObjectStoreConfig
from vectorizer_engine.index.backends import BACKENDS
from vectorizer_engine.index.planner import SegmentLayout
from vectorizer_engine.storage.folder_store import FolderStore
from vectorizer_engine.storage.object_store import Refused
from vectorizer_engine.storage.payload_index import FieldType

UPLOAD = FolderStore.upload


def open_at(folder: Path, objects: Path) -> VectorStore:
    return VectorStore.open(
        folder,
        memory=CacheMemoryManager(64 * MiB),
        limits=LIMITS,
        object_store=ObjectStoreConfig(url=f"file://{objects}"),
    )


def indexes_in(objects: Path) -> set[str]:
    """The segments of which the store has an index of their vectors."""
    return {path.parent.name for path in objects.glob("collections/*/*/segments/*/index.*")}


def kept(collection: Collection, objects: Path) -> bool:
    """Whether all is indexed, and the store has it."""
    if not indexed(collection):
        return False
    segments = [segment for segment, _ in collection._shard.view.segments() if segment.index is not None]
    return {f"{segment.id:08d}" for segment in segments} <= {name[:8] for name in indexes_in(objects)}


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    """A store with a collection of which all is indexed, vectors and payloads."""
    objects = tmp_path / "objects"
    store = open_at(tmp_path / "first", objects)
    collection = fill(store)
    wait_until(lambda: indexed(collection))
    collection.create_payload_index("even", FieldType.BOOL)
    wait_until(lambda: kept(collection, objects) and list(objects.rglob("*.payload-index.*")) != [])
    store.close()
    return objects


def test_a_start_with_an_empty_volume_builds_nothing_and_has_every_index_at_once(
    tmp_path: Path, objects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("an index is built")

    backend = BACKENDS[SegmentLayout.HNSW_SQ8]._replace(build=refuse)
    monkeypatch.setitem(BACKENDS, SegmentLayout.HNSW_SQ8, backend)
    monkeypatch.setattr(PayloadIndexes, "_write", refuse)
    store = open_at(tmp_path / "empty", objects)
    collection = store.collection("c")
    assert {layout.layout for layout in collection.info().layouts} == {"hnsw-sq8"}
    assert collection.payload_schema()["even"].points == COUNT
    assert not [segment for segment, _ in collection._shard.view.segments() if not segment.fields]
    assert recall(collection) >= 0.97
    store.close()


def test_an_index_that_was_not_put_before_the_end_is_put_after_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = tmp_path / "objects"
    with monkeypatch.context() as patch:
        patch.setattr(FolderStore, "upload", without_indexes(Refused("no permission")))
        store = open_at(tmp_path / "volume", objects)
        collection = fill(store)
        wait_until(lambda: indexed(collection))
        store.close()
        assert not indexes_in(objects)
    store = open_at(tmp_path / "volume", objects)
    wait_until(lambda: kept(store.collection("c"), objects))
    store.close()


def without_indexes(error: OSError, *, failed: threading.Event | None = None) -> Any:
    def upload(store: FolderStore, name: str, file: Path) -> None:
        if "/index." in name:
            if failed is not None:
                failed.set()
            raise error
        UPLOAD(store, name, file)

    return upload


def test_an_upload_that_fails_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_uploads, "AGAIN_SECONDS", 0.05)
    monkeypatch.setattr("vectorizer_engine.storage.object_store._FIRST_PAUSE", 1000.0)
    failed = threading.Event()
    objects = tmp_path / "objects"
    with monkeypatch.context() as patch:
        patch.setattr(FolderStore, "upload", without_indexes(OSError("unavailable"), failed=failed))
        store = open_at(tmp_path / "volume", objects)
        collection = fill(store)
        assert failed.wait(60)
        assert not indexes_in(objects)
    wait_until(lambda: kept(collection, objects))
    store.close()


def test_writes_go_on_and_heads_are_sealed_while_an_upload_of_an_index_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def upload(store: FolderStore, name: str, file: Path) -> None:
        if "/index." in name:
            begun.set()
            assert may_end.wait(60)
        UPLOAD(store, name, file)

    monkeypatch.setattr(FolderStore, "upload", upload)
    objects = tmp_path / "objects"
    store = open_at(tmp_path / "volume", objects)
    collection = fill(store)
    assert begun.wait(60)
    before = len(list(objects.glob("collections/*/*/segments/*/CHECKSUMS")))
    rows = clustered(LIMITS.head_points, DIMENSION)
    for first in range(COUNT, COUNT + 3 * len(rows), len(rows)):
        collection.upsert(range(first, first + len(rows)), rows, [None] * len(rows))
    wait_until(lambda: indexed(collection) and collection.info().segments == 1)
    assert len(list(objects.glob("collections/*/*/segments/*/CHECKSUMS"))) > before
    assert not indexes_in(objects)
    may_end.set()
    wait_until(lambda: kept(collection, objects))
    store.close()
