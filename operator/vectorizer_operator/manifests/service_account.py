"""The pods' identity: one that may do nothing."""

from vectorizer_operator.api.cluster import VectorizerCluster
from vectorizer_operator.manifests.common import Manifest, child


def service_account(cluster: VectorizerCluster) -> Manifest:
    return child(
        cluster,
        api_version="v1",
        kind="ServiceAccount",
        name=cluster.metadata.name,
        automountServiceAccountToken=False,
    )
