"""A cluster over an S3 store on Kubernetes: pod and volume may be lost together."""

from typing import Any

import pytest
import yaml
from qdrant_client import QdrantClient, models

from tests.e2e.harness import ROOT, Installation, Object, Operator, is_ready
from tests.engine.s3 import S3Server
from tests.kube.eventually import eventually
from tests.kube.kubelet import Kubelet

CLUSTER, SECRET = yaml.safe_load_all((ROOT / "examples" / "object-store.yaml").read_text())
NAME = CLUSTER["metadata"]["name"]


def over(server: S3Server, prefix: str) -> list[Object]:
    """The example, with this server's address and credentials."""
    store = {"url": f"{server.url}/{prefix}", "endpoint": server.settings["endpoint"]}
    storage = CLUSTER["spec"]["storage"]
    storage = {**storage, "objectStore": {**storage["objectStore"], **store}}
    credentials = {
        "AWS_ACCESS_KEY_ID": server.settings["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": server.settings["secret_access_key"],
    }
    cluster = {**CLUSTER, "spec": {**CLUSTER["spec"], "storage": storage}}
    return [{**SECRET, "stringData": credentials}, cluster]


def ready_pod(installation: Installation, *, after: str = "") -> Object | None:
    """The pod, once it and the cluster are ready and it is another one than that of the uid *after*."""
    pods = installation.get("pods", f"--selector=vectorizer.io/cluster={NAME}")["items"]
    if [pod["metadata"]["uid"] for pod in pods] in ([], [after]):
        return None
    return pods[0] if is_ready(installation.get("vzc", NAME)) else None


def points(qdrant: QdrantClient) -> Any:
    return qdrant.scroll("c", limit=1000, with_vectors=True)[0]


def client(pod: Object) -> QdrantClient:
    return QdrantClient(f"http://{pod['status']['podIP']}:6333", timeout=30)


@pytest.mark.timeout(180)
def test_a_pod_that_lost_its_volume_comes_back_with_everything(
    installation: Installation, operator: Operator, kubelet: Kubelet, s3: S3Server
) -> None:
    installation.apply(*over(s3, "one-pod"))
    first = eventually(lambda: ready_pod(installation), seconds=60, why=operator.log)
    qdrant = client(first)
    qdrant.create_collection("c", models.VectorParams(size=4, distance=models.Distance.DOT))
    for start in range(0, 500, 50):
        batch = [
            models.PointStruct(id=n, vector=[n, 1, 2, 3], payload={"n": n}) for n in range(start, start + 50)
        ]
        qdrant.upsert("c", batch)
    qdrant.delete("c", [7, 8])
    before = points(qdrant)
    assert len(before) == 498

    claim = f"data-{NAME}-0"
    volume = installation.get("pvc", claim)["spec"]["volumeName"]
    installation.kubectl("delete", "pvc", claim, "--wait=false")
    installation.kubectl("delete", "pod", f"{NAME}-0", "--wait=false")
    second = eventually(
        lambda: ready_pod(installation, after=first["metadata"]["uid"]), seconds=60, why=operator.log
    )
    assert installation.get("pvc", claim)["spec"]["volumeName"] != volume
    assert points(client(second)) == before
    kubelet.check()
