"""Every reason that a condition of a VectorizerCluster may have, for people: what it means and what to do.

The planner's messages say what is wrong with this cluster; these say what such a thing is. A test holds the table
against what the planner gives. Not for the cluster rules' fixes: those are in the messages, made by the validator.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from vectorizer_engine.cluster.validator import RULES
from vectorizer_operator.plan import predicates


class Reason(NamedTuple):
    """`kind` is rule, predicate (a safety rule of the operator) or state."""

    kind: str
    meaning: str
    advice: str


_LOOK_AT_PODS = (
    "kubectl describe pod and kubectl logs of the pod that is named: its image, its volume, a node with room, its "
    "configuration. A corrected spec replaces it at once."
)


def _predicate(function: Callable[..., Any], advice: str) -> Reason:
    """The sentence of a predicate is its docstring's first."""
    sentence, _, _ = " ".join((function.__doc__ or "").split()).partition(". ")
    return Reason("predicate", sentence.rstrip(".") + ".", advice)


REASONS: dict[str, Reason] = {
    **{
        rule.name: Reason(
            "rule", f"{rule.code}: {rule.statement}.", "Change the spec as the message says, and apply it."
        )
        for rule in RULES
    },
    "SpecNotReadable": _predicate(
        predicates.spec_is_readable, "Correct the fields that the message names, and apply the spec again."
    ),
    "ForeignObjectNotAdopted": _predicate(
        predicates.foreign_object_not_adopted,
        "Delete or rename the object that is in the way, or give the cluster another name.",
    ),
    "PreviousClusterIsGone": _predicate(
        predicates.foreign_object_not_adopted,
        "Wait until Kubernetes has removed the children of the deleted cluster; look for finalizers if it does not.",
    ),
    "NeverShrinkStorage": _predicate(
        predicates.never_shrink_storage, "Set spec.storage.size to what the volumes have, or more."
    ),
    "StorageClassNeverChanges": _predicate(
        predicates.storage_class_never_changes,
        "Set spec.storage.storageClassName back, or make a new cluster and copy the data.",
    ),
    "ObjectStoreNeverChanges": _predicate(
        predicates.object_store_never_changes,
        "Set spec.storage.objectStore.url back, or make a new cluster and copy the data.",
    ),
    "ActionRefused": Reason(
        "state",
        "The API server refused a change that the operator has to make.",
        "The message has its words: a quota, a policy, a missing right, or a value that Kubernetes does not take. "
        "Remove the cause; the operator tries again by itself.",
    ),
    "PodNotReady": Reason("state", "A pod has not answered for ten minutes.", _LOOK_AT_PODS),
    "WaitingForPods": Reason(
        "state",
        "Everything is applied; pods are starting or stopping.",
        "Wait: after ten minutes it is called stalled.",
    ),
    "MovingShards": Reason(
        "state",
        "All pods answer, and shards move between them; requests for a shard that moves wait.",
        "Wait; the message has the engines that it takes. If one stays, look at its log.",
    ),
    "Progressing": Reason(
        "state", "A rollout is under way, a step at a time.", "Wait; the message has the next steps."
    ),
    "Paused": Reason(
        "state",
        "spec.paused is true: the operator changes nothing.",
        "Set spec.paused to false to have the steps in the message done.",
    ),
    "MemoryLimitTooSmall": Reason(
        "state",
        "The pods' memory limit is smaller than what the cache limit may need, so the kernel may end them.",
        "Set spec.resources.limits.memory to what the message says, unset it, or lower spec.cluster.maxCacheMemory.",
    ),
    "NotRolledOut": Reason(
        "state", "Not judged, as the spec is not rolled out.", "See to what keeps the spec back."
    ),
    "PodsReady": Reason("state", "Every pod answers requests.", "Nothing is to be done."),
    "ScaledToZero": Reason(
        "state", "spec.replicas is 0: no pod runs, the data is kept.", "Set spec.replicas to 1 to start it."
    ),
    "RulesHonoured": Reason("state", "The cluster rules hold.", "Nothing is to be done."),
    "Computed": Reason(
        "state", "The pods' memory limit is computed from the cache limit.", "Nothing is to be done."
    ),
    "Sufficient": Reason(
        "state", "The memory limit that the spec sets is large enough.", "Nothing is to be done."
    ),
}
