"""Who serves the shards of a cluster whose pods share a store: decided as the operator does, for pods that run here.

`as_pod` says of a process what the API server would say of its pod, so that the operator's own rules (`plan`) can be
asked. Not for starting or ending pods (`worker.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from vectorizer_operator.api.constants import CONTAINER, PORT_NAME
from vectorizer_operator.engines import Engines
from vectorizer_operator.local.runner import PodProcess
from vectorizer_operator.plan import Member, Observed
from vectorizer_operator.plan.pods import REVISION_LABEL, Pod
from vectorizer_operator.plan.topology import (
    all_shards_served,
    drained_before_removed,
    known_topology,
    topology_changes,
)


def as_pod(process: PodProcess, *, revision: str, changed: datetime, ending: bool) -> Pod:
    """As much of a pod's object as a plan reads. `changed` is when it began or ceased to be ready, or was made."""
    state, since = process.state, changed.isoformat()
    return Pod(
        {
            "metadata": {
                "name": process.name,
                "labels": {REVISION_LABEL: revision},
                **({"deletionTimestamp": since} if ending else {}),
            },
            "spec": {
                "containers": [
                    {
                        "name": CONTAINER,
                        "ports": [{"name": PORT_NAME, "containerPort": state.ports.get(PORT_NAME)}],
                    }
                ]
            },
            "status": {
                "podIP": state.address,
                "conditions": [
                    {
                        "type": "Ready",
                        "status": "True" if state.ready else "False",
                        "lastTransitionTime": since,
                    }
                ],
                "containerStatuses": [
                    {"name": container.name, "state": {"running": {}} if container.pid else {}}
                    for container in state.containers
                ],
            },
        }
    )


@dataclass(frozen=True, kw_only=True)
class Membership:
    """What the engines know of each other. `moving` is what is missing until every shard is where it belongs."""

    observed: Observed
    version: int
    members: tuple[str, ...]
    moving: tuple[str, ...]

    def may_go(self, pod: str) -> bool:
        return drained_before_removed(self.observed, pod)


async def publish(engines: Engines, pods: Sequence[Pod], leaving: Sequence[str], *, key: str) -> Membership:
    """Ask the engines of `pods` who the members are, and tell them where that has changed.

    Those that are `leaving` are members no more. `key` is the one that the engines show each other.
    """
    answers = await engines.ask((Member(pod.name, pod.address) for pod in pods), key=key)
    observed = Observed(cluster={}, engines=answers)
    changes = list(topology_changes(observed, pods, leaving, now=datetime.now(UTC)))
    for change in changes:
        await engines.publish(change, key=key)
    known = known_topology(observed)
    return Membership(
        observed=observed,
        version=known.version if known else 0,
        members=tuple(member.name for member in known.members) if known else (),
        moving=tuple(change.why for change in changes) or tuple(all_shards_served(observed, pods, leaving)),
    )
