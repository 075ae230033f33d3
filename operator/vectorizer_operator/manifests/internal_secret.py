"""The Secret with the key that the engines of a cluster show each other, and that the operator shows them.

Its value is made when it is created, by whoever creates it, and is nobody else's to know: so it is not rendered with
the other children, and never changed.
"""

from vectorizer_operator.api.cluster import VectorizerCluster
from vectorizer_operator.manifests.common import Manifest, child, internal_secret_name


def internal_secret(cluster: VectorizerCluster) -> Manifest:
    """The Secret without its value, which belongs at INTERNAL_KEY."""
    return child(
        cluster,
        api_version="v1",
        kind="Secret",
        name=internal_secret_name(cluster.metadata.name),
        type="Opaque",
        immutable=True,
    )
