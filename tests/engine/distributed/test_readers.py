"""Collections with a replication factor: members that are not the owner of a shard read it along."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from qdrant_client import models
from qdrant_client.http.exceptions import UnexpectedResponse

from tests.engine.distributed.pods import Pods
from tests.engine.distributed.test_seeing import metrics
from tests.engine.fixtures import EngineProcess
from tests.kube.eventually import eventually
from vectorizer_engine.api.distribution import peer_id

SHARDS = 4
DOTS = models.VectorParams(size=2, distance=models.Distance.DOT)


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    """Three, with a collection of which each shard is on two of them."""
    pods = Pods(tmp_path, 3, covered=True)
    try:
        pods.launch()
        pods.publish(0, 1, 2)
        pods.wait_until_ready()
        pods[0].client().create_collection("docs", DOTS, shard_number=SHARDS, replication_factor=2)
        yield pods
    finally:
        pods.close()


def write(pod: EngineProcess, start: int, stop: int) -> None:
    pod.client().upsert(
        "docs",
        [models.PointStruct(id=each, vector=[each, 1], payload={"n": each}) for each in range(start, stop)],
        wait=True,
    )


def read(pod: EngineProcess, consistency: int | None = 1) -> list[int]:
    """The ids of all points, from whatever copies *pod* asks."""
    parameters = {} if consistency is None else {"consistency": str(consistency)}
    with pod.http() as http:
        answer = http.post("/collections/docs/points/scroll", params=parameters, json={"limit": 10_000})
    return [point["id"] for point in answer.raise_for_status().json()["result"]["points"]]


def copies(pod: EngineProcess) -> dict[int, set[int]]:
    """The peers that have each shard at hand, as *pod* tells it."""
    client = pod.client()
    found = client.http.distributed_api.collection_cluster_info("docs").result
    assert found is not None
    peers: dict[int, set[int]] = {shard: set() for shard in range(SHARDS)}
    for local in found.local_shards:
        peers[local.shard_id].add(found.peer_id)
    for remote in found.remote_shards:
        peers[remote.shard_id].add(remote.peer_id)
    return peers


def wait_until_read_along(pods: Pods, points: int, *numbers: int) -> None:
    """Until these have each a reader for all shards that they are to read, which has come to so many points.

    A member asks its own copies first, so together they ask all of them.
    """
    for number in numbers or range(len(pods.engines)):
        eventually(
            lambda number=number: (  # type: ignore[misc]
                (seen := metrics(pods[number]))["vectorizer_shards_read"] == seen["vectorizer_shards_to_read"]
                and read(pods[number]) == [*range(points)]
            )
        )


def test_each_shard_is_on_as_many_members_as_was_asked_for(pods: Pods) -> None:
    write(pods[0], 0, 100)
    wait_until_read_along(pods, 100)
    assert pods[1].client().get_collection("docs").config.params.replication_factor == 2
    assert all(len(peers) == 2 for peers in copies(pods[1]).values())
    assert sum(metrics(engine)["vectorizer_shards_read"] for engine in pods.engines) == SHARDS
    assert all(metrics(engine)["vectorizer_reader_lag_frames"] == 0 for engine in pods.engines)


def test_any_copy_answers_where_owners_are_away_and_the_owners_alone_otherwise(pods: Pods) -> None:
    write(pods[0], 0, 60)
    wait_until_read_along(pods, 60)
    pods[1].kill()
    # Nobody has been told that it is gone, so nobody takes its shards over.
    assert read(pods[0]) == read(pods[2]) == [*range(60)]
    with pods[0].http() as http:
        answer = http.post("/collections/docs/points/scroll", json={"limit": 100})
    assert answer.status_code == 503
    assert "pod-1 cannot be reached" in answer.json()["status"]["error"]
    # It tried again all the while, with rests between.
    assert 10 < metrics(pods[0])["vectorizer_member_request_duration_seconds_count unreachable"] < 200


def test_a_frozen_owner_keeps_nobody_from_reading_a_copy(pods: Pods) -> None:
    write(pods[0], 0, 60)
    wait_until_read_along(pods, 60)
    pods[1].signal(signal.SIGSTOP)
    try:
        assert read(pods[0]) == [*range(60)]
    finally:
        pods[1].signal(signal.SIGCONT)


def test_the_reader_of_a_shard_takes_it_over_with_all_that_was_acknowledged(pods: Pods) -> None:
    write(pods[0], 0, 80)
    wait_until_read_along(pods, 80)
    before = copies(pods[0])
    pods[1].kill()
    pods.publish(0, 2)
    write(pods[2], 80, 100)
    assert read(pods[0], None) == [*range(100)]
    lost = [shard for shard in range(SHARDS) if f"serving shard {shard} of" in pods[1].log]
    assert lost
    for shard in lost:
        [heir] = (each for each in (0, 2) if peer_id(f"pod-{each}") in before[shard])
        assert f"reading shard {shard} of" in pods[heir].log
        assert f"serving shard {shard} of" in pods[heir].log
    wait_until_read_along(pods, 100, 0, 2)
    assert all(peers == {peer_id("pod-0"), peer_id("pod-2")} for peers in copies(pods[0]).values())


def test_an_owner_that_comes_back_is_read_along_until_it_is_the_owner_again(pods: Pods) -> None:
    write(pods[0], 0, 50)
    pods[2].signal(signal.SIGTERM)
    pods.publish(0, 1)
    assert pods[2].wait() == 0
    write(pods[0], 50, 70)
    pods.launch(2)
    pods.publish(0, 1, 2)
    pods.wait_until_moved(0, 1, 2)
    write(pods[2], 70, 90)
    wait_until_read_along(pods, 90)
    assert all(len(peers) == 2 for peers in copies(pods[1]).values())


def test_a_collection_that_is_deleted_is_not_read_any_more(pods: Pods) -> None:
    write(pods[0], 0, 10)
    wait_until_read_along(pods, 10)
    pods[0].client().delete_collection("docs")
    for engine in pods.engines:
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            read(engine)
        eventually(lambda engine=engine: metrics(engine)["vectorizer_shards_read"] == 0)  # type: ignore[misc]
        eventually(lambda engine=engine: not [*(engine.data / "collections").iterdir()])  # type: ignore[misc]


def test_more_copies_than_there_may_be_are_refused(pods: Pods) -> None:
    with pytest.raises(UnexpectedResponse, match="replication_factor is 9: expected 1 to 8"):
        pods[0].client().create_collection("more", DOTS, replication_factor=9)
    with pods[0].http() as http:
        body = {"vectors": {"size": 2, "distance": "Dot"}, "replication_factor": 0}
        assert http.put("/collections/none", json=body).status_code == 400
