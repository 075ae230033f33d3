"""The plan: what to do next for one cluster, and what its status should say.

Level-triggered: it looks only at what is there now, so that it may be asked at any time, any number of times. With
nothing to do it gives no action and the status that the cluster already has.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from vectorizer_engine.cluster.quantity import parse_quantity
from vectorizer_operator.api.cluster import VectorizerCluster
from vectorizer_operator.api.constants import DEFAULT_IMAGE_ANNOTATION, PORT
from vectorizer_operator.api.problems import structural_problems
from vectorizer_operator.api.rules import violations, warnings
from vectorizer_operator.api.status import ConditionType
from vectorizer_operator.manifests import Manifest, needed_memory_bytes, render, selector
from vectorizer_operator.plan.model import (
    Action,
    Apply,
    Delete,
    ExpandVolume,
    Object,
    Observed,
    Plan,
    PublishTopology,
)
from vectorizer_operator.plan.pods import Pod
from vectorizer_operator.plan.predicates import (
    SPEC_GUARDS,
    Block,
    rules_honoured,
    spec_is_readable,
    stateful_set_has_caught_up,
)
from vectorizer_operator.plan.status import Verdict, conditions
from vectorizer_operator.plan.steps import next_steps
from vectorizer_operator.plan.topology import all_shards_served, look_again, topology_changes

PROGRESS_DEADLINE = timedelta(minutes=10)
"""A pod that has not answered for so long will hardly do so by itself (Kubernetes' own default for a Deployment)."""

_MESSAGE_LIMIT = 4096


def plan(observed: Observed, *, now: datetime, default_image: str) -> Plan:
    """What to do now. `default_image` is for a cluster that names none and is created now."""
    raw = observed.cluster
    if "deletionTimestamp" in raw["metadata"]:
        return Plan(
            actions=(), status=dict(raw.get("status") or {})
        )  # the garbage collector takes the children
    judged = judge(observed, default_image=default_image)
    if judged.block is not None:
        return _blocked(observed, judged.block, now=now, cluster=judged.cluster)
    assert judged.cluster is not None
    return _rollout(observed, judged.cluster, judged.desired, now=now, default_image=default_image)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a spec asks for, and what holds it back: `cluster` is None where it cannot be read or breaks a rule."""

    cluster: VectorizerCluster | None = None
    desired: Sequence[Manifest] = ()
    block: Block | None = None


def judge(observed: Observed, *, default_image: str) -> Judgement:
    """Render the observed cluster's spec and ask every guard of whole specs; the first that blocks counts."""
    raw = observed.cluster
    block = rules_honoured(violations(raw)) or spec_is_readable(structural_problems(raw))
    if block is not None:
        return Judgement(block=block)
    cluster = VectorizerCluster.parse(raw)
    live = observed.children.get(("StatefulSet", cluster.metadata.name))
    desired = render(cluster, default_image=_created_with(live) or default_image)
    blocks = (guard(observed, desired) for guard in SPEC_GUARDS)
    return Judgement(cluster=cluster, desired=desired, block=next(filter(None, blocks), None))


def with_failure(planned: Plan, observed: Observed, *, message: str, now: datetime) -> Plan:
    """*planned* after the API server refused one of its actions for good (an invalid object, a quota, a missing right):
    the same status, saying so. What may pass by itself (a conflict, an unavailable server) is no such failure."""
    verdicts = {
        ConditionType(condition["type"]): _verdict(condition) for condition in planned.status["conditions"]
    }
    refused = ("ActionRefused", message[:_MESSAGE_LIMIT])
    verdicts[ConditionType.READY] = (False, *refused)
    verdicts[ConditionType.RECONCILING] = (False, *refused)
    verdicts[ConditionType.STALLED] = (True, *refused)
    before = observed.cluster.get("status") or {}
    generation = planned.status["observedGeneration"]
    made = conditions(verdicts, before=before, generation=generation, now=now)
    return replace(planned, status={**planned.status, "conditions": made})


@dataclass(frozen=True, slots=True)
class _Progress:
    """How far a rollout is: Ready's verdict, whether something is under way, and a pod that holds it up."""

    ready: Verdict
    reconciling: Verdict
    stalled: Verdict
    requeue_after: float | None = None


def _rollout(
    observed: Observed,
    cluster: VectorizerCluster,
    desired: Sequence[Manifest],
    *,
    now: datetime,
    default_image: str,
) -> Plan:
    live = observed.children.get(("StatefulSet", cluster.metadata.name))
    pods = _pods(observed, live)

    def with_replicas(replicas: int) -> Sequence[Manifest]:
        if replicas == cluster.spec.replicas:
            return desired
        spec = cluster.spec.model_copy(update={"replicas": replicas})
        image = _created_with(live) or default_image
        return render(cluster.model_copy(update={"spec": spec}), default_image=image)

    steps = next_steps(observed, cluster, pods, desired=with_replicas, now=now)
    # Which pods there are is not for us to pause: engines hear of it all the same.
    actions = steps.topology if cluster.spec.paused else (*steps.changes, *steps.topology)
    progress = _progress(
        cluster,
        live,
        pods,
        (*steps.changes, *steps.topology),
        moving=list(all_shards_served(observed, pods, steps.leaving)),
        now=now,
    )
    verdicts = {
        ConditionType.READY: progress.ready,
        ConditionType.RECONCILING: progress.reconciling,
        ConditionType.STALLED: progress.stalled,
        ConditionType.RULES_HONOURED: _rules_verdict(observed.cluster),
        ConditionType.MEMORY_BUDGET_HONOURED: _memory_verdict(cluster),
    }
    limit = parse_quantity(cluster.spec.cluster.max_cache_memory)
    status = _status(observed, pods, verdicts, revision=_revision(live), now=now)
    status["cache"] = {"limitBytes": limit}
    return Plan(actions=actions, status=status, requeue_after=progress.requeue_after)


def _progress(
    cluster: VectorizerCluster,
    live: Object | None,
    pods: list[Pod],
    actions: Sequence[Action],
    *,
    moving: Sequence[str],
    now: datetime,
) -> _Progress:
    """*moving* is what is missing until every shard is served where it belongs, in words."""
    waiting = [*_waiting_for(cluster.spec.replicas, live, pods), *moving]
    paused = cluster.spec.paused
    pending = [
        _in_words(action) for action in actions if not (paused and isinstance(action, PublishTopology))
    ]
    soon: list[float] = []
    if moving or any(isinstance(action, PublishTopology) for action in actions):
        soon += look_again(pods, now=now)
    if paused:
        done: Verdict = (False, "Paused", "spec.paused is true: nothing is changed")
        if pending:
            message = f"spec.paused is true; to be done when it is false: {_join(pending)}"
            # Only a person gets it going again, and who waits for it is told now rather than never.
            return _Progress(
                (False, "Paused", message), done, (True, "Paused", message), min(soon, default=None)
            )
        if not waiting:
            return _Progress((True, "Paused", "spec.paused is true, and nothing is to be done"), done, done)
    if not pending and not waiting:
        reason = "PodsReady" if cluster.spec.replicas else "ScaledToZero"
        message = f"{len(pods)} of {cluster.spec.replicas} pods answer requests"
        return _Progress(
            (True, reason, message),
            (False, reason, "nothing is to be done"),
            (False, reason, "nothing is in the way"),
        )
    message = _join(pending + waiting)
    deadlines = [pod.changed + PROGRESS_DEADLINE for pod in pods if not pod.ready]
    if not pending and any(deadline <= now for deadline in deadlines):
        verdict = ("PodNotReady", message)
        # Not reconciling any more: kstatus takes that for InProgress, whatever else is said.
        return _Progress((False, *verdict), (False, *verdict), (True, *verdict))
    reason = "Progressing" if pending else "MovingShards" if len(waiting) == len(moving) else "WaitingForPods"
    soon += [(deadline - now).total_seconds() for deadline in deadlines if deadline > now]
    return _Progress(
        (False, reason, message),
        (True, reason, message),
        (False, reason, "nothing is in the way"),
        min(soon, default=None),
    )


def _waiting_for(replicas: int, live: Object | None, pods: Sequence[Pod]) -> Iterable[str]:
    """What has to come true, beside the actions, before the cluster is as wished."""
    if live is None:
        return
    if "deletionTimestamp" in live["metadata"]:
        yield f"StatefulSet {live['metadata']['name']} is being deleted"
        return
    if not stateful_set_has_caught_up(live):
        yield f"the StatefulSet controller has not seen the newest StatefulSet {live['metadata']['name']}"
        return
    for pod in pods:
        if not pod.ready:
            yield f"pod {pod.name} {pod.trouble()}"
        elif pod.revision != _revision(live):
            yield f"pod {pod.name} runs an old pod template"
    if len(pods) != replicas:
        yield f"{len(pods)} pods exist, {replicas} are wanted"


def _blocked(
    observed: Observed, block: Block, *, now: datetime, cluster: VectorizerCluster | None = None
) -> Plan:
    live = observed.children.get(("StatefulSet", observed.cluster["metadata"]["name"]))
    verdict = (block.reason, block.message[:_MESSAGE_LIMIT])
    unknown: Verdict = (None, "NotRolledOut", "the spec is not rolled out")
    verdicts: dict[ConditionType, Verdict] = {
        ConditionType.READY: (False, *verdict),
        ConditionType.RECONCILING: (not block.stalled, *verdict),
        ConditionType.STALLED: (block.stalled, *verdict),
        ConditionType.RULES_HONOURED: _rules_verdict(observed.cluster),
        ConditionType.MEMORY_BUDGET_HONOURED: _memory_verdict(cluster) if cluster else unknown,
    }
    pods = _pods(observed, live)
    status = _status(observed, pods, verdicts, revision=_revision(live), now=now)
    topology = tuple(topology_changes(observed, pods, (), now=now))  # for the pods that there are
    pauses = [block.look_again_after] if block.look_again_after is not None else []
    if topology or any(all_shards_served(observed, pods)):
        pauses += look_again(pods, now=now)
    return Plan(actions=topology, status=status, requeue_after=min(pauses, default=None))


def _status(
    observed: Observed,
    pods: Sequence[Pod],
    verdicts: dict[ConditionType, Verdict],
    *,
    revision: str | None,
    now: datetime,
) -> dict[str, Any]:
    metadata = observed.cluster["metadata"]
    before = observed.cluster.get("status") or {}
    generation: int = metadata.get("generation", 0)
    labels = selector(metadata["name"])
    status: dict[str, Any] = {
        "observedGeneration": generation,
        "conditions": conditions(verdicts, before=before, generation=generation, now=now),
        "replicas": len(pods),
        "readyReplicas": sum(pod.ready for pod in pods),
        "updatedReplicas": sum(pod.revision == revision for pod in pods),
        "selector": ",".join(f"{key}={value}" for key, value in labels.items()),
        "endpoint": f"http://{metadata['name']}.{metadata.get('namespace', 'default')}.svc:{PORT}",
    }
    images = {pod.image for pod in pods if pod.image}
    version = images.pop() if len(images) == 1 else before.get("currentVersion")
    if version:
        status["currentVersion"] = version
    if "cache" in before:
        status["cache"] = before["cache"]
    return status


def _rules_verdict(raw: Object) -> Verdict:
    broken = violations(raw)
    if broken:
        return False, broken[0].rule, "; ".join(violation.message for violation in broken)[:_MESSAGE_LIMIT]
    return True, "RulesHonoured", "; ".join(warnings(raw)) or "the cluster rules hold"


def _memory_verdict(cluster: VectorizerCluster) -> Verdict:
    needed = needed_memory_bytes(cluster)
    need = f"{needed // 1024**2}Mi"
    written = cluster.spec.resources.limits.get("memory")
    if written is None:
        return True, "Computed", f"the pods' memory limit is {need}, computed from the cache limit"
    if (parse_quantity(written) or 0) >= needed:
        return True, "Sufficient", f"the pods' memory limit is {written}, {need} are needed"
    return (
        False,
        "MemoryLimitTooSmall",
        f"spec.resources.limits.memory is {written}, but caches of {cluster.spec.cluster.max_cache_memory} need "
        f"{need}: set spec.resources.limits.memory to {need} or more, or unset it",
    )


def _pods(observed: Observed, live: Object | None) -> list[Pod]:
    """The pods that are the StatefulSet's, or were left by it to its successor."""
    uid = live["metadata"]["uid"] if live else None
    own = []
    for pod in map(Pod, observed.pods):
        references = pod.object["metadata"].get("ownerReferences") or ()
        owners = [reference["uid"] for reference in references if reference.get("controller")]
        orphaned = not owners and pod.name == f"{observed.cluster['metadata']['name']}-{pod.ordinal}"
        if orphaned or owners == [uid]:
            own.append(pod)
    return sorted(own, key=lambda pod: pod.ordinal)


def _revision(live: Object | None) -> str | None:
    revision: str | None = (live or {}).get("status", {}).get("updateRevision")
    return revision


def _created_with(live: Object | None) -> str | None:
    image: str | None = ((live or {}).get("metadata", {}).get("annotations") or {}).get(
        DEFAULT_IMAGE_ANNOTATION
    )
    return image


def _verdict(condition: dict[str, Any]) -> Verdict:
    status = {"True": True, "False": False}.get(condition["status"])
    return status, condition["reason"], condition["message"]


def _in_words(action: Action) -> str:
    if isinstance(action, Delete):
        return f"delete {action.kind} {action.name}: {action.why}"
    if isinstance(action, ExpandVolume):
        return f"expand PersistentVolumeClaim {action.name} to {action.size}: {action.why}"
    if isinstance(action, PublishTopology):
        return f"publish topology {action.version}: {action.why}"
    verb = "apply" if isinstance(action, Apply) else "create"
    return f"{verb} {action.manifest['kind']} {action.manifest['metadata']['name']}: {action.why}"


def _join(parts: Sequence[str]) -> str:
    return "; ".join(parts)[:_MESSAGE_LIMIT]
