"""From the objects that the operator would apply to the pods that a StatefulSet controller would make of them.

Pure: takes and returns plain objects. Not for running pods (`runner.py`) nor for deciding when (`supervisor.py`).
"""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vectorizer_operator.api.constants import OBJECT_STORE_ANNOTATION

Object = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The pods of one cluster by name. `revision` changes when they have to be replaced, and only then."""

    pods: Mapping[str, dict[str, Any]]
    config_maps: Mapping[str, Mapping[str, str]]
    revision: str
    claims_deleted_when_scaled: bool
    shares_store: bool


def workload(
    objects: Sequence[Object],
    *,
    config_maps: Mapping[str, Mapping[str, str]],
    secrets: Mapping[str, Mapping[str, str]],
) -> Workload:
    """The pods of the one StatefulSet in `objects`, with its claims as volumes, and the config maps they may mount.

    Unlike in Kubernetes, where a pod keeps the Secrets that it started with, a change of those replaces the pods.
    """
    (stateful_set,) = (item for item in objects if item["kind"] == "StatefulSet")
    rendered = {
        item["metadata"]["name"]: item.get("data", {}) for item in objects if item["kind"] == "ConfigMap"
    }
    spec = stateful_set["spec"]
    inputs = {"template": spec["template"], "config_maps": {**config_maps, **rendered}, "secrets": secrets}
    revision = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    pods = [_pod(stateful_set, ordinal) for ordinal in range(spec.get("replicas", 1))]
    retention = spec.get("persistentVolumeClaimRetentionPolicy", {})
    return Workload(
        pods={pod["metadata"]["name"]: pod for pod in pods},
        config_maps=inputs["config_maps"],
        revision=revision,
        claims_deleted_when_scaled=retention.get("whenScaled") == "Delete",
        shares_store=shares_store(objects),
    )


def shares_store(objects: Sequence[Object]) -> bool:
    """Whether the pods of the StatefulSet in `objects` keep their collections in one object store."""
    return any(OBJECT_STORE_ANNOTATION in (item["metadata"].get("annotations") or {}) for item in objects)


def claims(pod: Object) -> list[str]:
    """The names of the persistent volume claims that `pod` mounts."""
    sources = (volume.get("persistentVolumeClaim") for volume in pod["spec"].get("volumes", ()))
    return [source["claimName"] for source in sources if source]


def own_claims(pod: Object) -> list[str]:
    """Those of them that were made for `pod` alone, from its StatefulSet's templates."""
    name = pod["metadata"]["name"]
    made = {f"{volume['name']}-{name}" for volume in pod["spec"].get("volumes", ())}
    return [claim for claim in claims(pod) if claim in made]


def _pod(stateful_set: Object, ordinal: int) -> dict[str, Any]:
    template = copy.deepcopy(stateful_set["spec"]["template"])
    name = f"{stateful_set['metadata']['name']}-{ordinal}"
    metadata = {**template.get("metadata", {}), "name": name}
    metadata["namespace"] = stateful_set["metadata"].get("namespace", "default")
    metadata["labels"] = {
        **metadata.get("labels", {}),
        "statefulset.kubernetes.io/pod-name": name,
        "apps.kubernetes.io/pod-index": str(ordinal),
    }
    volumes = [
        {
            "name": claim["metadata"]["name"],
            "persistentVolumeClaim": {"claimName": f"{claim['metadata']['name']}-{name}"},
        }
        for claim in stateful_set["spec"].get("volumeClaimTemplates", ())
    ]
    spec = template["spec"]
    spec["volumes"] = [*spec.get("volumes", ()), *volumes]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
