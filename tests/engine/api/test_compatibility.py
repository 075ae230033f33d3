"""What clients and the frameworks on top of them send by default, and what scripts written for Qdrant set."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from qdrant_client import QdrantClient, models

from tests.engine.fixtures import EngineProcess

SIZE = models.VectorParams(size=2, distance=models.Distance.DOT)


@pytest.mark.parametrize("name", ["", "text-dense"])
def test_the_one_vector_of_each_point_may_have_a_name(
    client: QdrantClient, engine: EngineProcess, name: str
) -> None:
    collection = f"named-{name}"
    client.create_collection(collection, {name: SIZE}, sparse_vectors_config={})
    client.upsert(
        collection, [models.PointStruct(id=n, vector={name: [n, 1]}, payload={"n": n}) for n in (1, 2)]
    )
    client.upsert(collection, models.Batch(ids=[3], vectors={name: [[3, 1]]}, payloads=[{"n": 3}]))
    hits = client.query_points(collection, query=[1, 0], using=name, limit=2, with_vectors=True).points
    expected: Any = {name: [3, 1]} if name else [3, 1]
    assert [hit.id for hit in hits] == [3, 2]
    assert hits[0].vector == expected
    [record] = client.retrieve(collection, [3], with_vectors=[name])
    assert record.vector == expected
    assert client.retrieve(collection, [3], with_vectors=[])[0].vector is None
    assert client.scroll(collection, limit=1, offset=3, with_vectors=True)[0][0].vector == expected
    [[first]] = [
        answer.points
        for answer in client.query_batch_points(
            collection, [models.QueryRequest(query=1, using=name, limit=1)]
        )
    ]
    assert first.id == 3
    with engine.http() as http:
        body = {"vector": {"name": name, "vector": [1, 0]}, "limit": 1}
        assert http.post(f"/collections/{collection}/points/search", json=body).json()["result"][0]["id"] == 3
    vectors = client.get_collection(collection).config.params.vectors
    params = vectors[name] if isinstance(vectors, dict) else vectors
    assert isinstance(vectors, dict) == bool(name)
    assert params is not None
    assert (params.size, params.distance) == (2, models.Distance.DOT)
    client.update_collection(collection, vectors_config={name: models.VectorParamsDiff(on_disk=True)})


def test_a_vector_name_survives_a_restart(client: QdrantClient, make_engine: Any) -> None:
    engine = make_engine().start()
    with engine.http() as http:
        http.put("/collections/kept", json={"vectors": {"a": {"size": 1, "distance": "Dot"}}})
    assert engine.stop() == 0
    engine.start()
    with engine.http() as http:
        params = http.get("/collections/kept").json()["result"]["config"]["params"]
        assert list(params["vectors"]) == ["a"]
        refused = http.put("/collections/kept/points", json={"points": [{"id": 1, "vector": [1]}]})
    assert refused.status_code == 400
    message = refused.json()["status"]["error"]
    assert 'the vectors of this collection are named: send {"a": [0.1, …]}' in message


def test_settings_that_the_engine_plans_by_itself_are_taken_and_said_to_do_nothing(
    client: QdrantClient, engine: EngineProcess
) -> None:
    client.create_collection(
        "tuned",
        models.VectorParams(
            size=2, distance=models.Distance.DOT, hnsw_config=models.HnswConfigDiff(m=8), on_disk=True
        ),
        hnsw_config=models.HnswConfigDiff(m=16, ef_construct=100),
        quantization_config=models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
        ),
        shard_number=1,
        replication_factor=1,
        on_disk_payload=True,
    )
    client.update_collection("tuned", optimizers_config=models.OptimizersConfigDiff(indexing_threshold=0))
    warnings = [line for line in engine.log.splitlines() if "'tuned'" in line]
    assert "vectors.hnsw_config, hnsw_config, quantization_config: taken, and not used" in warnings[0]
    assert "optimizers_config: taken, and not used" in warnings[1]


def test_a_query_for_nothing_gives_the_first_points(client: QdrantClient) -> None:
    client.create_collection("first", SIZE)
    client.upsert("first", [models.PointStruct(id=n, vector=[n, 1], payload={"n": n}) for n in range(20)])
    few = models.Filter(must=[models.FieldCondition(key="n", range=models.Range(gte=5))])
    hits = client.query_points("first", limit=3, offset=1, query_filter=few, with_payload=True).points
    assert [(hit.id, hit.score, hit.payload) for hit in hits] == [(n, 1.0, {"n": n}) for n in (6, 7, 8)]
    both = client.query_batch_points(
        "first", [models.QueryRequest(limit=1), models.QueryRequest(query=[1, 0], limit=1)]
    )
    assert [[hit.id for hit in answer.points] for answer in both] == [[0], [19]]


def test_a_batch_of_operations_is_done_in_order(client: QdrantClient) -> None:
    client.create_collection("ops", SIZE)
    done = client.batch_update_points(
        "ops",
        [
            models.UpsertOperation(
                upsert=models.PointsList(
                    points=[
                        models.PointStruct(id=n, vector=[n, 1], payload={"a": {"b": n, "c": n}})
                        for n in range(5)
                    ]
                )
            ),
            models.DeleteOperation(delete=models.PointIdsList(points=[0])),
            models.SetPayloadOperation(set_payload=models.SetPayload(payload={"x": 1}, points=[1])),
            models.OverwritePayloadOperation(
                overwrite_payload=models.SetPayload(payload={"y": 1}, points=[2])
            ),
            models.DeletePayloadOperation(delete_payload=models.DeletePayload(keys=["a.b"], points=[1, 3])),
            models.ClearPayloadOperation(clear_payload=models.PointIdsList(points=[4])),
        ],
    )
    assert [result.status for result in done] == [models.UpdateStatus.COMPLETED] * 6
    payloads = {record.id: record.payload for record in client.scroll("ops")[0]}
    assert payloads == {1: {"a": {"c": 1}, "x": 1}, 2: {"y": 1}, 3: {"a": {"c": 3}}, 4: {}}


@pytest.mark.parametrize(
    ("operation", "says"),
    [
        ({"delete_vectors": {}}, "operations[1]: expected an object with one of upsert, delete, "),
        ({}, "found one with nothing; operations before it are done"),
        ({"delete": {"points": [-1]}}, "operations[1].delete: points[0]"),
        (
            {"upsert": {"points": [{"id": 2, "vector": [1]}]}},
            "operations[1].upsert: collection 'stopped' holds",
        ),
    ],
)
def test_an_operation_that_cannot_be_done_is_named(
    client: QdrantClient, http: httpx.Client, operation: dict[str, Any], says: str
) -> None:
    if not client.collection_exists("stopped"):
        client.create_collection("stopped", SIZE)
    upsert = {"upsert": {"points": [{"id": 1, "vector": [1, 1]}]}}
    answer = http.post("/collections/stopped/points/batch", json={"operations": [upsert, operation]})
    assert answer.status_code == 400
    assert says in answer.json()["status"]["error"]
    assert client.count("stopped").count == 1


@pytest.mark.parametrize(
    "call", ["recommend", "discover", "search/groups", "facet", "query/groups", "recommend/batch"]
)
def test_calls_of_qdrant_that_are_not_served_are_named_as_such(http: httpx.Client, call: str) -> None:
    answer = http.post(f"/collections/any/points/{call}", json={})
    assert answer.status_code == 404
    assert f"points/{call}: there is no such call, or this engine does not support it" in answer.text
