"""Fixtures of the real Kubernetes, for all tests of this repository (`tests/conftest.py` loads them).

One control plane and one node serve the whole session and start when the first test asks for them; each test works
in a namespace of its own.
"""

import re
import sys
from collections.abc import Iterator

import pytest

from tests.kube.controlplane import ControlPlane
from tests.kube.kubelet import Kubelet

_WORKLOADS = (
    "apis/apps/v1/*/deployments",
    "apis/apps/v1/*/statefulsets",
    "apis/batch/v1/*/jobs",
    "api/v1/*/pods",
)


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A running control plane. See `ControlPlane` for kubectl, kubeconfigs, and the record of all writes."""
    if sys.platform != "linux":
        pytest.skip("the Kubernetes of the tests needs Linux, which answers at all of 127.0.0.0/8")
    with ControlPlane(tmp_path_factory.mktemp("control-plane")) as running:
        yield running


@pytest.fixture(scope="session")
def kubelet(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubelet]:
    """A node of `control_plane` that runs pods, binds claims and serves cluster IPs."""
    with Kubelet(control_plane, tmp_path_factory.mktemp("node")) as running:
        yield running


@pytest.fixture
def namespace(control_plane: ControlPlane, request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty namespace, named after the test, of which nothing goes on afterwards.

    One with workloads is deleted, which is not waited for. Others stay: the deletion of each would be half a second of
    work for the control plane. Clusters do not, as the operator of a later test would take them up.
    """
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    name = control_plane.kubectl(
        "create", "-o", "jsonpath={.metadata.name}", "-f", "-",
        stdin=f"{{apiVersion: v1, kind: Namespace, metadata: {{generateName: {words[:50].strip('-')}-}}}}",
    )  # fmt: skip
    yield name
    control_plane.request("DELETE", f"/apis/vectorizer.io/v1/namespaces/{name}/vectorizerclusters")
    for kind in _WORKLOADS:
        found = control_plane.request("GET", f"/{kind.replace('*', f'namespaces/{name}')}")
        if found is not None and found["items"]:
            control_plane.request("DELETE", f"/api/v1/namespaces/{name}")
            return
