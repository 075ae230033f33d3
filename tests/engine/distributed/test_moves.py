"""Pods join and leave while clients write and read: nobody notices, and nothing is lost."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.engine.distributed.load import Load, Outcome
from tests.engine.distributed.pods import Pods
from tests.kube.eventually import eventually

POD_SECONDS = 20.0


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pods]:
    pods = Pods(tmp_path_factory.mktemp("moves"), 5, covered=True)
    try:
        yield pods
    finally:
        pods.close()


@pytest.fixture
def pods(started: Pods) -> Pods:
    """Five, of which three run and have a collection of eight shards."""
    if missing := [each for each in range(3) if not started[each].is_running]:
        started.launch(*missing)
    started.publish(0, 1, 2)
    started.wait_until_ready(0, 1, 2)
    with started[0].http() as http:
        http.delete("/collections/docs")
        create(http, shards=8)
    return started


def create(http: httpx.Client, *, shards: int) -> None:
    params = {"vectors": {"size": 8, "distance": "Dot"}, "shard_number": shards}
    assert http.put("/collections/docs", json=params).status_code == 200


def after_some_requests(load: Load) -> None:
    done = len(load.outcome.writes)
    eventually(lambda: len(load.outcome.writes) > done + 20)


def test_three_pods_become_five_and_three_again_under_load_and_no_request_fails(pods: Pods) -> None:
    with Load(pods.engines[:3], "docs", dimension=8) as load:
        after_some_requests(load)
        pods.launch(3, 4)
        pods.publish(0, 1, 2, 3, 4)
        pods.wait_until_moved(0, 1, 2, 3, 4)
        pods.wait_until_ready()
        assert any("serving shard" in pods[each].log for each in (3, 4))
        load.pods = pods.engines
        after_some_requests(load)
        pods.publish(0, 1, 2, to=range(5))
        load.pods = pods.engines[:3]
        for each in (3, 4):  # at once, as whoever deletes them does not look whether they are empty
            pods[each].signal(signal.SIGTERM)
        assert [pods[each].wait(POD_SECONDS) for each in (3, 4)] == [0, 0]
        after_some_requests(load)
    assert load.outcome.failures == []
    assert_nothing_is_lost(pods, load.outcome)


def test_a_pod_that_is_stopped_serves_until_the_others_have_its_shards(pods: Pods) -> None:
    """The drain of a node: the pod is told to stop before anybody else knows."""
    with Load(pods.engines[:3], "docs", dimension=8) as load:
        after_some_requests(load)
        load.pods = pods.engines[:2]
        pods[2].signal(signal.SIGTERM)
        eventually(lambda: not pods[2].answers("/readyz"))
        after_some_requests(load)  # some of which are for shards of the pod that stops
        pods.publish(0, 1)
        assert pods[2].wait(POD_SECONDS) == 0
        after_some_requests(load)
    assert load.outcome.failures == []
    assert_nothing_is_lost(pods, load.outcome)


def test_a_pod_serves_what_its_successor_never_comes_for(pods: Pods) -> None:
    """The new owner is named and does not run: whoever had its shards goes on."""
    with pods[0].http() as http:
        http.delete("/collections/docs")
        create(http, shards=32)  # of eight, none may be the new owner's
        points = [{"id": each, "vector": [1.0] * 8} for each in range(100)]
        assert http.put("/collections/docs/points?wait=true", json={"points": points}).status_code == 200
        pods.publish(0, 1, 2, 3, to=range(3))
        for engine in pods.engines[:3]:
            with engine.http() as other:
                began = time.monotonic()
                counted = other.post("/collections/docs/points/count", json={}).json()
                assert counted["result"]["count"] == 100
                assert time.monotonic() - began < 5
                assert (
                    other.put("/collections/docs/points?wait=true", json={"points": points}).status_code
                    == 200
                )
        assert sum(pods.status(each)["leaving"] for each in range(3)) > 0
        pods.launch(3)
        pods.publish(0, 1, 2, 3)
        pods.wait_until_moved(0, 1, 2, 3)
        assert http.post("/collections/docs/points/count", json={}).json()["result"]["count"] == 100


def assert_nothing_is_lost(pods: Pods, outcome: Outcome) -> None:
    with pods[1].http() as http:
        answer = http.post("/collections/docs/points", json={"ids": list(outcome.written)}).json()
    assert {each["id"]: each["payload"]["value"] for each in answer["result"]} == outcome.written
