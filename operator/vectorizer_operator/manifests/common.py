"""What all children share: names, labels, ownership, and the hash that says what was rendered."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from vectorizer_operator.api.cluster import VectorizerCluster
from vectorizer_operator.api.constants import (
    API_VERSION,
    CLUSTER_LABEL,
    KIND,
    RENDERED_HASH_ANNOTATION,
)

Manifest = dict[str, Any]
COMPONENT_LABEL = "app.kubernetes.io/component"


class ChildRef(NamedTuple):
    """Where a child is: enough to read it from the API server."""

    api_version: str
    kind: str
    name: str


def headless_name(cluster: str) -> str:
    return f"{cluster}-headless"


def config_name(cluster: str) -> str:
    return f"{cluster}-config"


def internal_secret_name(cluster: str) -> str:
    """Of the Secret with the key that the engines of a cluster show each other."""
    return f"{cluster}-internal"


def selector(cluster: str) -> dict[str, str]:
    """What the pods of a cluster, and no others, are labelled with. Kubernetes puts it on the volume claims too,
    and a StatefulSet's selector can never change: neither can this."""
    return {COMPONENT_LABEL: "engine", CLUSTER_LABEL: cluster}


def labels(cluster: str) -> dict[str, str]:
    # No version label: it would change with every release, and on the pod template restart every pod.
    return {
        "app.kubernetes.io/name": "vectorizer",
        "app.kubernetes.io/instance": cluster,
        "app.kubernetes.io/part-of": "vectorizer",
        "app.kubernetes.io/managed-by": "vectorizer-operator",
        **selector(cluster),
    }


def child(
    cluster: VectorizerCluster,
    *,
    api_version: str,
    kind: str,
    name: str,
    annotations: Mapping[str, str] | None = None,
    more_labels: Mapping[str, str] | None = None,
    **body: Any,
) -> Manifest:
    """A child of *cluster*: `body` is everything beside the metadata."""
    meta = cluster.metadata
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": meta.namespace,
        "labels": {**labels(meta.name), **(more_labels or {})},
        "annotations": dict(annotations or {}),
    }
    if meta.uid:  # a cluster that was read from a file is no object yet that could own anything
        metadata["ownerReferences"] = [
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": meta.name,
                "uid": meta.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ]
    manifest = {"apiVersion": api_version, "kind": kind, "metadata": metadata, **body}
    metadata["annotations"][RENDERED_HASH_ANNOTATION] = content_hash(manifest)
    return manifest


def content_hash(content: Any) -> str:
    """16 hexadecimal digits that differ when *content* (JSON values) does."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
