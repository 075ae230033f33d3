"""Several pods over one store on Kubernetes: they serve together, and come and go while clients notice nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.e2e.harness import Installation, Object, Operator, is_ready
from tests.e2e.test_object_store import over
from tests.engine.s3 import S3Server
from tests.kube.eventually import eventually
from tests.kube.kubelet import Kubelet

NAME = "durable"


class Load:
    """A client that goes on writing and reading through the cluster's Service, and remembers what it was answered."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=30)
        self.acknowledged: dict[int, int] = {}
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()
            self._http.close()

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            point = number % 97
            body = {"points": [{"id": point, "vector": [point, 1, 2, 3], "payload": {"n": number}}]}
            try:
                answer = self._http.put("/collections/c/points", params={"wait": "true"}, json=body)
                if answer.status_code != 200:
                    self.failures.append(f"write {number}: {answer.text}")
                    continue
                self.acknowledged[point] = number
                answer = self._http.post("/collections/c/points", json={"ids": [point]})
                found = answer.json()["result"] if answer.status_code == 200 else answer.text
                if answer.status_code != 200 or found[0]["payload"] != {"n": number}:
                    self.failures.append(f"read {number}: {found}")
            except httpx.TransportError as error:
                self.failures.append(f"{number}: {error!r}")


def ready(installation: Installation, pods: int) -> bool:
    cluster = installation.get("vzc", NAME)
    return is_ready(cluster) and cluster["status"]["readyReplicas"] == pods


def pods(installation: Installation) -> list[Object]:
    found: list[Object] = installation.get("pods", f"--selector=vectorizer.io/cluster={NAME}")["items"]
    return found


def uids(installation: Installation) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods(installation)}


@pytest.mark.timeout(300)
def test_pods_come_and_go_while_clients_write_and_read(
    installation: Installation, operator: Operator, kubelet: Kubelet, s3: S3Server
) -> None:
    def reach(count: int) -> None:
        eventually(lambda: ready(installation, count), seconds=90, why=why)

    def why() -> str:
        logs = "\n".join(
            kubelet.log(installation.namespace, pod["metadata"]["name"])[-3000:] for pod in pods(installation)
        )
        return f"{operator.log()[-6000:]}\n{logs}\n{installation.get('vzc', NAME)['status']}"

    secret, cluster = over(s3, "several-pods")
    cluster = {**cluster, "spec": {**cluster["spec"], "replicas": 3}}
    installation.apply(secret, cluster)
    reach(3)
    service: Any = installation.get("service", NAME)
    url = f"http://{service['spec']['clusterIP']}:6333"
    with httpx.Client(base_url=url, timeout=30) as http:
        http.put("/collections/c", json={"vectors": {"size": 4, "distance": "Dot"}}).raise_for_status()
    load = Load(url)
    with load.running():
        eventually(lambda: len(load.acknowledged) > 50, why=lambda: str(load.failures))
        installation.kubectl("scale", f"vzc/{NAME}", "--replicas=4")
        reach(4)
        installation.kubectl("scale", f"vzc/{NAME}", "--replicas=2")
        reach(2)
        before = uids(installation)
        cluster["spec"] = {**cluster["spec"], "replicas": 2, "cluster": {"maxCacheMemory": "128Mi"}}
        installation.apply(cluster)
        eventually(lambda: not before & uids(installation), seconds=90, why=why)
        reach(2)
        deleted = pods(installation)[0]
        installation.kubectl("delete", "pod", deleted["metadata"]["name"])
        eventually(lambda: deleted["metadata"]["uid"] not in uids(installation), seconds=90, why=why)
        reach(2)
    assert load.failures == []
    with httpx.Client(base_url=url, timeout=30) as http:
        answer = http.post("/collections/c/points", json={"ids": sorted(load.acknowledged)})
        found = {each["id"]: each["payload"]["n"] for each in answer.json()["result"]}
    assert found == load.acknowledged
    kubelet.check()
