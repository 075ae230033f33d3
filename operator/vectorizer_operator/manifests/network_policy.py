"""Which connections the pods may have: clients in on the REST API's port, nothing out but to an object store
and to each other."""

from typing import Any

from vectorizer_operator.api.cluster import VectorizerCluster
from vectorizer_operator.api.constants import PORT_NAME
from vectorizer_operator.api.object_store import ObjectStoreSection
from vectorizer_operator.manifests.common import Manifest, child, selector

_DNS_PORTS = (53, 5353)
"""Pods behind port 53 of the DNS Service may listen on another (OpenShift: 5353), and many networks judge by that."""

_METADATA_SERVICES = "169.254.0.0/16"
"""Where every cloud answers who a pod is: link-local addresses, on several ports."""


def network_policy(cluster: VectorizerCluster) -> Manifest:
    store = cluster.spec.storage.object_store
    egress = [] if store is None or store.scheme == "file" else _to_the_store(store)
    if store is not None:
        pods = {"podSelector": {"matchLabels": selector(cluster.metadata.name)}}
        egress.append({"to": [pods], "ports": [{"port": PORT_NAME, "protocol": "TCP"}]})
    return child(
        cluster,
        api_version="networking.k8s.io/v1",
        kind="NetworkPolicy",
        name=cluster.metadata.name,
        spec={
            "podSelector": {"matchLabels": selector(cluster.metadata.name)},
            "policyTypes": ["Ingress", "Egress"],  # Egress without a rule for it: nothing leaves
            "ingress": [{"ports": [{"port": PORT_NAME, "protocol": "TCP"}]}],
            **({"egress": egress} if egress else {}),
        },
    )


def _to_the_store(store: ObjectStoreSection) -> list[dict[str, Any]]:
    """By port: addresses of stores change, and a policy knows no names."""
    dns = [{"port": port, "protocol": protocol} for port in _DNS_PORTS for protocol in ("UDP", "TCP")]
    rules: list[dict[str, Any]] = [{"ports": dns}, {"ports": [{"port": store.port, "protocol": "TCP"}]}]
    if store.endpoint is not None:  # perhaps a Service, behind whose port pods may have another one
        rules.append({"to": [{"namespaceSelector": {}}], "ports": [{"protocol": "TCP"}]})
    if store.secret_ref is None:
        rules.append({"to": [{"ipBlock": {"cidr": _METADATA_SERVICES}}], "ports": [{"protocol": "TCP"}]})
    return rules
