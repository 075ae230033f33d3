"""The safety rules of the operator, each a predicate with a name, a sentence and a test of its own.

The first group guards the whole spec: where one does not hold, nothing of the spec is rolled out, the children stay as
they are, and the conditions name the predicate. The second group guards single steps of a rollout.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vectorizer_engine.cluster.quantity import parse_quantity
from vectorizer_engine.cluster.validator import Violation
from vectorizer_operator.api.constants import CLUSTER_LABEL, KIND, OBJECT_STORE_ANNOTATION
from vectorizer_operator.api.problems import Problem
from vectorizer_operator.manifests import Manifest
from vectorizer_operator.plan.model import Object, Observed
from vectorizer_operator.plan.pods import Pod

FOREIGN_OBJECTS_EVERY = 15.0
"""Seconds between looks at an object that is in the way: only what has the cluster label is watched."""


@dataclass(frozen=True, slots=True)
class Block:
    """What holds a spec back. `stalled` says that only a person can get it going again; `look_again_after` (seconds) is
    there where no watch would tell of it."""

    reason: str
    message: str
    stalled: bool = True
    look_again_after: float | None = None


def spec_is_readable(problems: Sequence[Problem]) -> Block | None:
    """A spec that the models cannot read is not rolled out, not even in part."""
    return Block("SpecNotReadable", "; ".join(map(str, problems))) if problems else None


def rules_honoured(violations: Sequence[Violation]) -> Block | None:
    """A cluster that breaks a rule is not rolled out, however it got past the API server."""
    if not violations:
        return None
    return Block(violations[0].rule, "; ".join(violation.message for violation in violations))


def foreign_object_not_adopted(observed: Observed, desired: Sequence[Manifest]) -> Block | None:
    """An object of somebody else's that holds a child's name is left alone, and named."""
    metadata = observed.cluster["metadata"]
    for manifest in desired:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        live = observed.children.get((kind, name))
        if live is None or is_owned(live, metadata):
            continue
        owner = _controller(live)
        if owner is not None and owner.get("kind") == KIND and owner.get("name") == metadata["name"]:
            return Block(
                "PreviousClusterIsGone",
                f"{kind} {name} belongs to a deleted cluster of the same name: waiting until it is gone",
                stalled=False,
            )
        holder = f"{owner['kind']} {owner['name']}" if owner else "no VectorizerCluster"
        return Block(
            "ForeignObjectNotAdopted",
            f"{kind} {name} exists and belongs to {holder}: delete or rename it, or rename this cluster",
            look_again_after=FOREIGN_OBJECTS_EVERY,
        )
    return None


def never_shrink_storage(observed: Observed, desired: Sequence[Manifest]) -> Block | None:
    """A volume never becomes smaller than it is."""
    live, wanted = _live_and_wanted_claim(observed, desired)
    if live is None:
        return None
    old, new = claim_size(live), claim_size(wanted)
    if parse_quantity(new) is None or (parse_quantity(new) or 0) >= (parse_quantity(old) or 0):
        return None
    return Block(
        "NeverShrinkStorage",
        f"spec.storage.size is {new}, but the volumes have {old} and cannot shrink: "
        f"set spec.storage.size to {old} or more",
    )


def storage_class_never_changes(observed: Observed, desired: Sequence[Manifest]) -> Block | None:
    """Data does not move to another storage class: the volumes stay in the one they were made in."""
    live, wanted = _live_and_wanted_claim(observed, desired)
    if live is None or live["spec"].get("storageClassName") == wanted["spec"].get("storageClassName"):
        return None
    old = live["spec"].get("storageClassName")
    return Block(
        "StorageClassNeverChanges",
        f"spec.storage.storageClassName is {wanted['spec'].get('storageClassName', 'unset')}, but the volumes were "
        f"made with it {old or 'unset'}: {f'set it to {old}' if old else 'unset it'}, or make a new cluster",
    )


def object_store_never_changes(observed: Observed, desired: Sequence[Manifest]) -> Block | None:
    """Collections stay in the store, or on the volumes, where they were made: elsewhere they would seem lost."""
    wanted = next(manifest for manifest in desired if manifest["kind"] == "StatefulSet")
    live = observed.children.get(("StatefulSet", wanted["metadata"]["name"]))
    if live is None:
        return None
    old, new = (
        (each["metadata"].get("annotations") or {}).get(OBJECT_STORE_ANNOTATION) for each in (live, wanted)
    )
    if old == new:
        return None
    return Block(
        "ObjectStoreNeverChanges",
        f"spec.storage.objectStore.url is {new or 'unset'}, but the collections are "
        f"{f'in {old}: set it to that' if old else 'on the volumes: take spec.storage.objectStore out'}, or make a new "
        "cluster and copy the data",
    )


SPEC_GUARDS: tuple[Callable[[Observed, Sequence[Manifest]], Block | None], ...] = (
    foreign_object_not_adopted,
    never_shrink_storage,
    storage_class_never_changes,
    object_store_never_changes,
)


def stateful_set_has_caught_up(live: Object) -> bool:
    """No pod is judged old before the StatefulSet controller has seen the pod template that it is judged by."""
    status = live.get("status", {})
    return bool(status.get("updateRevision")) and status.get("observedGeneration", 0) >= live["metadata"].get(
        "generation", 0
    )


def stuck_pod_is_replaced(pods: Sequence[Pod], revision: str) -> Pod | None:
    """A pod of an old template that does not answer is replaced at once: a fixed spec must get through, and what is
    down already cannot go further down. The next one waits until it is replaced."""
    stuck = [pod for pod in pods if pod.revision != revision and not pod.ready and not pod.terminating]
    return max(stuck, key=lambda pod: pod.ordinal, default=None)


def one_pod_at_a_time(pods: Sequence[Pod], revision: str, replicas: int) -> Pod | None:
    """A pod that answers is replaced only while all the others answer; the highest ordinal first."""
    outdated = [pod for pod in pods if pod.revision != revision and pod.ready]
    if len([pod for pod in pods if pod.ready]) < replicas or any(pod.terminating for pod in pods):
        return None
    return max(outdated, key=lambda pod: pod.ordinal, default=None)


def is_owned(live: Object, cluster_metadata: Mapping[str, Any]) -> bool:
    """Whether *live* is this cluster's. What has no controller but the cluster's label is too: a restore from backup
    leaves children like that."""
    owner = _controller(live)
    if owner is not None:
        return bool(owner.get("uid") == cluster_metadata.get("uid"))
    return bool((live["metadata"].get("labels") or {}).get(CLUSTER_LABEL) == cluster_metadata["name"])


def claim_size(claim: Object) -> str:
    size: str = claim["spec"]["resources"]["requests"]["storage"]
    return size


def _controller(live: Object) -> Mapping[str, Any] | None:
    references = live["metadata"].get("ownerReferences") or ()
    return next((reference for reference in references if reference.get("controller")), None)


def _live_and_wanted_claim(observed: Observed, desired: Sequence[Manifest]) -> tuple[Object | None, Object]:
    wanted = next(manifest for manifest in desired if manifest["kind"] == "StatefulSet")
    claim = wanted["spec"]["volumeClaimTemplates"][0]
    live = observed.children.get(("StatefulSet", wanted["metadata"]["name"]))
    templates = live["spec"].get("volumeClaimTemplates") if live else None
    return (templates[0] if templates else None), claim
