"""The custom resource: its models, its definition, and what makes one valid."""

from vectorizer_operator.api.cluster import VectorizerCluster
from vectorizer_operator.api.constants import (
    API_VERSION,
    CLUSTER_LABEL,
    FIELD_MANAGER,
    GROUP,
    KIND,
    PLURAL,
    VERSION,
)
from vectorizer_operator.api.spec import VectorizerClusterSpec

__all__ = [
    "API_VERSION",
    "CLUSTER_LABEL",
    "FIELD_MANAGER",
    "GROUP",
    "KIND",
    "PLURAL",
    "VERSION",
    "VectorizerCluster",
    "VectorizerClusterSpec",
]
