"""The live state of one cluster, read from the API server at this moment.

Nothing is kept between rounds. A read here sees every write that was answered before it, our own included, so there
is no cache that could lag behind and make us act twice; what changes between reading and acting is caught by the
writes' preconditions (`act`) or by the next round, which the change's own watch event brings.

Objects are read by name where that can be, since a list that must be up to date costs a wait: the API server answers
it from its own cache and first makes sure, up to every 100 ms, that the cache has caught up (about 70 ms were seen,
for 3 ms of a read by name).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from vectorizer_operator.api import CLUSTER_LABEL
from vectorizer_operator.api.constants import INTERNAL_KEY
from vectorizer_operator.api.rules import OBJECT_STORE_PATH, value_at
from vectorizer_operator.engines import Engines
from vectorizer_operator.kube.client import KubeClient, Object
from vectorizer_operator.kube.concurrently import concurrently
from vectorizer_operator.kube.errors import NotFound
from vectorizer_operator.kube.resources import (
    CLAIMS,
    CLUSTERS,
    PODS,
    SECRETS,
    STATEFUL_SETS,
    Resource,
    child_resource,
)
from vectorizer_operator.manifests import child_refs, internal_secret_name
from vectorizer_operator.manifests.stateful_set import DATA_VOLUME
from vectorizer_operator.plan import Member, Observed
from vectorizer_operator.plan.pods import Pod


async def observe(
    client: KubeClient,
    *,
    namespace: str,
    name: str,
    stand_in: Object | None = None,
    engines: Engines | None = None,
) -> Observed | None:
    """The cluster with its children, pods and volume claims, or None when there is no such cluster.

    With *stand_in*, what lies where a cluster would come: that stands for it as long as there is none. With *engines*,
    also what the engines of a cluster whose pods share a store say.
    """
    refs = child_refs(name)
    first_pod = f"{name}-0"
    cluster, pod, claim, *children = await concurrently(
        [
            _get(client, CLUSTERS, namespace, name),
            _get(client, PODS, namespace, first_pod),
            _get(client, CLAIMS, namespace, f"{DATA_VOLUME}-{first_pod}"),
            *(_get(client, child_resource(ref.kind), namespace, ref.name) for ref in refs),
        ]
    )
    cluster = cluster or stand_in
    if cluster is None:
        return None
    found = {(ref.kind, ref.name): child for ref, child in zip(refs, children, strict=True) if child}
    pods = [pod] if pod and _is_of(pod, name) else []
    # By its name alone: one that was there before the cluster, as a restored one, has no label of ours.
    claims = [claim] if claim else []
    if _may_have_more_pods(cluster, found.get((STATEFUL_SETS.kind, name), {})):
        pods, labelled = await concurrently(
            client.list(resource, namespace=namespace, label_selector=_selector(name))
            for resource in (PODS, CLAIMS)
        )
        claims = [*(each for each in claims if not _is_of(each, name)), *labelled]
    observed = Observed(cluster=cluster, children=found, pods=pods, pvcs=claims)
    if engines is None or value_at(cluster, OBJECT_STORE_PATH) is None:
        return observed
    secret = await _get(client, SECRETS, namespace, internal_secret_name(name))
    if secret is None:
        return replace(observed, engines={})
    found[SECRETS.kind, internal_secret_name(name)] = secret
    members = [Member(pod.name, pod.address) for pod in map(Pod, pods) if pod.ip is not None]
    return replace(observed, engines=await engines.ask(members, key=internal_key(observed)))


async def labelled_pods(client: KubeClient, *, namespace: str, cluster: str) -> list[Object]:
    """The pods that have a cluster's label, whether or not there is such a cluster."""
    return await client.list(PODS, namespace=namespace, label_selector=_selector(cluster))


def internal_key(observed: Observed) -> str:
    """The key that the engines of the cluster show each other. KeyError where its Secret was not observed."""
    secret = observed.children[SECRETS.kind, internal_secret_name(observed.cluster["metadata"]["name"])]
    return base64.b64decode((secret.get("data") or {}).get(INTERNAL_KEY, "")).decode(errors="replace")


def _selector(cluster: str) -> str:
    return f"{CLUSTER_LABEL}={cluster}"


def _may_have_more_pods(cluster: Mapping[str, Any], stateful_set: Mapping[str, Any]) -> bool:
    """Whether there may be others than the first; a StatefulSet being made anew has none to its own name yet."""
    places = (stateful_set.get("spec"), stateful_set.get("status"), cluster.get("status"))
    return any((place or {}).get("replicas", 0) > 1 for place in places)


def _is_of(each: Object, cluster: str) -> bool:
    return bool(each["metadata"].get("labels", {}).get(CLUSTER_LABEL) == cluster)


async def _get(client: KubeClient, resource: Resource, namespace: str, name: str) -> Object | None:
    with suppress(NotFound):
        return await client.get(resource, name, namespace=namespace)
    return None
