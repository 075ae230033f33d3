"""Memory storage of standalone mode: vectors of sealed segments on the heap, everything else as always."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from click.testing import CliRunner
from qdrant_client import QdrantClient, models

from tests.engine.collection.model import MiB, assert_same, everything, params, vectors_of
from tests.engine.collection.test_collection import settled, wait_until
from tests.engine.fixtures import EngineProcess, StartEngine
from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.cli import main
from vectorizer_engine.collection.environment import ShardLimits
from vectorizer_engine.collection.store import VectorStore
from vectorizer_engine.collection.types import CollectionParams, Distance, StorageType
from vectorizer_engine.errors import ClusterConfigViolation, StorageFailure
from vectorizer_engine.storage.checked_text import encode_checked

DIMENSION = 64


ASKED: dict[str, dict[str, Any]] = {
    "unset": {},
    "mapped": {"on_disk": True},
    "heap": {"on_disk": False},
    "cold": {"memory": "cold"},
    "pinned": {"memory": "pinned"},
}


@pytest.mark.parametrize(
    ("configured", "on_heap"), [("mmap", {"heap", "pinned"}), ("memory", {"unset", "heap", "pinned"})]
)
def test_a_collection_is_stored_as_it_asks_and_else_as_configured(
    make_engine: StartEngine, configured: str, on_heap: set[str]
) -> None:
    engine = make_engine({"storage": {"type": configured}}).start()
    with engine.http() as http:
        for name, vectors in ASKED.items():
            body = {"vectors": {"size": 4, "distance": "Dot", **vectors}}
            http.put(f"/collections/{name}", json=body).raise_for_status()
            assert on_disk(http, name) is (name not in on_heap)
        for name in ASKED:
            mapped = name not in on_heap
            same = http.patch(f"/collections/{name}", json={"vectors": {"": {"on_disk": mapped}}})
            assert same.status_code == 200
            other = http.patch(f"/collections/{name}", json={"vectors": {"": {"on_disk": not mapped}}})
            assert other.status_code == 400
            assert "which an update cannot change" in other.json()["status"]["error"]
    engine.kill()
    checked = CliRunner().invoke(main, ["check-data", str(engine.data)])
    for name in ASKED:
        storage = "memory" if name in on_heap else "mmap"
        assert f"{name}: dimension 4, Dot, {storage} storage\n" in checked.stdout


def on_disk(http: httpx.Client, name: str) -> bool:
    vectors = http.get(f"/collections/{name}").json()["result"]["config"]["params"]["vectors"]
    shown: bool = vectors["on_disk"]
    return shown


def test_what_is_in_memory_storage_survives_a_kill_and_is_shown_apart_from_the_ledger(
    make_engine: StartEngine,
) -> None:
    engine = make_engine({"cluster": {"max_cache_memory_bytes": "64Mi"}}).start()
    rows = np.random.default_rng(0).standard_normal((20_000, DIMENSION), np.float32)
    client = engine.client()
    client.create_collection(
        "c", models.VectorParams(size=DIMENSION, distance=models.Distance.DOT, on_disk=False)
    )
    for start in range(0, len(rows), 2000):
        batch = rows[start : start + 2000]
        client.upsert(
            "c", models.Batch(ids=list(range(start, start + len(batch))), vectors=batch.tolist()), wait=True
        )
    engine.wait_until(lambda: is_settled(client) and memory_storage(engine) > 0, "sealing")
    answers = nearest(client, rows)

    engine.kill()
    engine.start()
    engine.wait_until(lambda: is_settled(client), "settled")

    assert client.count("c").count == len(rows)
    assert nearest(client, rows) == answers
    sealed = memory_storage(engine)
    assert sealed % (4 * DIMENSION) == 0
    assert 0 < sealed <= rows.nbytes
    with engine.http() as http:
        memory = http.get("/cluster/memory").json()["result"]
        (metric,) = re.findall(r"^vectorizer_memory_storage_bytes (\S+)$", http.get("/metrics").text, re.M)
    assert float(metric) == sealed
    assert memory["anonymous_rss_bytes"] >= sealed
    assert memory["ledger"]["used_bytes"] < sealed


def is_settled(client: QdrantClient) -> bool:
    return client.get_collection("c").status == models.CollectionStatus.GREEN


def memory_storage(engine: EngineProcess) -> int:
    with engine.http() as http:
        nbytes: int = http.get("/cluster/memory").json()["result"]["memory_storage_bytes"]
        return nbytes


def nearest(client: QdrantClient, rows: np.ndarray) -> list[list[int | str]]:
    exact = models.SearchParams(exact=True)
    return [
        [hit.id for hit in client.query_points("c", query=row.tolist(), limit=5, search_params=exact).points]
        for row in rows[::4000]
    ]


def store_in(folder: Path, **options: Any) -> VectorStore:
    limits = ShardLimits(head_points=100)
    return VectorStore.open(folder, memory=CacheMemoryManager(16 * MiB), limits=limits, **options)


def test_both_storages_have_the_same_files_and_give_the_same_points(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    seeds = list(range(450))
    found = []
    for storage in StorageType:
        collection = store.create_collection(storage, CollectionParams(4, Distance.DOT, storage))
        for start in range(0, len(seeds), 50):
            batch = seeds[start : start + 50]
            collection.upsert(batch, vectors_of(batch), [{"n": seed} for seed in batch])
        collection.delete(ids=[3, 5])
        wait_until(lambda collection=collection: settled(collection))
        found.append(everything(collection))
    assert store.collection("mmap").heap_vector_bytes == 0
    assert store.collection("memory").heap_vector_bytes > 0
    assert_same(*found)
    store.close()
    kinds = [
        {path.name for path in tmp_path.glob(f"collections/{storage}.*/shard-0/segments/*/*")}
        for storage in StorageType
    ]
    assert kinds[0] == kinds[1] >= {"vectors.f32", "points.lmdb", "CHECKSUMS"}
    with pytest.raises(ClusterConfigViolation, match="collection 'memory'"):
        store_in(tmp_path, mmap_only=True)
    store_in(tmp_path).close()


def test_a_store_of_a_cluster_makes_no_collection_in_memory_storage(tmp_path: Path) -> None:
    store = store_in(tmp_path, mmap_only=True)
    with pytest.raises(ClusterConfigViolation, match=r"CLUSTER_001.*create collection 'c' with mmap storage"):
        store.create_collection("c", CollectionParams(4, Distance.DOT, StorageType.MEMORY))
    assert store.collections() == []
    store.close()


def test_a_collection_from_before_there_was_a_choice_is_mapped(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.create_collection("c", params())
    store.close()
    (description,) = tmp_path.glob("collections/c.*/collection.json")
    description.write_bytes(encode_checked(b'{"name":"c","params":{"dimension":4,"distance":"Dot"}}'))
    store = store_in(tmp_path, mmap_only=True)
    assert store.collection("c").params.storage is StorageType.MMAP
    store.close()


def test_vectors_for_which_there_is_no_memory_are_refused_with_their_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_in(tmp_path)
    collection = store.create_collection("c", CollectionParams(4, Distance.DOT, StorageType.MEMORY))
    for start in (0, 60):
        batch = list(range(start, start + 60))
        collection.upsert(batch, vectors_of(batch), [None] * 60)
    wait_until(lambda: settled(collection) and collection.heap_vector_bytes > 0)
    store.close()

    def no_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("vectorizer_engine.storage.segment.np.empty", no_memory)
    with pytest.raises(StorageFailure, match=r"no memory for \d+ bytes of vectors"):
        store_in(tmp_path)
