"""Limits voluntary evictions, as a node drain makes them: one pod at a time, and never a cluster's only one."""

from vectorizer_operator.api.cluster import VectorizerCluster
from vectorizer_operator.manifests.common import Manifest, child, selector


def pod_disruption_budget(cluster: VectorizerCluster) -> Manifest:
    return child(
        cluster,
        api_version="policy/v1",
        kind="PodDisruptionBudget",
        name=cluster.metadata.name,
        spec={
            "maxUnavailable": 0 if cluster.spec.replicas <= 1 else 1,
            "selector": {"matchLabels": selector(cluster.metadata.name)},
            # A pod that does not serve anyway must not hold up a drain.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    )
