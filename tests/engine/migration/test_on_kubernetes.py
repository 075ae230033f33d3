"""The example of docs/users/MIGRATION.md, carried out: a Job migrates a claim, and a cluster's pod serves it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import yaml
from qdrant_client import QdrantClient

from tests.engine.migration.standalone import Standalone, fill
from tests.kube.controlplane import ControlPlane
from tests.kube.eventually import eventually
from tests.kube.kubelet import Kubelet
from vectorizer_engine.collection.types import StorageType
from vectorizer_operator.api import VectorizerCluster
from vectorizer_operator.manifests import render

DOCUMENT = Path(__file__).parents[3] / "docs" / "users" / "MIGRATION.md"
CLAIM = "data-search-0"


def example(name: str) -> list[dict[str, Any]]:
    """The objects of a file that the document shows."""
    found = re.search(
        rf"<!-- example: {re.escape(name)} -->\n```yaml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL
    )
    assert found is not None
    return list(yaml.safe_load_all(found[1]))


def test_the_documented_job_migrates_a_claim_that_a_cluster_then_serves(
    control_plane: ControlPlane, kubelet: Kubelet, namespace: str, tmp_path: Path
) -> None:
    kubelet.check()

    def kubectl(*arguments: str, stdin: str | None = None) -> str:
        return control_plane.kubectl(*arguments, f"--namespace={namespace}", stdin=stdin)

    def apply(objects: list[dict[str, Any]]) -> None:
        kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(objects))

    [manifest] = example("search.yaml")
    size = manifest["spec"]["storage"]["size"]
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
    apply([{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": CLAIM}, "spec": spec}])
    kubectl("wait", f"pvc/{CLAIM}", "--for=jsonpath={.status.phase}=Bound", "--timeout=30s")
    volume = kubectl("get", f"pvc/{CLAIM}", "-o", "jsonpath={.spec.volumeName}")
    folder = Path(control_plane.kubectl("get", f"pv/{volume}", "-o", "jsonpath={.spec.hostPath.path}"))
    standalone = Standalone(tmp_path / "standalone")
    fill(standalone)
    shutil.copytree(standalone.data, folder, dirs_exist_ok=True)
    assert standalone.storages()["large"] is StorageType.MEMORY

    apply(example("migration.yaml"))
    kubectl("wait", "--for=condition=Complete", "job/search-migration", "--timeout=60s")

    migrated = Standalone(tmp_path / "migrated")
    shutil.copytree(folder, migrated.data)
    assert set(migrated.storages().values()) == {StorageType.MMAP}
    cluster = VectorizerCluster.parse(
        {**manifest, "metadata": {**manifest["metadata"], "namespace": namespace}}
    )
    children = render(cluster, default_image="vectorizer")
    apply(
        [
            each
            for each in children
            if each["kind"] in ("ConfigMap", "ServiceAccount", "StatefulSet", "Service")
        ]
    )
    eventually(lambda: "search-0" in kubectl("get", "pods", "-o", "name"))
    kubectl("wait", "--for=condition=Ready", "pod/search-0", "--timeout=60s")
    address = kubectl("get", "pod/search-0", "-o", "jsonpath={.status.podIP}")
    port = next(each for each in children if each["kind"] == "Service")["spec"]["ports"][0]["port"]
    client = QdrantClient(url=f"http://{address}:{port}", timeout=30)
    assert {name: client.count(name).count for name in ("large", "small", "mapped")} == {
        "large": 297,
        "small": 3,
        "mapped": 10,
    }
    client.close()
