"""Searching through the real client, against exact answers from numpy."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from tests.engine.fixtures import EngineProcess

COUNT, DIMENSION = 1_000, 32
VECTORS = np.random.default_rng(7).normal(size=(COUNT, DIMENSION)).astype(np.float32)
QUERIES = np.random.default_rng(8).normal(size=(20, DIMENSION)).astype(np.float32)
COSINE = models.Distance.COSINE.value
EXACT = models.SearchParams(exact=True)
EVEN = models.Filter(must=models.FieldCondition(key="even", match=models.MatchValue(value=True)))


def scores(query: Any, distance: models.Distance) -> Any:
    """Of every vector, in Qdrant's sense."""
    if distance is models.Distance.COSINE:
        return VECTORS @ query / np.linalg.norm(VECTORS, axis=1) / np.linalg.norm(query)
    if distance is models.Distance.DOT:
        return VECTORS @ query
    if distance is models.Distance.EUCLID:
        return np.linalg.norm(VECTORS - query, axis=1)
    return np.abs(VECTORS - query).sum(axis=1)


def nearest(query: Any, distance: models.Distance = models.Distance.COSINE) -> list[int]:
    """Every id, closest first."""
    larger_is_closer = distance in (models.Distance.COSINE, models.Distance.DOT)
    of_all = scores(query, distance)
    return [int(i) for i in np.argsort(-of_all if larger_is_closer else of_all, kind="stable")]


@pytest.fixture(scope="module", autouse=True)
def collections(engine: EngineProcess) -> None:
    """A collection for each distance, with the same points."""
    client = engine.client()
    for distance in models.Distance:
        client.create_collection(distance.value, models.VectorParams(size=DIMENSION, distance=distance))
        for start in range(0, COUNT, 250):
            ids = range(start, start + 250)
            payloads = [{"n": i, "even": i % 2 == 0} for i in ids]
            batch = models.Batch(ids=list(ids), vectors=VECTORS[ids].tolist(), payloads=payloads)
            client.upsert(distance.value, batch)
    client.close()


@pytest.mark.parametrize("distance", list(models.Distance))
def test_the_nearest_points_come_back_in_order_with_their_scores(
    client: QdrantClient, distance: models.Distance
) -> None:
    for query in QUERIES:
        hits = client.query_points(distance.value, query=query.tolist(), limit=10, search_params=EXACT).points
        assert [hit.id for hit in hits] == nearest(query, distance)[:10]
        np.testing.assert_allclose(
            [hit.score for hit in hits], scores(query, distance)[nearest(query, distance)[:10]], rtol=1e-4
        )


def test_ten_hits_without_payload_and_vector_are_the_default(http: httpx.Client) -> None:
    answer = http.post(f"/collections/{COSINE}/points/query", json={"query": QUERIES[0].tolist()}).json()
    assert len(answer["result"]["points"]) == 10
    assert set(answer["result"]["points"][0]) == {"id", "version", "score"}
    assert answer["status"] == "ok"
    assert answer["time"] > 0


def test_payload_and_vector_come_with_a_hit_when_asked_for(client: QdrantClient) -> None:
    [hit] = client.query_points(
        "Dot", query=QUERIES[0].tolist(), limit=1, with_payload=["n"], with_vectors=True
    ).points
    assert hit.payload == {"n": hit.id}
    np.testing.assert_array_equal(np.float32(hit.vector), VECTORS[hit.id])


def test_an_offset_skips_the_best(client: QdrantClient) -> None:
    hits = client.query_points(COSINE, query=QUERIES[0].tolist(), limit=5, offset=3, search_params=EXACT)
    assert [hit.id for hit in hits.points] == nearest(QUERIES[0])[3:8]


def test_a_limit_beyond_the_collection_returns_every_point(client: QdrantClient) -> None:
    hits = client.query_points(COSINE, query=QUERIES[0].tolist(), limit=10_000, search_params=EXACT).points
    assert [hit.id for hit in hits] == nearest(QUERIES[0])
    assert client.query_points(COSINE, query=QUERIES[0].tolist(), offset=COUNT).points == []


@pytest.mark.parametrize("distance", list(models.Distance))
def test_a_score_threshold_leaves_out_what_is_worse(client: QdrantClient, distance: models.Distance) -> None:
    order = nearest(QUERIES[0], distance)
    of_all = scores(QUERIES[0], distance)
    threshold = float((of_all[order[4]] + of_all[order[5]]) / 2)
    hits = client.query_points(
        distance.value, query=QUERIES[0].tolist(), limit=50, score_threshold=threshold
    ).points
    assert [hit.id for hit in hits] == order[:5]


def test_a_filter_is_held_by_every_hit_and_misses_none(client: QdrantClient) -> None:
    hits = client.query_points(
        COSINE, query=QUERIES[1].tolist(), limit=20, query_filter=EVEN, search_params=EXACT
    ).points
    assert [hit.id for hit in hits] == [i for i in nearest(QUERIES[1]) if i % 2 == 0][:20]


def test_a_point_is_searched_for_by_its_id_and_is_no_answer_itself(client: QdrantClient) -> None:
    expected = nearest(VECTORS[5])[1:]
    hits = client.query_points(COSINE, query=5, limit=4, offset=2, search_params=EXACT).points
    assert [hit.id for hit in hits] == expected[2:6]
    nested = client.query_points(COSINE, query=models.NearestQuery(nearest=5), limit=1).points
    assert nested[0].id == expected[0]


