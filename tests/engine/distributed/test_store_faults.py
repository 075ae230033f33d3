"""Pods over a real S3 server that refuses, is slow, and loses answers: order holds, and writes go on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.engine.distributed.history import History
from tests.engine.distributed.pods import Pods
from tests.engine.distributed.store_proxy import StoreProxy
from tests.engine.s3 import S3Server
from tests.kube.eventually import eventually

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


@pytest.fixture(scope="module")
def proxies(s3: S3Server) -> Iterator[list[StoreProxy]]:
    """The way to the store of each pod."""
    with (
        StoreProxy(s3.settings["endpoint"], seed=1).running() as one,
        StoreProxy(s3.settings["endpoint"], seed=2).running() as two,
    ):
        yield [one, two]


@pytest.fixture(scope="module")
def started(
    tmp_path_factory: pytest.TempPathFactory, s3: S3Server, proxies: list[StoreProxy]
) -> Iterator[Pods]:
    folder = tmp_path_factory.mktemp("faults")
    stores = [
        {"url": f"{s3.url}/{folder.name}", "endpoint": each.endpoint, "region": "us-east-1"}
        for each in proxies
    ]
    pods = Pods(folder, 2, stores=stores, environment=CREDENTIALS)
    try:
        pods.launch()
        yield pods
    finally:
        pods.close()


@pytest.fixture
def pods(started: Pods, proxies: list[StoreProxy]) -> Pods:
    """Two, with a collection of four shards, over a store that works."""
    for proxy in proxies:
        proxy.fault = ""
    started.publish(0, 1)
    started.wait_until_ready()
    with started[0].http() as http:
        http.delete("/collections/c")
        params = {"vectors": {"size": 2, "distance": "Dot"}, "shard_number": 4}
        assert http.put("/collections/c", json=params).status_code == 200
    return started


def test_a_store_that_refuses_is_slow_and_loses_answers_costs_no_write_and_no_order(
    pods: Pods, proxies: list[StoreProxy]
) -> None:
    with History(pods.engines, "c", points=12, clients=4, seed=3) as history:
        for fault in ("lose", "refuse", "slow"):
            for proxy in proxies:
                proxy.fault = fault
            done = history.outcomes["200"]
            eventually(lambda done=done: history.outcomes["200"] > done + 20)  # type: ignore[misc]
            pods.publish(*((0,) if fault == "lose" else (0, 1)), to=(0, 1))  # shards move meanwhile
            done = history.outcomes["200"]
            eventually(lambda done=done: history.outcomes["200"] > done + 20)  # type: ignore[misc]
        for proxy in proxies:
            proxy.fault = ""
    assert set(history.outcomes) <= {"200", "503"}, history.outcomes
    assert history.anomalies() == []


def test_a_pod_that_is_cut_off_from_the_store_shows_nothing_old(
    pods: Pods, proxies: list[StoreProxy]
) -> None:
    """Nobody can tell it of the new owner either: it knows the topology in which the shards were its own."""
    with pods[0].http() as kept, pods[1].http() as cut:
        points = [{"id": each, "vector": [1, 2], "payload": {"value": "old"}} for each in range(30)]
        assert kept.put("/collections/c/points?wait=true", json={"points": points}).status_code == 200
        proxies[1].fault = "cut"
        pods.publish(0, to=(0,), previous=[{"name": "nobody", "address": "127.0.0.1:1"}])
        for each in points:
            each["payload"] = {"value": "new"}
        assert kept.put("/collections/c/points?wait=true", json={"points": points}).status_code == 200
        answer = cut.post("/collections/c/points", json={"ids": list(range(30))})
        assert answer.status_code >= 500, answer.text  # some of the shards were its own
        proxies[1].fault = ""
        answer = cut.post("/collections/c/points", json={"ids": list(range(30))})
        assert {each["payload"]["value"] for each in answer.json()["result"]} == {"new"}


def test_a_pod_that_comes_back_with_an_old_volume_serves_what_is_in_the_store(pods: Pods) -> None:
    with pods[0].http() as http:

        def write(value: int) -> None:
            points = [{"id": each, "vector": [1, value], "payload": {"value": value}} for each in range(50)]
            assert http.put("/collections/c/points?wait=true", json={"points": points}).status_code == 200

        write(1)
        pods[1].kill()
        old = pods[1].data.with_name("old")
        shutil.copytree(pods[1].data, old)
        pods.publish(0, to=(0,))
        write(2)
        assert http.delete("/collections/c").status_code == 200
        params = {"vectors": {"size": 2, "distance": "Dot"}, "shard_number": 3}
        assert http.put("/collections/c", json=params).status_code == 200
        write(3)
        shutil.rmtree(pods[1].data)
        old.rename(pods[1].data)
        pods[1].start()
        pods.publish(0, 1)
        pods.wait_until_moved(0, 1)
        with pods[1].http() as other:
            answer = other.post("/collections/c/points", json={"ids": list(range(50))})
            assert [each["payload"]["value"] for each in answer.json()["result"]] == [3] * 50


def test_a_pod_that_nobody_told_of_a_collection_made_anew_answers_for_the_new_one(pods: Pods) -> None:
    """The news cannot reach it: the other pod knows another address."""
    with pods[0].http() as here, pods[1].http() as there:
        points = [{"id": each, "vector": [1, 2]} for each in range(40)]
        assert there.put("/collections/c/points?wait=true", json={"points": points}).status_code == 200
        topology = pods.topology(0, 1, previous=[])
        assert pods.tell(1, topology).status_code == 200
        topology["version"] = pods.next_version()
        topology["members"][1]["address"] = "127.0.0.1:1"
        topology["previous"] = [{"name": "nobody", "address": "127.0.0.1:1"}]
        assert pods.tell(0, topology).status_code == 200
        assert here.delete("/collections/c").status_code == 200
        assert there.get("/collections/c/exists").json()["result"]["exists"] is False
        params = {"vectors": {"size": 3, "distance": "Dot"}, "shard_number": 2}
        assert here.put("/collections/c", json=params).status_code == 200
        # What it has in mind of the old collection is wrong in everything.
        info = there.get("/collections/c").json()["result"]
        assert info["points_count"] == 0
        assert info["config"]["params"]["vectors"]["size"] == 3
        assert there.post("/collections/c/points/count", json={}).json()["result"]["count"] == 0
