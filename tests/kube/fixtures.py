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
    """An empty namespace, named after the test; its deletion is begun afterwards and not waited for."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    name = control_plane.kubectl(
        "create", "-o", "jsonpath={.metadata.name}", "-f", "-",
        stdin=f"{{apiVersion: v1, kind: Namespace, metadata: {{generateName: {words[:50].strip('-')}-}}}}",
    )  # fmt: skip
    yield name
    control_plane.kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")
