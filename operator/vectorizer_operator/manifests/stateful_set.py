"""The StatefulSet: engine pods, each with a volume of its own.

Pods meet the restricted Pod Security Standard. They are replaced by the operator, not by the StatefulSet controller
(`OnDelete`), so that each step of a rollout passes the operator's safety rules and a rollout never waits for a pod
that cannot become ready.
"""

from collections.abc import Iterator
from typing import Any

from vectorizer_engine.cluster.quantity import parse_quantity
from vectorizer_engine.cluster.validator import MAX_CACHE_MEMORY_BYTES
from vectorizer_operator.api.cluster import VectorizerCluster
from vectorizer_operator.api.constants import (
    CONFIG_HASH_ANNOTATION,
    CONTAINER,
    DEFAULT_IMAGE_ANNOTATION,
    INTERNAL_KEY,
    OBJECT_STORE_ANNOTATION,
    PORT,
    PORT_NAME,
)
from vectorizer_operator.api.object_store import CREDENTIALS
from vectorizer_operator.api.spec import Tenant
from vectorizer_operator.capacity import pod_memory_bytes
from vectorizer_operator.manifests.common import (
    Manifest,
    child,
    config_name,
    content_hash,
    headless_name,
    internal_secret_name,
    labels,
    selector,
)
from vectorizer_operator.manifests.config_map import (
    CONFIG_FOLDER,
    CONFIG_KEY,
    DATA_FOLDER,
    TENANTS_FOLDER,
    key_path,
)

DATA_VOLUME = "data"
_TENANTS_MOUNT = {"name": "tenants", "mountPath": TENANTS_FOLDER, "readOnly": True}
USER_ID = 65532
"""The user and group `nonroot` of the engine's image."""

TERMINATION_GRACE_SECONDS = 15
"""The engine stops within 10 s: not ready, requests finished, log flushed."""

HANDOVER_GRACE_SECONDS = 30
"""With other pods to take its shards over it may take 11 s more."""

START_SECONDS = 1800
"""How long an engine may take to replay its log before it is taken for hung."""


def stateful_set(cluster: VectorizerCluster, *, config: str, default_image: str) -> Manifest:
    """*config* is the engine's configuration: pods are replaced when it changes."""
    name, spec = cluster.metadata.name, cluster.spec
    annotations = {} if spec.image else {DEFAULT_IMAGE_ANNOTATION: default_image}
    if spec.storage.object_store is not None:
        annotations[OBJECT_STORE_ANNOTATION] = spec.storage.object_store.url
    return child(
        cluster,
        api_version="apps/v1",
        kind="StatefulSet",
        name=name,
        annotations=annotations,
        spec={
            "replicas": spec.replicas,
            "serviceName": headless_name(name),
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "OnDelete"},
            "revisionHistoryLimit": 2,
            "persistentVolumeClaimRetentionPolicy": {
                "whenDeleted": spec.storage.retention.when_deleted,
                "whenScaled": spec.storage.retention.when_scaled,
            },
            "selector": {"matchLabels": selector(name)},
            "template": _pod_template(cluster, config=config, image=spec.image or default_image),
            "volumeClaimTemplates": [_volume_claim(cluster)],
        },
    )


def needed_memory_bytes(cluster: VectorizerCluster) -> int:
    """The least that a pod's memory limit must be, for its engine to keep what it promises."""
    limit = parse_quantity(cluster.spec.cluster.max_cache_memory)
    return pod_memory_bytes(
        MAX_CACHE_MEMORY_BYTES if limit is None else limit,
        shares_store=cluster.spec.storage.object_store is not None,
    )


def resources(cluster: VectorizerCluster) -> dict[str, dict[str, str]]:
    """The engine container's resources: what the user wrote, and for memory and CPU what is computed otherwise."""
    wanted = cluster.spec.resources
    need = needed_memory_bytes(cluster)
    limits = {"memory": f"{need // 1024**2}Mi", **wanted.limits}
    requests = {"cpu": "250m", "memory": limits["memory"], **wanted.requests}
    return {
        "requests": {resource: str(amount) for resource, amount in sorted(requests.items())},
        "limits": {resource: str(amount) for resource, amount in sorted(limits.items())},
    }


