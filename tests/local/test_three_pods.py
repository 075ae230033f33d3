"""Several pods over one store on this machine: any pod answers for all, and they come and go without a loss."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import yaml
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from tests.kube.eventually import eventually
from tests.local.commands import Local
from vectorizer_operator.local.state import StateFolder
from vectorizer_operator.plan.topology import LOST_AFTER

EXAMPLE = Path(__file__).parents[2] / "examples" / "three-pods.yaml"
VECTORS = np.random.default_rng(7).normal(size=(200, 16)).astype(np.float32).tolist()


def example(**spec: Any) -> str:
    """The example with other fields in its spec."""
    claim, cluster = yaml.safe_load_all(EXAMPLE.read_text())
    cluster["spec"] |= spec
    return yaml.safe_dump_all([claim, cluster])


def point(number: int) -> models.PointStruct:
    return models.PointStruct(id=number, vector=VECTORS[number % len(VECTORS)])


def clients(local: Local) -> list[QdrantClient]:
    """One for each pod."""
    pods = local.cluster()["pods"]
    return [QdrantClient(f"http://{pod['address']}", check_compatibility=False, timeout=30) for pod in pods]


def internal_key(local: Local) -> str:
    """What the engines show each other."""
    return StateFolder(local.folder).desired()["three"].secrets["three-internal"]["key"]


def create(client: QdrantClient) -> None:
    client.create_collection("c", models.VectorParams(size=16, distance=models.Distance.COSINE))


def holds(client: QdrantClient, numbers: set[int]) -> bool:
    found = client.retrieve("c", sorted(numbers), with_payload=False)
    return {record.id for record in found} == numbers


def starts(error: ResponseHandlingException | UnexpectedResponse) -> bool:
    """Whether it comes from a pod to which a Service sends no requests: it takes no connection, or is not ready."""
    return isinstance(error, ResponseHandlingException) or b"still recovering its data" in error.content


@contextmanager
def written_meanwhile(pods: list[QdrantClient], acknowledged: set[int]) -> Iterator[None]:
    """Points are written and searched for through one of `pods`, or through another while that one starts, as behind a
    Service. Whatever else a pod answers but success fails the test."""
    ended = threading.Event()
    failures: list[str] = []

    def somewhere(number: int, request: Any) -> None:
        for attempt in count():
            try:
                request(pods[(number + attempt) % len(pods)])
                return
            except (ResponseHandlingException, UnexpectedResponse) as error:
                if attempt > 100 or not starts(error):
                    raise
                time.sleep(0.02)

    def work(first: int) -> None:
        try:
            for number in count(first, 3):
                somewhere(number, lambda pod: pod.upsert("c", [point(number)], wait=True))  # noqa: B023
                acknowledged.add(number)
                somewhere(number, lambda pod: pod.query_points("c", VECTORS[3], limit=5))
                if ended.wait(0.05):
                    return
        except Exception as error:  # noqa: BLE001 - shown in the test's own thread
            failures.append(str(error))

    threads = [threading.Thread(target=work, args=(1000 + each,)) for each in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert failures == []


def test_pods_come_and_go_and_are_replaced_while_every_request_is_answered(local: Local) -> None:
    local.do("up", "-f", str(EXAMPLE))
    pods = clients(local)
    create(pods[0])
    pods[0].upsert("c", [point(each) for each in range(200)], wait=True)
    hits = [[hit.id for hit in pod.query_points("c", VECTORS[3], limit=5).points] for pod in pods]
    assert hits[0][0] == 3
    assert hits == [hits[0]] * 3
    acknowledged = set(range(200))
    key = internal_key(local)
    with written_meanwhile(pods[:2], acknowledged):
        assert local.do("scale", "5").startswith("three runs as 5 pods after")
        assert local.cluster()["topology"]["members"] == [f"three-{each}" for each in range(5)]
        local.do("scale", "three", "2")
        assert [pod["name"] for pod in local.cluster()["pods"]] == ["three-0", "three-1"]
        assert local.cluster()["topology"]["members"] == ["three-0", "three-1"]
        before = {pod["pid"] for pod in local.cluster()["pods"]}
        changed = example(replicas=2, cluster={"maxCacheMemory": "128Mi"})
        local.do("up", "-f", "-", stdin=changed)
        assert before.isdisjoint(pod["pid"] for pod in local.cluster()["pods"])
    local.do("down")
    local.do("up", "-f", "-", stdin=changed)
    assert all(holds(pod, acknowledged) for pod in clients(local))
    assert internal_key(local) == key


def test_a_killed_pod_is_the_same_member_again_and_one_that_stays_away_is_replaced(local: Local) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "three-internal"}}
    file = (
        yaml.safe_dump({**secret, "stringData": {"key": "a key of one's own"}})
        + "---\n"
        + EXAMPLE.read_text()
    )
    local.do("up", "-f", "-", stdin=file)
    pods = clients(local)
    create(pods[1])
    pods[1].upsert("c", [point(each) for each in range(200)], wait=True)
    before = local.cluster()
    os.kill(before["pods"][0]["pid"], signal.SIGKILL)
    began = time.monotonic()
    eventually(lambda: local.cluster()["pods"][0]["restarts"] == 1 and local.cluster()["ready"])
    unchanged = local.cluster()["topology"] == before["topology"]
    assert unchanged or time.monotonic() - began > LOST_AFTER.total_seconds()
    os.kill(
        local.cluster()["pods"][0]["pid"], signal.SIGKILL
    )  # now it has to wait before it is started again
    eventually(lambda: "three: engine three-0 does not answer" in local.do("status"))
    assert local.cluster()["endpoint"] == f"http://{before['pods'][1]['address']}"
    eventually(lambda: local.cluster()["topology"]["members"] == ["three-1", "three-2"])
    rows = [row.split()[-4:] for row in local.do("status").splitlines()[1:4]]
    assert [(row[0], row[-1]) for row in rows] == [("three-0", "no"), ("three-1", "yes"), ("three-2", "yes")]
    assert holds(pods[1], set(range(200)))
    known = httpx.get(
        f"{local.cluster()['endpoint']}/internal/topology", headers={"api-key": "a key of one's own"}
    )
    assert known.json()["version"] == local.cluster()["topology"]["version"]
