"""What a plan is made from and what it says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Object = Mapping[str, Any]
"""A Kubernetes object as the API server gives it."""


class Member(NamedTuple):
    """An engine that serves shards: its pod's name, and HOST:PORT."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class Engine:
    """What an engine says: the newest topology that it knows, who the members were before, how many shards it is yet to
    open by it, and how many it serves only until others have opened them."""

    version: int
    members: tuple[Member, ...]
    waiting: int
    leaving: int = 0
    previous: tuple[Member, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The live state of one cluster.

    `children` holds what exists of `manifests.child_refs`, read by name, by (kind, name); `pods` and `pvcs` are those
    labelled with the cluster's name, terminating ones included, and the first pod's claim in any case. `engines` is
    there where the pods share a store: by the pod's name what its engine says, None where it does not answer.
    """

    cluster: Object
    children: Mapping[tuple[str, str], Object] = field(default_factory=dict)
    pods: Sequence[Object] = ()
    pvcs: Sequence[Object] = ()
    engines: Mapping[str, Engine | None] | None = None


@dataclass(frozen=True, slots=True)
class Apply:
    """Server-side apply `manifest`, with force."""

    manifest: dict[str, Any]
    why: str


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete the object with this `uid` (a precondition, so that never a successor of the same name is hit).

    With "Orphan" its dependents stay; that is how a StatefulSet is replaced under its running pods.
    """

    api_version: str
    kind: str
    name: str
    uid: str
    why: str
    propagation: Literal["Background", "Orphan"] = "Background"


@dataclass(frozen=True, slots=True)
class ExpandVolume:
    """Set `spec.resources.requests.storage` of the volume claim `name` to `size`."""

    name: str
    size: str
    why: str


@dataclass(frozen=True, slots=True)
class CreateSecret:
    """Create the Secret `manifest` with a random value at `key`, which nobody else knows."""

    manifest: dict[str, Any]
    key: str
    why: str


@dataclass(frozen=True, slots=True)
class PublishTopology:
    """Tell the engines `to` that `members` are those who serve, in the place of the `previous` ones."""

    version: int
    members: tuple[Member, ...]
    previous: tuple[Member, ...]
    to: tuple[Member, ...]
    why: str


Action = Apply | Delete | ExpandVolume | CreateSecret | PublishTopology


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do now, in this order, and what to report.

    `status` is the whole status that the cluster should have; it is equal to the observed one when there is nothing new
    to say. `requeue_after` (seconds) is set when time alone will change the plan.
    """

    actions: tuple[Action, ...]
    status: dict[str, Any]
    requeue_after: float | None = None
