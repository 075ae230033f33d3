"""The operator's own client, signed in as the control plane's administrator."""

from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import load_kube_config

from tests.kube.controlplane import ControlPlane
from vectorizer_operator.kube.connection import Connection


async def connect(control_plane: ControlPlane) -> Connection:
    configuration = Configuration()
    await load_kube_config(config_file=str(control_plane.kubeconfig), client_configuration=configuration)
    return Connection(configuration, user_agent="tests")