def _pod_template(cluster: VectorizerCluster, *, config: str, image: str) -> dict[str, Any]:
    name, extra, scheduling = cluster.metadata.name, cluster.spec.pod_template, cluster.spec.scheduling
    spec: dict[str, Any] = {
        "serviceAccountName": name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": HANDOVER_GRACE_SECONDS
        if cluster.spec.storage.object_store
        else TERMINATION_GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(cluster, image=image)],
        "volumes": [
            {"name": "config", "configMap": {"name": config_name(name)}},
            {"name": "tmp", "emptyDir": {}},
            *_tenants_volume(cluster.spec.tenants),
            *extra.volumes,
        ],
    }
    spec |= {
        key: value
        for key, value in {
            "imagePullSecrets": [{"name": secret.name} for secret in cluster.spec.image_pull_secrets],
            "nodeSelector": scheduling.node_selector,
            "tolerations": scheduling.tolerations,
            "affinity": scheduling.affinity,
            "topologySpreadConstraints": scheduling.topology_spread_constraints,
            "priorityClassName": scheduling.priority_class_name,
        }.items()
        if value
    }
    return {
        "metadata": {
            "labels": {**extra.labels, **labels(name)},
            "annotations": {**extra.annotations, CONFIG_HASH_ANNOTATION: content_hash(config)},
        },
        "spec": spec,
    }


def _tenants_volume(tenants: list[Tenant]) -> Iterator[dict[str, Any]]:
    """One file for each tenant's key, where the engine's configuration says it is."""
    if not tenants:
        return
    sources = []
    for tenant in tenants:
        for reference, read_only in (
            (tenant.api_key_secret_ref, False),
            (tenant.read_only_api_key_secret_ref, True),
        ):
            if reference is not None:
                item = {"key": reference.key, "path": key_path(tenant, read_only=read_only)}
                sources.append({"secret": {"name": reference.name, "items": [item]}})
    yield {"name": _TENANTS_MOUNT["name"], "projected": {"sources": sources, "defaultMode": 0o440}}


def _container(cluster: VectorizerCluster, *, image: str) -> dict[str, Any]:
    extra, env = cluster.spec.pod_template, list(_environment(cluster))
    return {
        "name": CONTAINER,
        "image": image,
        "command": ["vectorizer"],
        "args": ["serve", "--config", f"{CONFIG_FOLDER}/{CONFIG_KEY}"],
        **({"env": env} if env else {}),
        "ports": [{"name": PORT_NAME, "containerPort": PORT, "protocol": "TCP"}],
        "resources": resources(cluster),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "startupProbe": _probe("/readyz", period=1, failures=START_SECONDS),
        "readinessProbe": _probe("/readyz", period=2, failures=2),
        "livenessProbe": _probe("/livez", period=10, failures=3),
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG_FOLDER, "readOnly": True},
            {"name": DATA_VOLUME, "mountPath": DATA_FOLDER},
            {"name": "tmp", "mountPath": "/tmp"},
            *([_TENANTS_MOUNT] if cluster.spec.tenants else []),
            *extra.volume_mounts,
        ],
    }


def _environment(cluster: VectorizerCluster) -> Iterator[dict[str, Any]]:
    spec = cluster.spec
    for variable, reference in (
        ("VECTORIZER__AUTH__API_KEY", spec.auth.api_key_secret_ref),
        ("VECTORIZER__AUTH__READ_ONLY_API_KEY", spec.auth.read_only_api_key_secret_ref),
    ):
        if reference is not None:
            yield _from_secret(variable, name=reference.name, key=reference.key)
    store = spec.storage.object_store
    if store is not None:
        # With one pod too, so that others may come without a restart of this one.
        yield {
            "name": "VECTORIZER__CLUSTER__POD_NAME",
            "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}},
        }
        yield _from_secret(
            "VECTORIZER__CLUSTER__INTERNAL_KEY",
            name=internal_secret_name(cluster.metadata.name),
            key=INTERNAL_KEY,
        )
    if store is not None and store.secret_ref is not None:
        for variable, required in CREDENTIALS[store.scheme].items():
            optional = {} if required else {"optional": True}
            yield _from_secret(variable, name=store.secret_ref.name, key=variable, **optional)
    yield from spec.pod_template.env


def _from_secret(variable: str, **reference: Any) -> dict[str, Any]:
    return {"name": variable, "valueFrom": {"secretKeyRef": reference}}


def _probe(path: str, *, period: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": PORT_NAME, "scheme": "HTTP"},
        "periodSeconds": period,
        "timeoutSeconds": 5 if period >= 5 else period,
        "failureThreshold": failures,
    }


def _volume_claim(cluster: VectorizerCluster) -> dict[str, Any]:
    storage = cluster.spec.storage
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": DATA_VOLUME},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": str(storage.size)}},
            **({"storageClassName": storage.storage_class_name} if storage.storage_class_name else {}),
        },
    }
