"""What would come of a spec if it were applied now: which objects change, which pods restart, and why.

Made of the same judgement and the same changes as a plan, and looks further ahead: a plan names the next steps, a
preview what the whole way costs. Nothing here is executed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import yaml

from vectorizer_operator.api.cluster import VectorizerCluster
from vectorizer_operator.api.constants import CONFIG_HASH_ANNOTATION, RENDERED_HASH_ANNOTATION
from vectorizer_operator.manifests import Manifest
from vectorizer_operator.plan.changes import child_changes
from vectorizer_operator.plan.drift import difference, may_be_secret
from vectorizer_operator.plan.model import Apply, Delete, ExpandVolume, Object, Observed
from vectorizer_operator.plan.planner import judge
from vectorizer_operator.plan.pods import Pod
from vectorizer_operator.plan.predicates import Block

HIDDEN = "(hidden)"
"""In the place of values that may be secret."""


@dataclass(frozen=True, slots=True)
class Change:
    """A field that becomes another one; None stands for unset."""

    path: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.path}: {_in_words(self.before)} → {_in_words(self.after)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectPreview:
    """What happens to one child or volume claim. `why` is there where no field of the spec is the reason."""

    verb: Literal["create", "change", "delete", "replace", "expand"]
    kind: str
    name: str
    changes: tuple[Change, ...] = ()
    why: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PodPreview:
    """What happens to one pod."""

    verb: Literal["start", "restart", "stop"]
    name: str
    why: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """Everything that would change. With `block`, nothing would but the spec; `paused`: not before it is unpaused."""

    namespace: str
    name: str
    new: bool
    spec: tuple[Change, ...] = ()
    objects: tuple[ObjectPreview, ...] = ()
    pods: tuple[PodPreview, ...] = ()
    paused: bool = False
    block: Block | None = None

    @property
    def changes_nothing(self) -> bool:
        return not (self.new or self.spec or self.objects or self.pods)


def preview(observed: Observed, wished: Object, *, default_image: str) -> Preview:
    """What applying *wished* would come to, if it were the whole spec.

    *observed* is the live state; where the cluster does not exist yet, its `cluster` has no spec. *wished* has to be
    readable (`structural_problems`); what breaks a rule comes out as a `block`.
    """
    live = observed.cluster
    metadata = {"namespace": "default", **live["metadata"]}
    about = {"namespace": metadata["namespace"], "name": metadata["name"], "new": "spec" not in live}
    if "deletionTimestamp" in metadata:
        message = f"{metadata['name']} is being deleted: wait until it is gone, then apply"
        return Preview(**about, block=Block("BeingDeleted", message))
    after = replace(observed, cluster={**live, "spec": wished["spec"]})
    then = judge(after, default_image=default_image)
    spec = tuple(differences(_spec(live), _spec(after.cluster), "spec")) if not about["new"] else ()
    if then.block is not None:
        return Preview(**about, spec=spec, block=then.block)
    assert then.cluster is not None
    rendered_now = judge(observed, default_image=default_image).desired if not about["new"] else ()
    return Preview(
        **about,
        spec=spec,
        objects=tuple(_objects(after, rendered_now, then.desired)),
        pods=tuple(_pods(after, then.cluster, rendered_now, then.desired)),
        paused=then.cluster.spec.paused,
    )


def differences(before: Any, after: Any, path: str = "") -> Iterator[Change]:
    """Every field in which two JSON values differ. Lists of named entries are compared by name."""
    if before == after or path.endswith((RENDERED_HASH_ANNOTATION, CONFIG_HASH_ANNOTATION)):
        return  # a hash tells that something changed, which is told by itself
    left, right = _fields(before, path), _fields(after, path)
    if left is None or right is None or not (left or right):
        hidden = may_be_secret(path)
        yield Change(path, *(HIDDEN if hidden and value is not None else value for value in (before, after)))
        return
    for key in dict.fromkeys((*left, *right)):
        yield from differences(left.get(key), right.get(key), _below(path, key))


def _fields(value: Any, path: str) -> Mapping[str, Any] | None:
    """What *value* consists of, by name or position; None for what is compared as a whole."""
    if value is None:
        return {}
    if isinstance(value, str) and path.endswith(".yml"):
        return _mapping(yaml.safe_load(value))
    if isinstance(value, list):
        named = all(isinstance(entry, Mapping) and "name" in entry for entry in value)
        return {f"[{entry['name'] if named else index}]": entry for index, entry in enumerate(value)}
    return _mapping(value)


def _mapping(value: Any) -> Mapping[str, Any] | None:
    return value if isinstance(value, Mapping) else None


def _below(path: str, key: str) -> str:
    return f"{path}{key}" if key.startswith("[") or not path else f"{path}.{key}"


def _in_words(value: Any) -> str:
    if value is None:
        return "unset"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _spec(cluster: Object) -> dict[str, Any]:
    """The spec with the schema's defaults, or as it is written where the models cannot read it."""
    try:
        parsed = VectorizerCluster.parse(cluster)
    except ValueError:
        return dict(cluster["spec"])
    return parsed.spec.model_dump(mode="json", by_alias=True, exclude_none=True)


