"""What the operator survives: an API server that goes away, and a definition that is not there yet.

On a control plane of its own, since no other test would like to share one that is treated like this.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.e2e.harness import CRD, Installation, Operator
from tests.e2e.quickstart import CHILDREN, NAME, accepted, cluster, names, roll_out
from tests.kube.controlplane import CommandError, ControlPlane
from tests.kube.eventually import eventually


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("fragile")) as running:
        yield running


@pytest.fixture
def installed(
    fragile: ControlPlane, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Installation]:
    namespace = request.node.name[5:].replace("_", "-")[:40].strip("-")
    fragile.kubectl("create", "namespace", namespace)
    made = Installation(fragile, namespace, tmp_path)
    yield made
    made.remove_cluster_wide()


def is_up(control_plane: ControlPlane) -> bool:
    try:
        return control_plane.kubectl("get", "--raw", "/readyz") == "ok"
    except CommandError:
        return False


def test_an_api_server_that_is_restarted_is_survived_with_every_watch(
    fragile: ControlPlane, installed: Installation
) -> None:
    operator = Operator(installed).start()
    try:
        roll_out(installed)
        fragile.kill("kube-apiserver")
        fragile.start_again("kube-apiserver")
        eventually(lambda: is_up(fragile), seconds=60)
        for kind, name in sorted(CHILDREN):
            uid = installed.get(kind, name)["metadata"]["uid"]
            installed.kubectl("delete", kind, name, "--wait=false")
            eventually(lambda child=(kind, name): child in names(installed), why=operator.log)
            eventually(
                lambda kind=kind, name=name, uid=uid: installed.get(kind, name)["metadata"]["uid"] != uid
            )
        eventually(lambda: accepted(installed, cluster(cluster={"maxCacheMemory": "128Mi"})))
        eventually(lambda: str(128 * 1024**2) in installed.get("cm", f"{NAME}-config")["data"]["config.yml"])
        assert operator.ask("/healthz") == "ok\n"
    finally:
        operator.stop()


def test_an_api_server_that_is_not_there_yet_is_waited_for(
    fragile: ControlPlane, installed: Installation
) -> None:
    operator = Operator(installed)
    fragile.kill("kube-apiserver")
    operator.start(wait=False)
    try:
        eventually(lambda: "cannot list the clusters, trying again" in operator.log())
        fragile.start_again("kube-apiserver")
        eventually(lambda: operator.ask("/readyz") == "ok\n", seconds=60, why=operator.log)
        eventually(lambda: operator.leads)
    finally:
        operator.stop()


def test_a_missing_definition_is_waited_for(fragile: ControlPlane, installed: Installation) -> None:
    fragile.kubectl("delete", "crd", "vectorizerclusters.vectorizer.io")
    operator = Operator(installed).start(wait=False)
    try:
        eventually(lambda: "is not installed, waiting" in operator.log())
        eventually(lambda: operator.ask("/healthz") == "ok\n")
        assert "not every watch is open yet" in (operator.ask("/readyz") or "")
        installed.apply(yaml.safe_load(CRD.read_text()))
        eventually(lambda: operator.ask("/readyz") == "ok\n", why=operator.log)
        eventually(lambda: accepted(installed, cluster()), why=operator.log)
        eventually(lambda: names(installed) == CHILDREN)
    finally:
        operator.stop()
