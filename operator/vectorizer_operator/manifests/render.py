"""All children of a cluster, in the order in which they are applied: what the pods need comes before the pods."""

from vectorizer_operator.api.cluster import VectorizerCluster
from vectorizer_operator.manifests.common import ChildRef, Manifest, config_name, headless_name
from vectorizer_operator.manifests.config_map import config_map, config_yaml
from vectorizer_operator.manifests.network_policy import network_policy
from vectorizer_operator.manifests.pod_disruption_budget import pod_disruption_budget
from vectorizer_operator.manifests.service_account import service_account
from vectorizer_operator.manifests.services import client_service, headless_service
from vectorizer_operator.manifests.stateful_set import stateful_set


def render(cluster: VectorizerCluster, *, default_image: str) -> list[Manifest]:
    """The children that *cluster* wishes for. `default_image` is the engine's image where spec.image is unset."""
    config = config_yaml(cluster)
    children = [
        service_account(cluster),
        config_map(cluster, config),
        client_service(cluster),
        headless_service(cluster),
    ]
    if cluster.spec.network_policy.enabled:
        children.append(network_policy(cluster))
    if cluster.spec.pod_disruption_budget.enabled:
        children.append(pod_disruption_budget(cluster))
    return [*children, stateful_set(cluster, config=config, default_image=default_image)]


def child_refs(cluster: str) -> list[ChildRef]:
    """Every object that could be a child of the cluster of that name, wished for or not: what to observe. By name and
    not by label, as an object of somebody else's that holds a child's name must be seen too."""
    return [
        ChildRef("v1", "ServiceAccount", cluster),
        ChildRef("v1", "ConfigMap", config_name(cluster)),
        ChildRef("v1", "Service", cluster),
        ChildRef("v1", "Service", headless_name(cluster)),
        ChildRef("networking.k8s.io/v1", "NetworkPolicy", cluster),
        ChildRef("policy/v1", "PodDisruptionBudget", cluster),
        ChildRef("apps/v1", "StatefulSet", cluster),
    ]
