"""Which REST path a kind is served under. Only the kinds that the operator reads or writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from vectorizer_operator.api import GROUP, KIND, PLURAL, VERSION


class Resource(NamedTuple):
    """A kind and where the API server serves it."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool = True

    def path(self, *, namespace: str | None = None, name: str | None = None, subresource: str = "") -> str:
        """The URL's path of one object, or of all of them (in *namespace*, if given)."""
        path = f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        if self.namespaced and namespace:
            path += f"/namespaces/{namespace}"
        path += f"/{self.plural}"
        if name:
            path += f"/{name}"
        return f"{path}/{subresource}" if subresource else path


CLUSTERS = Resource(f"{GROUP}/{VERSION}", KIND, PLURAL)
CONFIG_MAPS = Resource("v1", "ConfigMap", "configmaps")
SERVICES = Resource("v1", "Service", "services")
SERVICE_ACCOUNTS = Resource("v1", "ServiceAccount", "serviceaccounts")
STATEFUL_SETS = Resource("apps/v1", "StatefulSet", "statefulsets")
DISRUPTION_BUDGETS = Resource("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
NETWORK_POLICIES = Resource("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
PODS = Resource("v1", "Pod", "pods")
CLAIMS = Resource("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
LEASES = Resource("coordination.k8s.io/v1", "Lease", "leases")
SECRETS = Resource("v1", "Secret", "secrets")
EVENTS = Resource("events.k8s.io/v1", "Event", "events")
WEBHOOK_CONFIGURATIONS = Resource(
    "admissionregistration.k8s.io/v1",
    "ValidatingWebhookConfiguration",
    "validatingwebhookconfigurations",
    namespaced=False,
)

CHILDREN = (
    SERVICE_ACCOUNTS,
    CONFIG_MAPS,
    SERVICES,
    NETWORK_POLICIES,
    DISRUPTION_BUDGETS,
    STATEFUL_SETS,
)
"""Every kind that a cluster may be rendered to."""

_BY_KIND = {(child.api_version, child.kind): child for child in (*CHILDREN, PODS, CLAIMS)}


def resource_of(manifest: Mapping[str, Any]) -> Resource:
    """The resource of an object. KeyError for a kind that the operator never touches."""
    return _BY_KIND[manifest["apiVersion"], manifest["kind"]]


def child_resource(kind: str) -> Resource:
    """The resource of a child's, a pod's or a claim's kind."""
    return next(resource for resource in _BY_KIND.values() if resource.kind == kind)
