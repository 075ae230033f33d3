"""Three real engines over one store: any of them answers for all data."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from tests.engine.distributed.pods import HEADERS, Pods, running_pods

D = 8
POINTS = 600
VECTORS = np.random.default_rng(7).normal(size=(POINTS, D)).astype(np.float32)


def point(number: int, **payload: object) -> models.PointStruct:
    return models.PointStruct(
        id=number, vector=VECTORS[number].tolist(), payload={"n": number, "even": number % 2 == 0, **payload}
    )


EVEN = models.Filter(must=[models.FieldCondition(key="even", match=models.MatchValue(value=True))])


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pods]:
    with running_pods(tmp_path_factory.mktemp("pods"), 3) as running:
        yield running


@pytest.fixture(scope="module")
def clients(pods: Pods) -> list[QdrantClient]:
    return [engine.client() for engine in pods.engines]


@pytest.fixture(scope="module")
def filled(clients: list[QdrantClient]) -> list[QdrantClient]:
    """The collection `docs`, which was written through all three."""
    clients[0].create_collection(
        "docs", vectors_config=models.VectorParams(size=D, distance=models.Distance.COSINE)
    )
    for number, start in enumerate(range(0, POINTS, 100)):
        clients[number % 3].upsert("docs", [point(each) for each in range(start, start + 100)], wait=True)
    return clients


def test_what_one_pod_was_told_every_pod_answers(filled: list[QdrantClient]) -> None:
    expected = np.argsort(-VECTORS @ VECTORS[5] / np.linalg.norm(VECTORS, axis=1))[:10].tolist()
    for client in filled:
        assert client.count("docs").count == POINTS
        found = client.query_points("docs", VECTORS[5].tolist(), limit=10, with_payload=True).points
        assert [hit.id for hit in found] == expected
        assert [hit.payload for hit in found] == [point(each).payload for each in expected]
        assert client.get_collection("docs").config.params.shard_number == 6


def test_pages_of_a_search_follow_each_other(filled: list[QdrantClient]) -> None:
    whole = filled[0].query_points("docs", VECTORS[9].tolist(), limit=20).points
    pages = [
        filled[each].query_points("docs", VECTORS[9].tolist(), limit=5, offset=5 * each).points
        for each in range(3)
    ]
    assert [hit for page in pages for hit in page] == whole[:15]


def test_a_point_is_looked_for_by_its_id_and_is_no_answer_itself(filled: list[QdrantClient]) -> None:
    found = filled[1].query_points("docs", 17, limit=5, query_filter=EVEN, with_vectors=True).points
    assert 17 not in {hit.id for hit in found}
    assert len(found) == 5
    assert all(isinstance(hit.id, int) and hit.id % 2 == 0 for hit in found)
    for hit in found:
        assert isinstance(hit.id, int)
        assert np.allclose(np.array(hit.vector), VECTORS[hit.id] / np.linalg.norm(VECTORS[hit.id]), atol=1e-6)


def test_searches_in_a_batch_are_answered_in_their_order(filled: list[QdrantClient]) -> None:
    requests = [
        models.QueryRequest(query=VECTORS[each].tolist(), limit=3, filter=EVEN if each % 3 == 0 else None)
        for each in range(12)
    ]
    answers = filled[2].query_batch_points("docs", requests)
    alone = [
        filled[0].query_points(
            "docs", VECTORS[each].tolist(), limit=3, query_filter=EVEN if each % 3 == 0 else None
        )
        for each in range(12)
    ]
    assert [[hit.id for hit in each.points] for each in answers] == [
        [hit.id for hit in each.points] for each in alone
    ]


def test_scrolling_visits_every_point_once_and_in_order(filled: list[QdrantClient]) -> None:
    seen: list[object] = []
    offset = None
    while True:
        records, offset = filled[len(seen) % 3].scroll("docs", limit=70, offset=offset)
        seen += [record.id for record in records]
        if offset is None:
            break
    assert seen == list(range(POINTS))
    records, _ = filled[0].scroll("docs", limit=5, offset=11, scroll_filter=EVEN)
    assert [record.id for record in records] == [12, 14, 16, 18, 20]


def test_points_are_retrieved_in_the_order_that_was_asked_for(filled: list[QdrantClient]) -> None:
    found = filled[1].retrieve("docs", [599, 3, 10_000, 42, 3])
    assert [record.id for record in found] == [599, 3, 42, 3]


def test_payloads_longer_than_an_answer_carries_along_arrive_whole(clients: list[QdrantClient]) -> None:
    clients[0].create_collection(
        "long", vectors_config=models.VectorParams(size=D, distance=models.Distance.DOT), shard_number=2
    )
    texts = {each: chr(ord("a") + each) * 400_000 for each in range(10)}
    for each, text in texts.items():
        clients[0].upsert(
            "long", [models.PointStruct(id=each, vector=VECTORS[each].tolist(), payload={"t": text})]
        )
    for client in clients:
        records, _ = client.scroll("long", limit=10, with_vectors=True)
        assert {record.id: record.payload for record in records} == {
            each: {"t": text} for each, text in texts.items()
        }
        assert all(record.vector is not None for record in records)


def test_payloads_are_changed_and_points_deleted_wherever_they_are(clients: list[QdrantClient]) -> None:
    clients[0].create_collection(
        "changed", vectors_config=models.VectorParams(size=D, distance=models.Distance.EUCLID), shard_number=4
    )
    clients[1].upsert("changed", [point(each) for each in range(100)], wait=True)
    clients[2].set_payload("changed", {"new": 1}, points=[1, 2, 3, 50], wait=True)
    clients[0].set_payload("changed", {"even": "yes"}, points=EVEN, wait=True)
    clients[1].delete_payload("changed", ["n"], points=[3], wait=True)
    clients[2].clear_payload("changed", points_selector=[5], wait=True)
    clients[1].overwrite_payload("changed", {"only": True}, points=[7], wait=True)
    clients[0].delete("changed", points_selector=[0, 98, 5000], wait=True)
    found = {record.id: record.payload for record in clients[1].scroll("changed", limit=1000)[0]}
    assert found.keys() == set(range(100)) - {0, 98}
    assert found[2] == {"n": 2, "even": "yes", "new": 1}
    assert found[3] == {"even": False, "new": 1}
    assert (found[5], found[7]) == ({}, {"only": True})
    clients[2].delete(
        "changed", points_selector=models.Filter(must=[models.HasIdCondition(has_id=[1, 2])]), wait=True
    )
    assert clients[0].count("changed").count == 96


def test_a_request_that_names_no_point_changes_nothing(filled: list[QdrantClient]) -> None:
    before = filled[0].count("docs").count
    assert filled[0].delete("docs", points_selector=[], wait=True).status == "completed"
    assert filled[1].set_payload("docs", {"a": 1}, points=[], wait=True).status == "completed"
    assert filled[2].count("docs").count == before
    assert filled[2].retrieve("docs", []) == []


def test_a_payload_index_is_made_in_every_shard(filled: list[QdrantClient]) -> None:
    filled[0].create_payload_index("docs", "n", models.PayloadSchemaType.INTEGER, wait=True)
    assert filled[1].get_collection("docs").payload_schema["n"].points == POINTS
    few = models.Filter(must=[models.FieldCondition(key="n", range=models.Range(lt=30))])
    assert filled[2].count("docs", few).count == 30
    filled[2].delete_payload_index("docs", "n", wait=True)
    assert filled[0].get_collection("docs").payload_schema == {}


def test_bad_input_is_refused_by_the_pod_that_gets_it_and_nothing_is_written(
    filled: list[QdrantClient],
) -> None:
    good = [point(each, new=True) for each in range(20)]
    with pytest.raises(UnexpectedResponse, match="dimension 8, got one of dimension 3"):
        filled[0].upsert("docs", [*good, models.PointStruct(id=1, vector=[1.0, 2.0, 3.0])], wait=True)
    with pytest.raises(UnexpectedResponse, match="holds no point with id 777777"):
        filled[1].set_payload("docs", {"a": 1}, points=[777777], wait=True)
    new = models.Filter(must=[models.FieldCondition(key="new", match=models.MatchValue(value=True))])
    assert filled[2].count("docs", new).count == 0


def test_a_collection_is_made_and_deleted_for_all(clients: list[QdrantClient]) -> None:
    params = models.VectorParams(size=2, distance=models.Distance.DOT)
    clients[0].create_collection("brief", vectors_config=params)
    for client in clients:
        assert client.collection_exists("brief")
        with pytest.raises(UnexpectedResponse, match="already exists"):
            client.create_collection("brief", vectors_config=params)
    clients[1].upsert("brief", [models.PointStruct(id=1, vector=[0.0, 1.0])], wait=True)
    clients[2].delete_collection("brief")
    for client in clients:
        assert not client.collection_exists("brief")
        with pytest.raises(UnexpectedResponse, match="does not exist"):
            client.count("brief")
    clients[0].create_collection("brief", vectors_config=params, shard_number=1)
    assert [client.count("brief").count for client in clients] == [0, 0, 0]


def test_shards_that_cannot_be_are_refused(clients: list[QdrantClient]) -> None:
    with pytest.raises(UnexpectedResponse, match="shard_number is 65: expected 1 to 64"):
        clients[0].create_collection(
            "many", vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT), shard_number=65
        )


def test_the_calls_of_members_need_the_key_of_members(pods: Pods) -> None:
    for method, path in (
        ("GET", "topology"),
        ("PUT", "topology"),
        ("POST", "read"),
        ("POST", "write"),
        ("POST", "release"),
        ("POST", "catalog"),
    ):
        for headers in ({}, {"api-key": "another"}):
            answer = httpx.request(method, f"{pods[0].url}/internal/{path}", headers=headers)
            assert answer.status_code == 401
            assert "cluster.internal_key" in answer.json()["status"]["error"]
    for path in ("read", "write", "release"):
        answer = httpx.post(f"{pods[0].url}/internal/{path}", content=b"nonsense", headers=HEADERS)
        assert answer.status_code == 400
        assert "not a request of a member" in answer.json()["status"]["error"]


def test_an_older_topology_is_not_taken(pods: Pods) -> None:
    older = {"version": 0, "members": []}
    answer = pods.tell(0, older)
    assert answer.status_code == 409
    assert answer.json()["version"] == pods.known_to(0)
    other = {"version": pods.known_to(0), "members": [{"name": "x", "address": "127.0.0.1:1"}]}
    assert "is known with other members" in pods.tell(0, other).json()["status"]["error"]
    twice = {"version": 99, "members": [{"name": "x", "address": "a:1"}, {"name": "x", "address": "b:1"}]}
    assert "'x' is the name of two members" in pods.tell(0, twice).json()["status"]["error"]


def test_a_pod_that_was_killed_loses_nothing_and_is_replaced_while_writes_go_on(tmp_path: Path) -> None:
    with running_pods(tmp_path, 3) as pods:
        clients = [engine.client() for engine in pods.engines]
        clients[0].create_collection(
            "docs", vectors_config=models.VectorParams(size=D, distance=models.Distance.DOT)
        )
        acknowledged: list[int] = []
        dead = threading.Event()

        def write(numbers: range) -> None:
            for number in numbers:
                client = clients[number % 2] if dead.is_set() or number % 3 == 2 else clients[number % 3]
                try:
                    client.upsert("docs", [point(number)], wait=True)
                except UnexpectedResponse as error:
                    assert b"is not known" in error.content, error  # the pod that died had it
                    continue
                acknowledged.append(number)

        with ThreadPoolExecutor(4) as pool:
            writing = [pool.submit(write, range(start, POINTS, 4)) for start in range(4)]
            pods[0].wait_until(lambda: len(acknowledged) > 100, "writing")
            dead.set()
            pods[2].kill()
            pods.publish(0, 1)
            for each in writing:
                each.result()
        assert len(acknowledged) > POINTS - 20
        for client in clients[:2]:
            found = {record.id for record in client.retrieve("docs", range(POINTS))}
            assert set(acknowledged) <= found


def test_a_pod_that_was_frozen_while_it_was_replaced_acknowledges_nothing_and_shows_nothing_old(
    tmp_path: Path,
) -> None:
    with running_pods(tmp_path, 2) as pods:
        clients = [engine.client() for engine in pods.engines]
        clients[0].create_collection(
            "docs", vectors_config=models.VectorParams(size=D, distance=models.Distance.DOT), shard_number=8
        )
        clients[0].upsert("docs", [point(each, value="old") for each in range(50)], wait=True)
        pods[1].signal(signal.SIGSTOP)
        pods.publish(0)
        clients[0].upsert("docs", [point(each, value="new") for each in range(50)], wait=True)
        pods[1].signal(signal.SIGCONT)
        # It still believes that half of the shards are its own, and does not know of another topology.
        found = clients[1].retrieve("docs", range(50))
        assert {record.payload["value"] for record in found if record.payload} == {"new"}
        clients[1].upsert("docs", [point(each, value="newest") for each in range(50)], wait=True)
        found = clients[0].retrieve("docs", range(50))
        assert {record.payload["value"] for record in found if record.payload} == {"newest"}
        assert pods.known_to(1) == pods.known_to(0)


def test_while_the_store_is_away_only_who_says_so_is_shown_what_may_be_old(tmp_path: Path) -> None:
    with running_pods(tmp_path, 2) as pods, pods[0].http() as http:
        client = pods[0].client()
        client.create_collection(
            "docs", vectors_config=models.VectorParams(size=D, distance=models.Distance.DOT), shard_number=2
        )
        client.upsert("docs", [point(each) for each in range(20)], wait=True)
        (tmp_path / "store").rename(tmp_path / "away")
        pods[0].wait_until(
            lambda: http.post("/collections/docs/points/count", json={}).status_code == 500, "cut off"
        )
        answer = http.post("/collections/docs/points/count", json={}).json()["status"]["error"]
        assert "is gone: is it still mounted?" in answer
        stale = {"consistency": 1}
        answer = http.post("/collections/docs/points/count", params=stale, json={})
        assert answer.json()["result"] == {"count": 20}
        query = {"query": VECTORS[3].tolist(), "limit": 1}
        answer = http.post("/collections/docs/points/query", params=stale, json=query)
        assert len(answer.json()["result"]["points"]) == 1
        (tmp_path / "away").rename(tmp_path / "store")
        pods[0].wait_until(
            lambda: http.post("/collections/docs/points/count", json={}).status_code == 200, "back"
        )
        client.upsert("docs", [point(20)], wait=True)
        assert client.count("docs").count == 21


def test_without_a_topology_a_pod_is_not_ready_and_says_which_shards_it_misses(tmp_path: Path) -> None:
    pods = Pods(tmp_path, 1)
    try:
        pods.launch()
        assert "no topology was published" in httpx.get(pods[0].url + "/readyz").text
        pods.publish(0)
        pods.wait_until_ready()
        client = pods[0].client()
        client.create_collection(
            "docs", vectors_config=models.VectorParams(size=D, distance=models.Distance.DOT)
        )
        client.upsert("docs", [point(each) for each in range(10)], wait=True)
        pods[0].kill()
        pods[0].start()  # it remembers the topology
        assert client.count("docs").count == 10
        pods.publish(to=[0])
        with pytest.raises(UnexpectedResponse, match="no member is known that could serve it") as raised:
            client.count("docs")
        assert raised.value.status_code == 503
    finally:
        pods.close()