def _objects(after: Observed, now: Sequence[Manifest], then: Sequence[Manifest]) -> Iterator[ObjectPreview]:
    for action in child_changes(after, then):
        if isinstance(action, Apply):
            kind, name = action.manifest["kind"], action.manifest["metadata"]["name"]
            if (kind, name) not in after.children:
                yield ObjectPreview(verb="create", kind=kind, name=name)
                continue
            before = next(
                (each for each in now if (each["kind"], each["metadata"]["name"]) == (kind, name)), None
            )
            changes = tuple(differences(before, action.manifest)) if before else ()
            why = None if changes else action.why
            yield ObjectPreview(verb="change", kind=kind, name=name, changes=changes, why=why)
        elif isinstance(action, Delete):
            orphans = action.propagation == "Orphan"
            verb: Literal["replace", "delete"] = "replace" if orphans else "delete"
            yield ObjectPreview(verb=verb, kind=action.kind, name=action.name, why=action.why)
        elif isinstance(action, ExpandVolume):
            yield ObjectPreview(verb="expand", kind="PersistentVolumeClaim", name=action.name, why=action.why)


def _pods(
    after: Observed, cluster: VectorizerCluster, now: Sequence[Manifest], then: Sequence[Manifest]
) -> Iterator[PodPreview]:
    name, replicas = cluster.metadata.name, cluster.spec.replicas
    live = after.children.get(("StatefulSet", name))
    why = tuple(map(str, _template_changes(now, then))) if now else tuple(_template_drift(live, then))
    pods = sorted(map(Pod, after.pods), key=lambda pod: pod.ordinal)
    for pod in pods:
        if pod.ordinal >= replicas:
            yield PodPreview(verb="stop", name=pod.name, why=(f"spec.replicas is {replicas}",))
        elif why:
            yield PodPreview(verb="restart", name=pod.name, why=why)
        elif live is not None and pod.revision != live.get("status", {}).get("updateRevision", pod.revision):
            yield PodPreview(verb="restart", name=pod.name, why=("it runs an old pod template already",))
    for ordinal in sorted(set(range(replicas)) - {pod.ordinal for pod in pods}):
        yield PodPreview(verb="start", name=f"{name}-{ordinal}", why=("it does not exist",))


def _template_changes(now: Sequence[Manifest], then: Sequence[Manifest]) -> Iterator[Change]:
    """In what the pods will differ. What a later rendering leaves out is seen, too, as both are rendered."""
    before, after = (_rendered(each, "StatefulSet")["spec"]["template"] for each in (now, then))
    hashes = [each["metadata"]["annotations"][CONFIG_HASH_ANNOTATION] for each in (before, after)]
    if hashes[0] != hashes[1]:
        yield from differences(*(_rendered(each, "ConfigMap")["data"] for each in (now, then)))
    yield from differences(before, after, "pod template")


def _template_drift(live: Object | None, then: Sequence[Manifest]) -> Iterator[str]:
    """The same, where the spec up to now cannot be rendered: the first field that the live pod template lacks."""
    if live is not None:
        found = difference(_rendered(then, "StatefulSet")["spec"]["template"], live["spec"]["template"])
        if found is not None:
            yield f"pod template: {found}"


def _rendered(manifests: Sequence[Manifest], kind: str) -> Manifest:
    return next(manifest for manifest in manifests if manifest["kind"] == kind)
