"""Which actions bring the children to what was rendered, and the pods to the StatefulSet's template."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from vectorizer_engine.cluster.quantity import parse_quantity
from vectorizer_operator.api.cluster import VectorizerCluster
from vectorizer_operator.api.constants import INTERNAL_KEY
from vectorizer_operator.manifests import Manifest, child_refs, internal_secret
from vectorizer_operator.plan.drift import difference, rendered_hash
from vectorizer_operator.plan.model import Action, Apply, CreateSecret, Delete, ExpandVolume, Object, Observed
from vectorizer_operator.plan.pods import Pod
from vectorizer_operator.plan.predicates import (
    claim_size,
    is_owned,
    one_pod_at_a_time,
    stateful_set_has_caught_up,
    stuck_pod_is_replaced,
)


def child_changes(observed: Observed, desired: Sequence[Manifest]) -> Iterator[Action]:
    """What differs between the children that there are and those wished for."""
    for manifest in desired:
        live = observed.children.get(_key(manifest))
        if manifest["kind"] == "StatefulSet":
            yield from _volume_changes(observed, manifest)
        if live is None:
            yield Apply(manifest, "it does not exist")
        elif "deletionTimestamp" in live["metadata"]:
            continue  # its successor is made when it is gone, which is an event
        elif manifest["kind"] == "StatefulSet" and _claim_differs(live, manifest):
            yield _delete(
                "apps/v1",
                live,
                "its volume claim template cannot change: made anew under its pods",
                orphan=True,
            )
        elif (why := _why_apply(live, manifest)) is not None:
            yield Apply(manifest, why)
    wanted = {_key(manifest) for manifest in desired}
    for ref in child_refs(observed.cluster["metadata"]["name"]):
        live = observed.children.get((ref.kind, ref.name))
        if live is None or (ref.kind, ref.name) in wanted or "deletionTimestamp" in live["metadata"]:
            continue
        if is_owned(live, observed.cluster["metadata"]):
            yield _delete(ref.api_version, live, "the spec does not ask for it")


def pod_changes(live: Object, pods: Sequence[Pod]) -> Iterator[Delete]:
    """The pod that a rollout replaces next, if the safety rules let one go."""
    if not stateful_set_has_caught_up(live):
        return
    revision = live["status"]["updateRevision"]
    stuck = stuck_pod_is_replaced(pods, revision)
    if stuck is not None:
        yield _delete("v1", stuck.object, "it runs an old pod template and does not answer")
        return
    outdated = one_pod_at_a_time(pods, revision, live["spec"].get("replicas", 1))
    if outdated is not None:
        yield _delete("v1", outdated.object, "it runs an old pod template")


def secret_changes(observed: Observed, cluster: VectorizerCluster) -> Iterator[CreateSecret]:
    """The key that engines over one store show each other, where there is none."""
    if cluster.spec.storage.object_store is None:
        return
    manifest = internal_secret(cluster)
    if _key(manifest) not in observed.children:
        yield CreateSecret(manifest, INTERNAL_KEY, "it does not exist")


def _why_apply(live: Object, manifest: Manifest) -> str | None:
    drift = difference(manifest, live)
    if rendered_hash(live) != rendered_hash(manifest):
        return f"the spec asks for another one: {drift}" if drift else "the spec asks for another one"
    return f"it was changed by someone else: {drift}" if drift else None


def _claim_differs(live: Object, manifest: Manifest) -> bool:
    return (
        difference(manifest["spec"]["volumeClaimTemplates"], live["spec"].get("volumeClaimTemplates", []))
        is not None
    )


def _volume_changes(observed: Observed, manifest: Manifest) -> Iterator[ExpandVolume]:
    size = claim_size(manifest["spec"]["volumeClaimTemplates"][0])
    prefix = (
        f"{manifest['spec']['volumeClaimTemplates'][0]['metadata']['name']}-{manifest['metadata']['name']}-"
    )
    for claim in sorted(observed.pvcs, key=lambda claim: str(claim["metadata"]["name"])):
        name: str = claim["metadata"]["name"]
        if not name.startswith(prefix) or not name.removeprefix(prefix).isdecimal():
            continue
        if "deletionTimestamp" in claim["metadata"]:
            continue
        if (parse_quantity(claim_size(claim)) or 0) < (parse_quantity(size) or 0):
            yield ExpandVolume(name, size, f"it has {claim_size(claim)}, the spec asks for {size}")


def pods_left_behind(cluster: str, pods: Iterable[Object]) -> Iterator[Delete]:
    """Those of *pods*, which have the label of a *cluster* that is gone, that nobody owns: nobody else removes them.

    A StatefulSet that was to be made anew had left them to its successor, which never came.
    """
    for pod in map(Pod, pods):
        is_named_so = pod.name == f"{cluster}-{pod.ordinal}"
        if is_named_so and not pod.terminating and not pod.object["metadata"].get("ownerReferences"):
            yield _delete("v1", pod.object, "its cluster is gone, and nobody owns it")


def _key(manifest: Mapping[str, Any]) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def _delete(api_version: str, live: Object, why: str, *, orphan: bool = False) -> Delete:
    return Delete(
        api_version=api_version,
        kind=live.get("kind", "Pod"),
        name=live["metadata"]["name"],
        uid=live["metadata"]["uid"],
        why=why,
        propagation="Orphan" if orphan else "Background",
    )
