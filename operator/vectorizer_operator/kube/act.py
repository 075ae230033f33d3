"""Executes a plan's actions, in its order; what may go together goes together.

What must stay true: before every write the caller's fence is asked, and a write that hits another object than the
plan was made for (by uid) is refused by the API server, not executed.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import groupby
from typing import Any

from vectorizer_operator.kube.client import KubeClient
from vectorizer_operator.kube.concurrently import concurrently
from vectorizer_operator.kube.errors import Conflict, NotFound
from vectorizer_operator.kube.resources import (
    CLAIMS,
    CLUSTERS,
    SECRETS,
    STATEFUL_SETS,
    child_resource,
    resource_of,
)
from vectorizer_operator.plan import Action, Apply, CreateSecret, Delete, ExpandVolume, PublishTopology

Fence = Callable[[], None]
"""Raises when this replica must not write any more."""


async def act(
    client: KubeClient,
    actions: Iterable[Action],
    *,
    namespace: str,
    fence: Fence,
    tell: Callable[[PublishTopology], Awaitable[None]] | None = None,
) -> None:
    """Execute *actions* on the objects of *namespace*. Raises the first failure; what follows it is left undone.

    *tell* publishes a topology.
    """
    for together in _in_steps(actions):
        await concurrently(_execute(client, action, namespace, fence, tell) for action in together)


async def write_status(client: KubeClient, cluster: Mapping[str, Any], status: Mapping[str, Any]) -> None:
    """Give *cluster* this status. An ApiError if it is not as it was observed any more: a successor of its name would
    otherwise read as ready before it is. (The API server ignores a uid here, so it is the version that tells.)"""
    metadata = {key: cluster["metadata"][key] for key in ("name", "namespace", "resourceVersion")}
    manifest = {
        "apiVersion": CLUSTERS.api_version,
        "kind": CLUSTERS.kind,
        "metadata": metadata,
        "status": status,
    }
    await client.apply(CLUSTERS, manifest, subresource="status")


async def _execute(
    client: KubeClient,
    action: Action,
    namespace: str,
    fence: Fence,
    tell: Callable[[PublishTopology], Awaitable[None]] | None,
) -> None:
    fence()
    match action:
        case Apply():
            await client.apply(resource_of(action.manifest), action.manifest)
        case Delete():
            with suppress(NotFound):  # it is gone, which is what was wanted
                await client.delete(
                    child_resource(action.kind),
                    action.name,
                    namespace=namespace,
                    propagation=action.propagation,
                    uid=action.uid,
                )
        case ExpandVolume():
            patch = {"spec": {"resources": {"requests": {"storage": action.size}}}}
            await client.merge(CLAIMS, action.name, patch, namespace=namespace)
        case CreateSecret():
            secret = {**action.manifest, "stringData": {action.key: secrets.token_urlsafe(32)}}
            with suppress(Conflict):  # it was made by an operator that was killed before it saw it
                await client.create(SECRETS, secret)
        case PublishTopology():
            assert tell is not None, "engines that were not asked are not told"
            await tell(action)


def _in_steps(actions: Iterable[Action]) -> Iterator[list[Action]]:
    """Neighbouring applies of what pods need in one step; anything else, such as the StatefulSet, on its own."""
    for go_together, group in groupby(actions, key=_may_go_together):
        if go_together:
            yield list(group)
        else:
            yield from ([action] for action in group)


def _may_go_together(action: Action) -> bool:
    return isinstance(action, Apply) and action.manifest["kind"] != STATEFUL_SETS.kind