def test_an_unknown_point_cannot_be_searched_for(client: QdrantClient) -> None:
    for missing in (COUNT, str(uuid.UUID(int=1))):
        with pytest.raises(UnexpectedResponse) as refusal:
            client.query_points(COSINE, query=missing)
        assert refusal.value.status_code == 404
        assert str(missing).encode() in refusal.value.content


def test_a_batch_answers_each_search_as_if_it_came_alone(client: QdrantClient) -> None:
    requests = [
        models.QueryRequest(query=QUERIES[0].tolist(), limit=3),
        models.QueryRequest(query=7, limit=3),
        models.QueryRequest(query=QUERIES[1].tolist(), limit=5, filter=EVEN, with_payload=True),
        models.QueryRequest(query=QUERIES[2].tolist(), limit=3),
    ]
    together = client.query_batch_points(COSINE, requests)
    alone = [client.query_batch_points(COSINE, [request])[0] for request in requests]
    assert [[(hit.id, hit.payload) for hit in answer.points] for answer in together] == [
        [(hit.id, hit.payload) for hit in answer.points] for answer in alone
    ]
    assert [len(answer.points) for answer in together] == [3, 3, 5, 3]


def test_the_older_search_calls_answer_too(http: httpx.Client) -> None:
    search = {"vector": QUERIES[0].tolist(), "limit": 3, "with_vectors": True, "params": {"hnsw_ef": 64}}
    one = http.post(f"/collections/{COSINE}/points/search", json=search).json()["result"]
    two = http.post(f"/collections/{COSINE}/points/search/batch", json={"searches": [search, search]}).json()
    assert [hit["id"] for hit in one] == nearest(QUERIES[0])[:3]
    assert len(one[0]["vector"]) == DIMENSION
    assert two["result"] == [one, one]


VECTOR = [0.0] * (DIMENSION - 1) + [1.0]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"score_threshold": 0.5}, 400, "without a query there are no scores"),
        ({"query": {"recommend": {"positive": [1]}}}, 400, "other kinds of query are not supported"),
        ({"query": {"nearest": 1, "mmr": {}}}, 400, "query.mmr is not supported"),
        ({"query": "no-id"}, 400, "query: 'no-id' is no point id"),
        ({"query": -5}, 400, "query: -5 is no point id"),
        ({"query": {"indices": [1], "values": [1]}}, 400, "other kinds of query"),
        ({"query": [VECTOR, VECTOR]}, 400, "multivectors are not supported"),
        ({"query": VECTOR, "prefetch": [{}]}, 400, "prefetch is not supported"),
        ({"query": VECTOR, "using": "text"}, 400, "using: expected None, found 'text'"),
        ({"query": VECTOR, "shard_key": "a"}, 400, "shard_key is not supported"),
        ({"query": VECTOR, "params": {"indexed_only": True}}, 400, "params.indexed_only is not supported"),
        ({"query": VECTOR, "params": {"quantization": {}}}, 400, "params.quantization is not supported"),
        ({"query": VECTOR, "limit": 0}, 422, "[limit: value 0 invalid, must be 1 or larger]"),
        ({"query": VECTOR, "limit": -1}, 400, "limit: Expected `int` >= 0"),
        ({"query": VECTOR, "offset": -1}, 400, "offset: Expected `int` >= 0"),
        ({"query": VECTOR, "limit": "5"}, 400, "limit: Expected `int | null`, got `str`"),
        ({"query": VECTOR, "score_threshold": "high"}, 400, "score_threshold: Expected `float | null`"),
        ({"query": VECTOR, "with_vector": ["a"]}, 400, "with_vector: this collection has no vector 'a'"),
        ({"query": VECTOR, "with_payload": {"includ": ["a"]}}, 400, "with_payload: expected true, false"),
        ({"query": VECTOR, "with_payload": ["a."]}, 400, "'a.' is not a payload path"),
        ({"query": VECTOR, "filter": {"must": [{"key": "a"}]}}, 400, "filter.must[0]: expected exactly one"),
        ({"query": VECTOR, "filter": []}, 400, "filter: Expected `object | null`, got `array`"),
    ],
)
def test_what_a_query_cannot_be_is_refused_by_name(
    http: httpx.Client, body: dict[str, Any], status: int, says: str
) -> None:
    answer = http.post(f"/collections/{COSINE}/points/query", json=body)
    assert says in answer.json()["status"]["error"]
    assert answer.status_code == status


def test_a_mistake_in_a_batch_is_named_by_its_place(http: httpx.Client) -> None:
    good = {"query": VECTOR}
    answer = http.post(
        f"/collections/{COSINE}/points/query/batch", json={"searches": [good, {"query": VECTOR[:3]}]}
    )
    assert answer.status_code == 400
    assert "dimension 3" in answer.json()["status"]["error"]
    answer = http.post(
        f"/collections/{COSINE}/points/query/batch",
        json={"searches": [good, good | {"filter": {"must": [7]}}]},
    )
    assert "searches[1].filter.must[0]" in answer.json()["status"]["error"]
