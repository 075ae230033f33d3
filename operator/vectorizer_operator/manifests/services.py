"""The two Services: one for clients, and the headless one that gives each pod a name."""

from vectorizer_operator.api.cluster import VectorizerCluster
from vectorizer_operator.api.constants import METRICS_LABEL, PORT, PORT_NAME
from vectorizer_operator.manifests.common import Manifest, child, headless_name, selector

_PORTS = [{"name": PORT_NAME, "port": PORT, "targetPort": PORT_NAME, "protocol": "TCP"}]


def client_service(cluster: VectorizerCluster) -> Manifest:
    service, key = cluster.spec.service, cluster.spec.auth.api_key_secret_ref
    return child(
        cluster,
        api_version="v1",
        kind="Service",
        name=cluster.metadata.name,
        annotations=service.annotations,
        more_labels={METRICS_LABEL: "open" if key is None else "key"},
        spec={"type": service.type, "selector": selector(cluster.metadata.name), "ports": _PORTS},
    )


def headless_service(cluster: VectorizerCluster) -> Manifest:
    return child(
        cluster,
        api_version="v1",
        kind="Service",
        name=headless_name(cluster.metadata.name),
        spec={
            "type": "ClusterIP",
            "clusterIP": "None",
            "publishNotReadyAddresses": True,  # a pod has its name from the start, not only once it is ready
            "selector": selector(cluster.metadata.name),
            "ports": _PORTS,
        },
    )
