"""Writing and reading points through the real client."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

UUID = "12345678-1234-5678-1234-567812345678"


@pytest.fixture
def name(client: QdrantClient) -> str:
    """A collection of three points of dimension 3."""
    name = uuid.uuid4().hex
    client.create_collection(name, models.VectorParams(size=3, distance=models.Distance.DOT))
    client.upsert(
        name,
        [
            models.PointStruct(id=1, vector=[1, 0, 0], payload={"city": "Bonn", "at": {"lat": 50.7}}),
            models.PointStruct(id=2, vector=[0, 1, 0], payload={"city": "Köln", "tags": ["dom", "rhein"]}),
            models.PointStruct(id=UUID, vector=[0.5, 0.25, -2]),
        ],
    )
    return name


def ids(client: QdrantClient, name: str) -> list[Any]:
    return [record.id for record in client.scroll(name, limit=100)[0]]


def payload(client: QdrantClient, name: str, point: int | str) -> Any:
    return client.retrieve(name, [point])[0].payload


def test_points_come_back_as_they_went_in(client: QdrantClient, name: str) -> None:
    records = client.retrieve(name, [UUID, 2, 77], with_vectors=True)
    assert [(record.id, record.vector) for record in records] == [(UUID, [0.5, 0.25, -2]), (2, [0, 1, 0])]
    assert records[1].payload == {"city": "Köln", "tags": ["dom", "rhein"]}
    assert records[0].payload == {}


def test_a_number_beyond_64_bits_comes_back_alone_as_it_does_in_its_payload(
    http: httpx.Client, client: QdrantClient, name: str
) -> None:
    client.upsert(name, [models.PointStruct(id=1, vector=[1, 0, 0], payload={"n": 2**70, "a": 1})])
    for wanted in (True, ["n"]):
        answer = http.post(f"/collections/{name}/points", json={"ids": [1], "with_payload": wanted})
        assert answer.status_code == 200, answer.text
        assert answer.json()["result"][0]["payload"]["n"] == 2**70


def test_a_batch_of_columns_is_upserted(client: QdrantClient, name: str) -> None:
    client.upsert(name, models.Batch(ids=[5, 6], vectors=[[1, 2, 3], [4, 5, 6]], payloads=[{"a": 1}, {}]))
    client.upsert(name, models.Batch(ids=[7], vectors=[[7, 8, 9]]))
    assert [r.vector for r in client.retrieve(name, [5, 6, 7], with_vectors=True)] == [
        [1, 2, 3],
        [4, 5, 6],
        [7, 8, 9],
    ]
    assert payload(client, name, 5) == {"a": 1}


def test_uploading_in_parallel_batches_stores_everything(client: QdrantClient, name: str) -> None:
    vectors = np.random.default_rng(1).normal(size=(700, 3)).astype(np.float32)
    client.upload_collection(name, vectors=vectors, ids=range(100, 800), batch_size=64, wait=True)
    assert client.count(name).count == 703
    stored = client.retrieve(name, [100, 799], with_vectors=True)
    np.testing.assert_array_equal(np.float32([r.vector for r in stored]), vectors[[0, 699]])


def test_of_an_id_that_comes_twice_the_last_one_wins(client: QdrantClient, name: str) -> None:
    client.upsert(name, [models.PointStruct(id=9, vector=[i, 0, 0]) for i in (1, 2)])
    assert client.retrieve(name, [9], with_vectors=True)[0].vector == [2, 0, 0]
    assert client.count(name).count == 4


def test_a_write_that_does_not_wait_is_acknowledged(client: QdrantClient, name: str) -> None:
    done = client.upsert(name, [models.PointStruct(id=9, vector=[1, 0, 0])], wait=False)
    assert done.status == models.UpdateStatus.ACKNOWLEDGED
    again = client.upsert(name, [models.PointStruct(id=10, vector=[1, 0, 0])])
    assert again.status == models.UpdateStatus.COMPLETED
    assert again.operation_id > done.operation_id
    assert client.count(name).count == 5


def test_points_are_deleted_by_id_and_by_filter(client: QdrantClient, name: str) -> None:
    client.delete(name, [1, 4711])
    assert ids(client, name) == [2, UUID]
    client.delete(name, models.Filter(must=models.HasIdCondition(has_id=[UUID])))
    assert ids(client, name) == [2]
    client.delete(name, models.FilterSelector(filter=models.Filter()))
    assert ids(client, name) == []


def test_payloads_are_set_overwritten_deleted_and_cleared(client: QdrantClient, name: str) -> None:
    everywhere = models.Filter(must_not=models.HasIdCondition(has_id=[UUID]))
    client.set_payload(name, {"seen": True}, points=everywhere)
    assert payload(client, name, 1) == {"city": "Bonn", "at": {"lat": 50.7}, "seen": True}
    assert payload(client, name, UUID) == {}
    client.overwrite_payload(name, {"new": 1, "old": None}, points=[2])
    assert payload(client, name, 2) == {"new": 1, "old": None}
    client.delete_payload(name, ["at", "unknown"], points=[1])
    assert payload(client, name, 1) == {"city": "Bonn", "seen": True}
    client.clear_payload(name, models.PointIdsList(points=[1]))
    assert payload(client, name, 1) == {}


def test_setting_a_key_to_null_removes_it_and_no_other(client: QdrantClient, name: str) -> None:
    client.overwrite_payload(name, {"kept": None, "city": "Rome"}, points=[1])
    client.set_payload(name, {"city": None, "unknown": None, "new": {"inner": None}}, points=[1])
    assert payload(client, name, 1) == {"kept": None, "new": {"inner": None}}


def test_scrolling_walks_all_points_in_id_order(client: QdrantClient, name: str) -> None:
    client.upsert(name, [models.PointStruct(id=i, vector=[1, 0, 0]) for i in range(30, 10, -1)])
    seen, offset = [], None
    while True:
        records, offset = client.scroll(name, limit=4, offset=offset, with_payload=False)
        seen += [record.id for record in records]
        assert all(record.payload is None for record in records)
        if offset is None:
            break
    assert seen == [1, 2, *range(11, 31), UUID]


def test_a_page_has_ten_points_unless_a_limit_is_given(
    client: QdrantClient, http: httpx.Client, name: str
) -> None:
    client.upsert(name, [models.PointStruct(id=i, vector=[1, 0, 0]) for i in range(20)])
    page = http.post(f"/collections/{name}/points/scroll", json={"limit": None}).json()["result"]
    assert [point["id"] for point in page["points"]] == list(range(10))
    assert page["next_page_offset"] == 10


def test_counting_and_scrolling_take_filters(client: QdrantClient, name: str) -> None:
    filter_ = models.Filter(must=models.FieldCondition(key="tags", match=models.MatchValue(value="dom")))
    assert client.count(name).count == 3
    assert client.count(name, count_filter=filter_, exact=False).count == 1
    assert [record.id for record in client.scroll(name, scroll_filter=filter_)[0]] == [2]


def test_only_the_asked_part_of_a_payload_comes_back(client: QdrantClient, name: str) -> None:
    exclude = models.PayloadSelectorExclude(exclude=["at.lat"])
    assert client.retrieve(name, [1], with_payload=["at.lat"])[0].payload == {"at": {"lat": 50.7}}
    assert client.retrieve(name, [1], with_payload=exclude)[0].payload == {"city": "Bonn", "at": {}}
    assert client.retrieve(name, [1], with_payload=False)[0].payload is None


def test_a_single_point_is_read_by_its_path(http: httpx.Client, name: str) -> None:
    point = http.get(f"/collections/{name}/points/1").json()["result"]
    assert point == {"id": 1, "payload": {"city": "Bonn", "at": {"lat": 50.7}}, "vector": [1, 0, 0]}
    assert http.get(f"/collections/{name}/points/{UUID}").json()["result"]["id"] == UUID
    assert http.get(f"/collections/{name}/points/99").status_code == 404
    refused = http.get(f"/collections/{name}/points/x")
    assert (refused.status_code, "'x' is no point id" in refused.text) == (400, True)


def test_changing_the_payload_of_an_unknown_point_is_404(client: QdrantClient, name: str) -> None:
    with pytest.raises(UnexpectedResponse) as refusal:
        client.set_payload(name, {"a": 1}, points=[99])
    assert refusal.value.status_code == 404
    assert b"99" in refusal.value.content
