"""Pods whose volumes hold only a part of what they serve: real engines over a shared folder, with a small limit."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from qdrant_client import models

from tests.engine.distributed.pods import Pods
from tests.engine.distributed.test_seeing import metrics
from tests.engine.fixtures import EngineProcess
from tests.kube.eventually import eventually
from vectorizer_engine.storage.object_frame import Kind

COLLECTIONS = [f"c{number}" for number in range(4)]
SHARDS = 3
POINTS = 900
DIMENSION = 32
LIMIT = 250_000
"""Each pod has four shards, one of each collection, of about 120 kB."""

VECTORS = np.random.default_rng(0).standard_normal((POINTS, DIMENSION)).astype(np.float32)


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    """Three, with collections of which not all fit on their volumes, and whose heads have been sealed."""
    store = {"url": f"file://{tmp_path}/store", "max_copies_bytes": LIMIT}
    pods = Pods(tmp_path, 3, stores=[store] * 3, covered=True)
    try:
        pods.launch()
        pods.publish(0, 1, 2)
        pods.wait_until_ready()
        for name in COLLECTIONS:
            fill(pods[0], name)
        eventually(lambda: all(fits(pods[number]) for number in range(3)), seconds=60)
        assert sum(metrics(each)["vectorizer_shards_parked"] for each in pods.engines) > 0
        yield pods
    finally:
        pods.close()


def fill(pod: EngineProcess, name: str, *, copies: int = 1) -> None:
    client = pod.client()
    params = models.VectorParams(size=DIMENSION, distance=models.Distance.DOT)
    client.create_collection(name, params, shard_number=SHARDS, replication_factor=copies)
    rows = [models.PointStruct(id=each, vector=VECTORS[each].tolist()) for each in range(POINTS)]
    client.upsert(name, rows, wait=True)
    eventually(lambda: client.get_collection(name).status == "green", seconds=60)


def on_the_volume(pod: EngineProcess) -> int:
    size = 0
    for folder, _, names in os.walk(pod.data / "collections"):
        for name in names:
            with suppress(FileNotFoundError):
                size += (Path(folder) / name).stat().st_size
    return size


def fits(pod: EngineProcess) -> bool:
    return on_the_volume(pod) <= LIMIT


def nearest(pod: EngineProcess, name: str, row: int) -> list[int]:
    query = {"query": VECTORS[row].tolist(), "limit": 3, "params": {"exact": True}}
    with pod.http() as http:
        answer = http.post(f"/collections/{name}/points/query", json=query).raise_for_status().json()
    return [point["id"] for point in answer["result"]["points"]]


def expected(row: int) -> list[int]:
    return np.argsort(-(VECTORS @ VECTORS[row]))[:3].tolist()


def ids(pod: EngineProcess, name: str) -> list[int]:
    with pod.http() as http:
        answer = http.post(f"/collections/{name}/points/scroll", json={"limit": 10_000})
    return [point["id"] for point in answer.raise_for_status().json()["result"]["points"]]


def total(pods: Pods, name: str, *numbers: int) -> float:
    return sum(metrics(pods[number])[name] for number in numbers or range(3))


def claims(folder: Path) -> int:
    return sum(
        file.read_bytes()[8] == Kind.CLAIM for file in (folder / "store").glob("collections/*/*/log/*")
    )


def test_more_is_served_than_the_volumes_hold_under_the_claims_that_there_are(
    pods: Pods, tmp_path: Path
) -> None:
    before = claims(tmp_path)
    opened = total(pods, "vectorizer_shards_opened_again_total")
    for row in range(3):
        for pod in pods.engines:
            for name in COLLECTIONS:
                assert nearest(pod, name, row) == expected(row)
    assert total(pods, "vectorizer_shards_opened_again_total") > opened
    assert claims(tmp_path) == before
    eventually(lambda: all(fits(each) for each in pods.engines))
    for pod in pods.engines:
        seen = metrics(pod)
        assert seen["vectorizer_copies_limit_bytes"] == LIMIT
        assert 0 < seen["vectorizer_copies_bytes"] <= LIMIT
        assert seen["vectorizer_shards_waiting"] == seen["vectorizer_shards_leaving"] == 0


def test_a_parked_shard_is_told_of_as_served_and_is_not_opened_to_be_seen(pods: Pods) -> None:
    opened = total(pods, "vectorizer_shards_opened_again_total")
    assert total(pods, "vectorizer_shards_served") == SHARDS * len(COLLECTIONS)
    assert total(pods, "vectorizer_points") == POINTS * len(COLLECTIONS)
    for pod in pods.engines:
        client = pod.client()
        assert len(client.get_collections().collections) == len(COLLECTIONS)
        for name in COLLECTIONS:
            info = client.get_collection(name)
            assert (info.points_count, info.status) == (POINTS, "green")
            seen = client.http.distributed_api.collection_cluster_info(name).result
            assert seen is not None
            assert {each.state for each in (*seen.local_shards, *seen.remote_shards)} == {"Active"}
        with pod.http() as http:
            assert http.get("/cluster/memory").status_code == 200
            assert http.get("/readyz").status_code == 200
    assert total(pods, "vectorizer_shards_opened_again_total") == opened


def test_what_is_written_to_parked_shards_and_deleted_there_survives_a_kill_of_all(pods: Pods) -> None:
    for name in COLLECTIONS:
        client = pods[1].client()
        client.delete(name, models.PointIdsList(points=list(range(100))))
        client.upsert(name, [models.PointStruct(id=POINTS, vector=VECTORS[0].tolist())], wait=True)
    for engine in pods.engines:
        engine.kill()
    pods.launch()
    pods.wait_until_ready()
    for name in COLLECTIONS:
        assert ids(pods[2], name) == [*range(100, POINTS + 1)]
        with pods[0].http() as http:
            counted: Any = http.post(f"/collections/{name}/points/count", json={}).json()
        assert counted["result"]["count"] == POINTS + 1 - 100
    eventually(lambda: all(fits(each) for each in pods.engines))


def test_parked_shards_move_to_who_is_left_without_being_opened_by_who_goes(pods: Pods) -> None:
    opened = metrics(pods[2])["vectorizer_shards_opened_again_total"]
    pods.publish(0, 1, to=(0, 1, 2))
    began = time.monotonic()
    eventually(lambda: pods.status(2)["leaving"] == 0)
    took = time.monotonic() - began
    assert metrics(pods[2])["vectorizer_shards_opened_again_total"] == opened
    pods[2].signal(signal.SIGTERM)
    pods[2].wait(20)
    assert took < 10
    pods.wait_until_moved(0, 1)
    assert total(pods, "vectorizer_shards_served", 0, 1) == SHARDS * len(COLLECTIONS)
    for name in COLLECTIONS:
        assert ids(pods[0], name) == [*range(POINTS)]
    eventually(lambda: fits(pods[0]) and fits(pods[1]))


def test_parked_shards_of_a_pod_that_was_killed_are_taken_over(pods: Pods) -> None:
    pods[2].kill()
    pods.publish(0, 1)
    for name in COLLECTIONS:
        assert ids(pods[1], name) == [*range(POINTS)]
    eventually(lambda: fits(pods[0]) and fits(pods[1]))


def test_a_shard_that_is_larger_than_the_limit_is_served_and_that_is_said_once(tmp_path: Path) -> None:
    store = {"url": f"file://{tmp_path}/store", "max_copies_bytes": 1000}
    pods = Pods(tmp_path, 1, stores=[store])
    try:
        pods.launch()
        pods.publish(0)
        pods.wait_until_ready()
        fill(pods[0], "c0")
        for row in range(5):
            eventually(lambda: metrics(pods[0])["vectorizer_shards_parked"] == SHARDS)
            assert nearest(pods[0], "c0", row) == expected(row)
        assert pods[0].log.count("more than the 1000 that") == SHARDS
    finally:
        pods.close()


def test_under_requests_for_more_than_fits_nothing_fails(pods: Pods) -> None:
    """Three clients, each after another collection at a time, as fast as they can."""

    def ask(number: int) -> None:
        for row in range(20):
            name = COLLECTIONS[(number + row) % len(COLLECTIONS)]
            assert nearest(pods[number], name, row) == expected(row)
            vector = {"id": 10_000 + 100 * number + row, "vector": [0.0] * DIMENSION}
            with pods[number].http() as http:
                url = f"/collections/{name}/points?wait=true"
                http.put(url, json={"points": [vector]}).raise_for_status()

    with ThreadPoolExecutor(3) as threads:
        for done in [threads.submit(ask, number) for number in range(3)]:
            done.result()
    assert sum(len(ids(pods[0], name)) for name in COLLECTIONS) == POINTS * len(COLLECTIONS) + 60
    assert httpx.get(pods[0].url + "/readyz").status_code == 200
    eventually(lambda: all(fits(each) for each in pods.engines))


def test_shards_that_are_read_along_give_way_to_those_that_are_served(tmp_path: Path) -> None:
    store = {"url": f"file://{tmp_path}/store", "max_copies_bytes": LIMIT}
    pods = Pods(tmp_path, 2, stores=[store] * 2)
    try:
        pods.launch()
        pods.publish(0, 1)
        pods.wait_until_ready()
        for name in ("c0", "c1"):
            fill(pods[0], name, copies=2)
        eventually(lambda: all(fits(each) for each in pods.engines), seconds=60)
        eventually(lambda: total(pods, "vectorizer_shards_read", 0, 1) < 2 * SHARDS)
        for pod in pods.engines:
            for name in ("c0", "c1"):
                with pod.http() as http:
                    url = f"/collections/{name}/points/scroll?consistency=1"
                    answer = http.post(url, json={"limit": 10_000}).raise_for_status().json()
                assert len(answer["result"]["points"]) == POINTS
        assert total(pods, "vectorizer_shards_served", 0, 1) == 2 * SHARDS
        eventually(lambda: all(fits(each) for each in pods.engines), seconds=60)
    finally:
        pods.close()
