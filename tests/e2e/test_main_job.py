"""The main job, from `kubectl apply` to deletion: real operator, real engine, real vectors, unmodified client."""

import asyncio
import gzip
import json
import time

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from tests.e2e.harness import (
    ROOT,
    Installation,
    Object,
    Operator,
    at_rest,
    comes_true,
    is_ready,
    recording,
    versions,
)
from tests.e2e.quickstart import NAME, QUICKSTART, cluster, names
from tests.kube.kubelet import Kubelet
from vectorizer_operator.kube.client import KubeClient

DATA = ROOT / "examples" / "data"
VECTORS = 1000
READY_SECONDS = 30


def load(qdrant: QdrantClient) -> None:
    """The first packages of the demo's data: their real embeddings, with their descriptions as payload."""
    vectors = np.load(DATA / "packages.f16.npy")[:VECTORS].astype(np.float32)
    with gzip.open(DATA / "packages.jsonl.gz", "rt") as lines:
        payloads = [json.loads(line) for line, _ in zip(lines, range(VECTORS), strict=False)]
    shape = models.VectorParams(size=vectors.shape[1], distance=models.Distance.COSINE)
    qdrant.create_collection("packages", vectors_config=shape)
    for start in range(0, VECTORS, 250):
        points = [
            models.PointStruct(id=number, vector=vectors[number].tolist(), payload=payloads[number])
            for number in range(start, start + 250)
        ]
        qdrant.upsert("packages", points=points, wait=True)


def answers(qdrant: QdrantClient) -> list[list[tuple[int | str, float]]]:
    """What the demo's questions find, with scores."""
    questions = [json.loads(line) for line in (DATA / "demo-queries.jsonl").read_text().splitlines()]
    return [
        [
            (point.id, round(point.score, 5))
            for point in qdrant.query_points("packages", query=_vector(question), limit=10).points
        ]
        for question in questions
    ]


def nearest() -> list[int]:
    """The nearest package to each question, by comparing all of them."""
    vectors = np.load(DATA / "packages.f16.npy")[:VECTORS].astype(np.float32)
    lines = (DATA / "demo-queries.jsonl").read_text().splitlines()
    return [int(np.argmax(vectors @ np.array(_vector(json.loads(line)), np.float32))) for line in lines]


def _vector(question: Object) -> list[float]:
    return next(value for value in question.values() if isinstance(value, list))


def pod(installation: Installation) -> Object:
    return installation.get("pod", f"{NAME}-0")


def reasons(installation: Installation) -> list[str]:
    """The reasons of the cluster's own Events, oldest first."""
    found = json.loads(
        installation.kubectl(
            "get", "events.v1.events.k8s.io", f"--field-selector=regarding.name={NAME}", "-o", "json"
        )
    )["items"]
    ours = [each for each in found if each["regarding"]["kind"] == "VectorizerCluster"]
    return [each["reason"] for each in sorted(ours, key=lambda each: each["eventTime"])]


def pods_made(installation: Installation) -> int:
    """How many pods the cluster ever had."""
    return sum(
        event["verb"] == "create"
        and event["objectRef"].get("resource") == "pods"
        and "subresource" not in event["objectRef"]
        and event["objectRef"].get("namespace") == installation.namespace
        for event in installation.control_plane.writes()
    )


@pytest.mark.timeout(180)
async def test_the_main_job(
    installation: Installation, operator: Operator, kubelet: Kubelet, client: KubeClient
) -> None:
    async with recording(installation.control_plane, installation.namespace, NAME) as record:
        # From ten lines of YAML to a cluster that answers.
        began = time.monotonic()
        installation.apply(QUICKSTART)
        await comes_true(record.ready, seconds=READY_SECONDS, why=operator.log)
        assert time.monotonic() - began <= READY_SECONDS
        first = pod(installation)
        qdrant = QdrantClient(url=f"http://{first['status']['podIP']}:6333", timeout=30)
        await asyncio.to_thread(load, qdrant)
        found = await asyncio.to_thread(answers, qdrant)
        assert [question[0][0] for question in found] == nearest()

        # An edit restarts the pod once, and loses nothing.
        edited = cluster(podDisruptionBudget={"enabled": False}, cluster={"maxCacheMemory": "128Mi"})
        generation = record.states[-1]["metadata"]["generation"]
        installation.apply(edited)
        ready = await comes_true(
            lambda: (state := record.ready()) and state["metadata"]["generation"] > generation and state,
            seconds=60,
            why=operator.log,
        )
        second = pod(installation)
        assert second["metadata"]["uid"] != first["metadata"]["uid"]
        assert ready["status"]["cache"]["limitBytes"] == 128 * 1024**2
        assert int(ready["metadata"]["resourceVersion"]) > int(second["metadata"]["resourceVersion"]), (
            "Ready was written before the new pod was"
        )
        verdicts = [is_ready(each) for each in record.states if each["metadata"]["generation"] > generation]
        assert verdicts[0] is False
        assert verdicts == sorted(verdicts), "it was ready, and then it was not"
        for each in filter(is_ready, record.states):
            counts = [each["status"][name] for name in ("replicas", "readyReplicas", "updatedReplicas")]
            assert counts == [1, 1, 1]
        qdrant = QdrantClient(url=f"http://{second['status']['podIP']}:6333", timeout=30)
        assert (await asyncio.to_thread(qdrant.count, "packages")).count == VECTORS
        assert await asyncio.to_thread(answers, qdrant) == found
        writes = await asyncio.to_thread(at_rest, installation)
        assert pods_made(installation) == 2

        # Another operator process finds nothing to do.
        before = await versions(client, installation.namespace)
        assert operator.stop() == 0
        operator.start()
        await comes_true(lambda: operator.leads)
        rounds = "vectorizer_operator_reconcile_duration_seconds_count"
        await comes_true(lambda: operator.metric(rounds) >= 1)
        assert installation.writes() == writes
        assert await versions(client, installation.namespace) == before
        assert pod(installation)["status"]["containerStatuses"][0]["restartCount"] == 0

        # What people read with `kubectl describe`: it began, it was ready, and the same again for the edit.
        assert reasons(installation) == ["Progressing", "PodsReady", "Progressing", "PodsReady"]

    # Deleted: everything goes but the data.
    installation.kubectl("delete", "vzc", NAME)
    await comes_true(lambda: names(installation) == set())
    await comes_true(lambda: not installation.kubectl("get", "pods", "-o", "name"))
    assert f"data-{NAME}-0" in installation.kubectl("get", "pvc", "-o", "name")
    kubelet.check()
