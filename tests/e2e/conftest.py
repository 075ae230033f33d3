"""Fixtures of the operator's end-to-end tests."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Installation, Operator
from tests.e2e.quickstart import roll_out
from tests.engine.s3 import s3
from tests.kube.controlplane import ControlPlane
from tests.operator.connections import connect
from vectorizer_operator.kube.client import KubeClient

__all__ = ["s3"]


@pytest.fixture
def installation(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[Installation]:
    """The chart's objects in the test's namespace, without an operator."""
    made = Installation(control_plane, namespace, tmp_path)
    yield made
    made.remove_cluster_wide()


@pytest.fixture
def operator(installation: Installation) -> Iterator[Operator]:
    """A ready operator that looks after the test's namespace."""
    made = Operator(installation)
    yield made.start()
    made.stop()


@pytest.fixture
async def client(control_plane: ControlPlane) -> AsyncIterator[KubeClient]:
    """The API server, as administrator."""
    async with KubeClient(await connect(control_plane)) as client:
        yield client


@pytest.fixture(scope="module")
def module_installation(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """The quickstart with every child, rolled out by an operator, for tests that leave it as it was."""
    control_plane.kubectl("create", "namespace", "shared")
    made = Installation(control_plane, "shared", tmp_path_factory.mktemp("shared"))
    operator = Operator(made).start()
    roll_out(made)
    yield made
    operator.stop()
    made.remove_cluster_wide()
    control_plane.kubectl("delete", "namespace", "shared", "--wait=false")
