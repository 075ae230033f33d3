"""The next steps of a rollout, in their order: children, then pods, one at a time, and who serves the shards.

Where pods share a store, none is taken away before the others serve what it serves: it is first said to be leaving.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from vectorizer_operator.api.cluster import VectorizerCluster
from vectorizer_operator.manifests import Manifest
from vectorizer_operator.plan.changes import child_changes, pod_changes, secret_changes
from vectorizer_operator.plan.model import Action, Delete, Observed, PublishTopology
from vectorizer_operator.plan.pods import Pod
from vectorizer_operator.plan.topology import drained_before_removed, leaves_by_scaling, topology_changes


class Steps(NamedTuple):
    """`changes` of children and pods; the `topology` to publish; and the pods that are `leaving`, to serve nothing."""

    changes: tuple[Action, ...]
    topology: tuple[PublishTopology, ...]
    leaving: tuple[str, ...]


def next_steps(
    observed: Observed,
    cluster: VectorizerCluster,
    pods: Sequence[Pod],
    *,
    desired: Callable[[int], Sequence[Manifest]],
    now: datetime,
) -> Steps:
    """*desired* renders what the cluster wishes for, with so many replicas."""
    live = observed.children.get(("StatefulSet", cluster.metadata.name))
    replicas = cluster.spec.replicas
    leaving = leaves_by_scaling(pods, replicas) if observed.engines is not None else []
    if live is not None and not all(drained_before_removed(observed, name) for name in leaving):
        replicas = live["spec"].get("replicas", 1)
    changes: list[Action] = [
        *secret_changes(observed, cluster),
        *child_changes(observed, desired(replicas)),
    ]
    if not changes and live is not None and "deletionTimestamp" not in live["metadata"]:
        replaced = list(pod_changes(live, pods))
        if observed.engines is not None:
            leaving += [pod.name for pod in replaced]
        changes += _not_needed(observed, pods, replaced)
    going = () if cluster.spec.paused else tuple(leaving)
    topology = topology_changes(observed, pods, going, now=now)
    return Steps(tuple(changes), tuple(topology), going)


def _not_needed(observed: Observed, pods: Sequence[Pod], replaced: Sequence[Delete]) -> Iterator[Delete]:
    """Of the pods that are to be *replaced*, those that do not answer anyway, or serve nothing that others do not."""
    answering = {pod.name for pod in pods if pod.ready}
    for pod in replaced:
        if (
            observed.engines is None
            or pod.name not in answering
            or drained_before_removed(observed, pod.name)
        ):
            yield pod
