"""Which connections the pods may have: clients in on the REST API's port, nothing out."""

from vectorizer_operator.api.cluster import VectorizerCluster
from vectorizer_operator.api.constants import PORT_NAME
from vectorizer_operator.manifests.common import Manifest, child, selector


def network_policy(cluster: VectorizerCluster) -> Manifest:
    return child(
        cluster,
        api_version="networking.k8s.io/v1",
        kind="NetworkPolicy",
        name=cluster.metadata.name,
        spec={
            "podSelector": {"matchLabels": selector(cluster.metadata.name)},
            "policyTypes": ["Ingress", "Egress"],  # Egress without a rule for it: nothing leaves
            "ingress": [{"ports": [{"port": PORT_NAME, "protocol": "TCP"}]}],
        },
    )
