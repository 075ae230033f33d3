"""The live state of one cluster, read from the API server at this moment.

Nothing is kept between rounds. A read here sees every write that was answered before it, our own included, so there
is no cache that could lag behind and make us act twice; what changes between reading and acting is caught by the
writes' preconditions (`act`) or by the next round, which the change's own watch event brings.
"""

from __future__ import annotations

from contextlib import suppress

from vectorizer_operator.api import CLUSTER_LABEL
from vectorizer_operator.kube.client import KubeClient, Object
from vectorizer_operator.kube.concurrently import concurrently
from vectorizer_operator.kube.errors import NotFound
from vectorizer_operator.kube.resources import CLAIMS, CLUSTERS, PODS, Resource, child_resource
from vectorizer_operator.manifests import child_refs
from vectorizer_operator.plan import Observed


async def observe(client: KubeClient, *, namespace: str, name: str) -> Observed | None:
    """The cluster with its children, pods and volume claims, or None when there is no such cluster."""
    refs = child_refs(name)
    selector = f"{CLUSTER_LABEL}={name}"
    cluster, pods, claims, *children = await concurrently(
        [
            _get(client, CLUSTERS, namespace, name),
            client.list(PODS, namespace=namespace, label_selector=selector),
            client.list(CLAIMS, namespace=namespace, label_selector=selector),
            *(_get(client, child_resource(ref.kind), namespace, ref.name) for ref in refs),
        ]
    )
    if cluster is None:
        return None
    found = {(ref.kind, ref.name): child for ref, child in zip(refs, children, strict=True) if child}
    return Observed(cluster=cluster, children=found, pods=pods, pvcs=claims)


async def _get(client: KubeClient, resource: Resource, namespace: str, name: str) -> Object | None:
    with suppress(NotFound):
        return await client.get(resource, name, namespace=namespace)
    return None
