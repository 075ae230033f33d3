"""docs/users/MIGRATION.md on Kubernetes, followed to the letter: from a standalone engine to a cluster, and back."""

import re
import shutil
from pathlib import Path

import pytest
from qdrant_client import QdrantClient, models

from tests.docs.test_runnable_blocks import ROOT, blocks, shell
from tests.e2e.harness import Installation, Object, Operator, is_ready
from tests.kube.controlplane import ControlPlane
from tests.kube.eventually import eventually
from tests.kube.kubelet import Kubelet

PAGE = "docs/users/MIGRATION.md"
POINTS = 300
CLAIM = "data-search-0"

STANDALONE = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: search}
data:
  config.yml: |
    storage: {path: /var/lib/vectorizer, type: memory}
---
apiVersion: v1
kind: Service
metadata: {name: search}
spec:
  selector: {app: search}
  ports: [{port: 6333}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: search}
spec:
  serviceName: search
  selector: {matchLabels: {app: search}}
  template:
    metadata: {labels: {app: search}}
    spec:
      automountServiceAccountToken: false
      containers:
        - name: engine
          image: vectorizer
          command: [vectorizer]
          args: [serve, --config, /etc/vectorizer/config.yml]
          ports: [{containerPort: 6333}]
          readinessProbe: {httpGet: {path: /readyz, port: 6333}, periodSeconds: 1}
          volumeMounts:
            - {name: config, mountPath: /etc/vectorizer}
            - {name: data, mountPath: /var/lib/vectorizer}
      volumes: [{name: config, configMap: {name: search}}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
"""


class Steps:
    """The page's blocks for Kubernetes, one after the other, in a folder with the files that it shows."""

    def __init__(self, control_plane: ControlPlane, namespace: str, folder: Path) -> None:
        self.folder = folder
        self.kubeconfig = Path(shutil.copy(control_plane.kubeconfig, folder / "kubeconfig"))
        control_plane.kubectl(
            *("config", "set-context", "--current", f"--namespace={namespace}"), kubeconfig=self.kubeconfig
        )
        files = re.findall(
            r"<!-- example: (\S+) -->\n```yaml\n(.*?)```", (ROOT / PAGE).read_text(), re.DOTALL
        )
        for name, content in [*files, ("standalone.yaml", STANDALONE)]:
            (folder / name).write_text(content)
        self.left = [script for block in blocks(PAGE) if (script := block.script("kubernetes"))]

    def take(self) -> None:
        """Do the next one."""
        shell(self.left.pop(0), self.folder, cwd=self.folder, KUBECONFIG=str(self.kubeconfig))


def pod(installation: Installation) -> Object:
    return installation.get("pod", "search-0")


def answers(installation: Installation) -> list[list[tuple[int, float]]]:
    """What the pod finds, which has to be ready."""
    installation.kubectl("wait", "--for=condition=Ready", "pod/search-0", "--timeout=60s")
    client = QdrantClient(f"http://{pod(installation)['status']['podIP']}:6333", timeout=30)
    asked = [models.QueryRequest(query=[n, 1.0, n % 7, 2.0], limit=10) for n in range(0, POINTS, 10)]
    found = client.query_batch_points("notes", requests=asked)
    client.close()
    return [[(hit.id, hit.score) for hit in each.points] for each in found]


def fill(installation: Installation) -> None:
    """Points in memory storage, which is the default of the standalone engine's configuration."""
    installation.kubectl("wait", "--for=condition=Ready", "pod/search-0", "--timeout=60s")
    client = QdrantClient(f"http://{pod(installation)['status']['podIP']}:6333", timeout=30)
    client.create_collection("notes", models.VectorParams(size=4, distance=models.Distance.DOT))
    points = [models.PointStruct(id=n, vector=[n, 1, 2, n % 5], payload={"n": n}) for n in range(POINTS)]
    client.upsert("notes", points)
    assert client.get_collection("notes").config.params.vectors.on_disk is False
    client.close()


def size(installation: Installation) -> str:
    asked_for: str = installation.get("pvc", CLAIM)["spec"]["resources"]["requests"]["storage"]
    return asked_for


def is_settled(installation: Installation) -> bool:
    """Whether the StatefulSet that was made anew has taken its pod over."""
    return is_ready(installation.get("vzc", "search")) and "ownerReferences" in pod(installation)["metadata"]


@pytest.mark.timeout(240)
def test_the_documented_steps_take_a_standalone_engines_claim_over_and_give_it_back(
    installation: Installation, operator: Operator, kubelet: Kubelet, tmp_path: Path
) -> None:
    folder = tmp_path / "steps"
    folder.mkdir()
    steps = Steps(installation.control_plane, installation.namespace, folder)
    installation.kubectl("apply", "-f", str(folder / "standalone.yaml"))
    eventually(lambda: "pod/search-0" in installation.kubectl("get", "pods", "-o", "name"))
    fill(installation)
    before, claim = answers(installation), installation.get("pvc", CLAIM)["metadata"]["uid"]

    steps.take()
    job = installation.get("pods", "--selector=job-name=search-migration")["items"][0]["metadata"]["name"]
    assert f"notes: in mmap storage; {POINTS} points" in kubelet.log(installation.namespace, job)
    steps.take()
    assert answers(installation) == before
    assert installation.get("vzc", "search")["status"]["readyReplicas"] == 1
    installation.kubectl(
        "patch", "vzc", "search", "--type=merge", '-p={"spec": {"storage": {"size": "2Gi"}}}'
    )
    eventually(lambda: size(installation) == "2Gi" and is_settled(installation), why=operator.log)

    steps.take()
    assert answers(installation) == before
    assert installation.get("pvc", CLAIM)["metadata"]["uid"] == claim
    assert steps.left == []
