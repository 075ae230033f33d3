"""Collections through the real client, and the door of CLUSTER_001 that creating one is."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

VECTORS = {"size": 4, "distance": "Cosine"}


@pytest.mark.parametrize("distance", list(models.Distance))
def test_a_collection_is_created_described_listed_and_deleted(
    client: QdrantClient, distance: models.Distance
) -> None:
    name = f"distance {distance.value} %ü"
    params = models.VectorParams(size=4, distance=distance, on_disk=True)

    assert client.create_collection(name, vectors_config=params, on_disk_payload=True)

    info = client.get_collection(name)
    assert info.status == models.CollectionStatus.GREEN
    assert info.points_count == 0
    assert info.config.params.vectors == params
    assert name in [collection.name for collection in client.get_collections().collections]
    assert client.collection_exists(name)
    assert client.delete_collection(name)
    assert not client.collection_exists(name)
    assert not client.delete_collection(name)


def test_what_changes_nothing_may_be_updated(client: QdrantClient) -> None:
    client.create_collection("update", models.VectorParams(size=4, distance=models.Distance.DOT))
    assert client.update_collection("update", vectors_config={"": models.VectorParamsDiff(on_disk=True)})


def test_an_existing_collection_is_not_created_again(client: QdrantClient) -> None:
    params = models.VectorParams(size=4, distance=models.Distance.DOT)
    client.create_collection("twice", params)
    with pytest.raises(UnexpectedResponse) as refusal:
        client.create_collection("twice", params)
    assert refusal.value.status_code == 409
    assert b"'twice' already exists" in refusal.value.content


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({}, 400, "vectors is missing"),
        ({"vectors": 7}, 400, "vectors: Expected `object`, got `int`"),
        ({"vectors": {}}, 400, "vectors: Object missing required field `size`"),
        ({"vectors": {"size": "4", "distance": "Cosine"}}, 400, "vectors.size: Expected `int`, got `str`"),
        ({"vectors": {"size": 0, "distance": "Cosine"}}, 422, "vectors.size: value 0 invalid"),
        ({"vectors": {"size": 65_537, "distance": "Cosine"}}, 422, "must be from 1 to 65536"),
        ({"vectors": {"size": 4, "distance": "Hamming"}}, 400, "expected Cosine, Dot, Euclid, Manhattan"),
        ({"vectors": {"a": VECTORS, "b": VECTORS}}, 400, "found 2 named vectors ('a', 'b')"),
        ({"vectors": {"a": {"size": 4}}}, 400, "vectors.a: Object missing required field `distance`"),
        ({"vectors": VECTORS, "sparse_vectors": {"s": {}}}, 400, "sparse_vectors: not supported"),
        ({"vectors": VECTORS | {"multivector_config": {}}}, 400, "vectors.multivector_config is not"),
        ({"vectors": VECTORS | {"datatype": "uint8"}}, 400, "vectors.datatype: 'uint8' is not supported"),
        ({"vectors": VECTORS | {"memory": "hot"}}, 400, "vectors.memory: 'hot' is not known"),
        ({"vectors": VECTORS | {"colour": 1}}, 400, "not known or not supported: the field `colour`"),
        ({"vectors": VECTORS, "shard_number": 2}, 400, "shard_number is 2: an engine that serves alone"),
        ({"vectors": VECTORS, "on_disk_payload": False}, 400, "payloads are always kept on disk"),
        ({"vectors": VECTORS, "strict_mode_config": {}}, 400, "strict_mode_config is not supported"),
        ({"vectors": VECTORS | {"on_disk": True, "memory": "pinned"}}, 400, "contradict each other"),
    ],
)
def test_what_a_collection_cannot_be_is_refused_by_name(
    http: httpx.Client, body: dict[str, Any], status: int, says: str
) -> None:
    answer = http.put("/collections/refused", json=body)
    assert answer.status_code == status
    assert says in answer.json()["status"]["error"]
    assert http.get("/collections/refused/exists").json()["result"] == {"exists": False}


@pytest.mark.parametrize("name", ["..%2Fescape", "%00", "a" * 300])
def test_a_name_that_cannot_be_a_collections_is_refused(http: httpx.Client, name: str) -> None:
    answer = http.put(f"/collections/{name}", json={"vectors": VECTORS})
    assert answer.status_code == 400
    assert "name" in answer.json()["status"]["error"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"vectors": {"a": {}}}, "has no vector 'a'"),
        ({"sparse_vectors": {"a": {}}}, "sparse_vectors: not supported"),
        ({"vectors": {"": {"on_disk": False}}}, "in mmap storage, which an update cannot change"),
        ({"strict_mode_config": {"enabled": True}}, "strict_mode_config is not supported"),
    ],
)
def test_an_update_that_would_do_nothing_is_refused(
    client: QdrantClient, http: httpx.Client, body: dict[str, Any], says: str
) -> None:
    if not client.collection_exists("patched"):
        client.create_collection("patched", models.VectorParams(size=4, distance=models.Distance.DOT))
    answer = http.patch("/collections/patched", json=body)
    assert answer.status_code == 400
    assert says in answer.json()["status"]["error"]


def test_unknown_collections_are_404_everywhere(client: QdrantClient, http: httpx.Client) -> None:
    for attempt in (
        lambda: client.get_collection("nowhere"),
        lambda: client.upsert("nowhere", [models.PointStruct(id=1, vector=[1.0])]),
        lambda: client.query_points("nowhere", query=[1.0]),
        lambda: client.count("nowhere"),
        lambda: client.scroll("nowhere"),
        lambda: client.update_collection("nowhere"),
    ):
        with pytest.raises(UnexpectedResponse) as refusal:
            attempt()
        assert refusal.value.status_code == 404
        assert b"'nowhere' does not exist" in refusal.value.content
