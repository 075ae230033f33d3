"""Refuses voluntary evictions, as a node drain makes them, of a cluster's only pod."""

from vectorizer_operator.api.cluster import VectorizerCluster
from vectorizer_operator.manifests.common import Manifest, child, selector


def pod_disruption_budget(cluster: VectorizerCluster) -> Manifest:
    return child(
        cluster,
        api_version="policy/v1",
        kind="PodDisruptionBudget",
        name=cluster.metadata.name,
        spec={
            "maxUnavailable": 0,
            "selector": {"matchLabels": selector(cluster.metadata.name)},
            # A pod that does not serve anyway must not hold up a drain.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    )
