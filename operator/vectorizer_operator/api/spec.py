"""What a user may wish for: the `spec` of a VectorizerCluster.

The descriptions are the user's reference (`kubectl explain`, `docs/reference/`). Values that break a cluster rule fit
these types on purpose: the rule's message, with its code and fix, is what the user should read, not the schema's.
"""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from vectorizer_engine.tenants import MAX_TENANT_NAME_LENGTH, MAX_TENANTS, TENANT_NAME_PATTERN
from vectorizer_operator.api.object_store import ObjectStoreSection
from vectorizer_operator.api.types import (
    Model,
    MountPassthrough,
    NamedPassthrough,
    Passthrough,
    Quantity,
    ShortText,
    unique,
)

Retention = Literal["Retain", "Delete"]


class ClusterSection(Model):
    max_cache_memory: Quantity = Field(
        "1Gi",
        description="The one limit over all caches of a pod, as a quantity (512Mi) or in bytes: above 0 and up to 1Gi "
        "(CLUSTER_003). The pod's memory limit is computed from it. A change restarts the pods.",
    )
    enforce_mmap_storage: bool = Field(
        True, description="Refuse collections that are kept in memory. A cluster needs it true (CLUSTER_001)."
    )
    disable_file_watcher: bool = Field(
        True, description="Never start the file watcher. A cluster needs it true (CLUSTER_002)."
    )
    cache_warning_threshold_percent: int = Field(
        80,
        ge=1,
        le=100,
        description="Cache usage, in percent of the limit, from which the engine logs a warning.",
    )


class RetentionSection(Model):
    when_deleted: Retention = Field(
        "Retain",
        description="What becomes of the volume claims, and so of the data, when the cluster is deleted.",
    )
    when_scaled: Retention = Field(
        "Retain",
        description="What becomes of a pod's volume claim when replicas goes down. With Delete, replicas: 0 deletes "
        "the data.",
    )


class StorageSection(Model):
    type: ShortText = Field(
        "mmap",
        description="Where vectors live. A cluster keeps them in memory-mapped files: mmap (CLUSTER_001).",
    )
    size: Quantity = Field(
        "10Gi",
        description="Size of each pod's volume. It can grow, which restarts nothing, and never shrink. It holds the "
        "vectors (4 bytes a dimension), their indexes, payloads and the write-ahead log.",
    )
    storage_class_name: ShortText | None = Field(
        None,
        description="Class of the volumes; unset, Kubernetes' default class. Cannot change after creation.",
    )
    object_store: ObjectStoreSection | None = Field(
        None,
        description="A store in which the collections live, so that they outlive pods and volumes; a pod's volume then "
        "holds copies. Unset: they live on the volume. Deleting the cluster never deletes objects. Adding or removing "
        "it is not possible after creation.",
    )
    retention: RetentionSection = Field(
        default_factory=RetentionSection,
        description="What becomes of volume claims that are no longer needed.",
    )


class FileWatcherSection(Model):
    enabled: bool = Field(
        False, description="Watch folders for files to load. A cluster needs it false (CLUSTER_002)."
    )


class Resources(Model):
    requests: dict[str, Quantity] = Field(
        default_factory=dict,
        max_length=6,
        description="What the scheduler sets aside, by resource. Unset memory: the memory limit; unset cpu: 250m.",
    )
    limits: dict[str, Quantity] = Field(
        default_factory=dict,
        max_length=6,
        description="What the pod may use at most, by resource. Unset memory: computed from "
        "cluster.maxCacheMemory, so that the engine fits. Unset cpu: no limit.",
    )


class Scheduling(Model):
    node_selector: dict[str, str] = Field(
        default_factory=dict, description="Labels that a node must have to run the pods."
    )
    tolerations: list[Passthrough] = Field(
        default_factory=list, description="Taints that the pods tolerate, as in a pod's spec."
    )
    affinity: Passthrough | None = Field(
        None, description="Rules of attraction and repulsion, as in a pod's spec."
    )
    topology_spread_constraints: list[Passthrough] = Field(
        default_factory=list, description="How the pods spread over zones and nodes, as in a pod's spec."
    )
    priority_class_name: ShortText | None = Field(None, description="Priority class of the pods.")


class ServiceSection(Model):
    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = Field(
        "ClusterIP", description="Type of the Service that clients talk to."
    )
    annotations: dict[str, str] = Field(
        default_factory=dict,
        description="Annotations of the client Service, such as a load balancer's settings.",
    )


class SecretKeyRef(Model):
    name: ShortText = Field(min_length=1, description="Name of a Secret in the cluster's namespace.")
    key: ShortText = Field("api-key", min_length=1, description="Key within the Secret.")


class ImagePullSecret(Model):
    name: ShortText = Field(
        min_length=1, description="Name of a Secret of the type kubernetes.io/dockerconfigjson."
    )


class AuthSection(Model):
    api_key_secret_ref: SecretKeyRef | None = Field(
        None,
        description="Where the API key is, which clients send as `api-key` header or bearer token. Unset: no key is "
        "asked. Pods read it when they start: after changing the Secret, delete the pods.",
    )
    read_only_api_key_secret_ref: SecretKeyRef | None = Field(
        None,
        description="Where a key is that allows reading only, metrics included: for Prometheus, and for clients that "
        "search. Needs apiKeySecretRef. Unset: there is none.",
    )


class Tenant(Model):
    name: str = Field(
        pattern=TENANT_NAME_PATTERN,
        max_length=MAX_TENANT_NAME_LENGTH,
        description="Name of the tenant. Its data stays with this name, also while the tenant is not listed here.",
    )
    api_key_secret_ref: SecretKeyRef = Field(
        description="Where the key is that allows everything in the tenant's collections. A key of its own."
    )
    read_only_api_key_secret_ref: SecretKeyRef | None = Field(
        None, description="Where the key is that allows reading them. Unset: there is none."
    )
    memory_quota: Annotated[str, StringConstraints(max_length=32)] | None = Field(
        None,
        description="What the tenant's caches may hold at most, as a quantity in quotes or with a suffix (128Mi): up "
        "to cluster.maxCacheMemory. Unset: what the others leave, and its fair share when memory runs short.",
    )


class NetworkPolicySection(Model):
    enabled: bool = Field(
        True,
        description="Make a NetworkPolicy that lets clients in on the REST API's port and nothing out of the pods, but "
        "for what storage.objectStore takes: its port, name resolution, the cloud's metadata service where there is no "
        "secretRef. Policies add up: another one may allow more.",
    )


class PodDisruptionBudgetSection(Model):
    enabled: bool = Field(
        False,
        description="Make a PodDisruptionBudget that refuses voluntary evictions of the cluster's only pod. "
        "Draining its node then waits until this is false.",
    )


class PodTemplate(Model):
    labels: dict[str, str] = Field(
        default_factory=dict,
        max_length=32,
        description="Labels for the pods, besides the operator's own (app.kubernetes.io/, vectorizer.io/).",
    )
    annotations: dict[str, str] = Field(
        default_factory=dict,
        max_length=32,
        description="Annotations for the pods, besides the operator's own (app.kubernetes.io/, vectorizer.io/).",
    )
    env: Annotated[list[NamedPassthrough], unique("name")] = Field(
        default_factory=list,
        max_length=64,
        description="Environment variables for the engine's container, as in a pod's spec. Not VECTORIZER__…: the "
        "engine's settings come from the fields above, where the rules are checked.",
    )
    volumes: Annotated[list[NamedPassthrough], unique("name")] = Field(
        default_factory=list,
        max_length=32,
        description="Volumes besides the operator's own (config, data, tmp), as in a pod's spec.",
    )
    volume_mounts: Annotated[list[MountPassthrough], unique("mountPath")] = Field(
        default_factory=list,
        max_length=32,
        description="Mounts of those volumes in the engine's container, as in a pod's spec.",
    )


class VectorizerClusterSpec(Model):
    """The wished-for state of a cluster."""

    replicas: int = Field(
        1,
        ge=0,
        le=1000,
        description="Number of pods. 0 stops the cluster and keeps its data (unless storage.retention.whenScaled is "
        "Delete). More than 1 need storage.objectStore (CLUSTER_004): each then serves a part of the data, any of them "
        "answers for all, and a change moves shards without copying them between pods.",
    )
    image: ShortText | None = Field(
        None,
        min_length=1,
        description="Image of the engine. Unset: the one of the operator's release at the time of creation; it then "
        "stays, over upgrades of the operator too, until this is set.",
    )
    image_pull_secrets: Annotated[list[ImagePullSecret], unique("name")] = Field(
        default_factory=list,
        max_length=16,
        description="Secrets in the cluster's namespace with credentials for the image's registry. A change restarts "
        "the pods.",
    )
    cluster: ClusterSection = Field(
        default_factory=ClusterSection, description="What makes the engine part of a cluster."
    )
    storage: StorageSection = Field(default_factory=StorageSection, description="Where the data lives.")
    file_watcher: FileWatcherSection = Field(
        default_factory=FileWatcherSection,
        description="The engine's file watcher, which a cluster does not run.",
    )
    resources: Resources = Field(
        default_factory=Resources, description="CPU and memory of a pod; what is unset is computed."
    )
    scheduling: Scheduling = Field(default_factory=Scheduling, description="On which nodes the pods run.")
    service: ServiceSection = Field(
        default_factory=ServiceSection, description="The Service that clients talk to, named as the cluster."
    )
    auth: AuthSection = Field(default_factory=AuthSection, description="Who may use the REST API.")
    tenants: Annotated[list[Tenant], unique("name")] = Field(
        default_factory=list,
        max_length=MAX_TENANTS,
        description="Who has collections of their own, which only their keys reach. Needs auth.apiKeySecretRef, the "
        "key of whoever runs the cluster. Pods read keys when they start: after changing a Secret, delete the pods.",
    )
    network_policy: NetworkPolicySection = Field(
        default_factory=NetworkPolicySection, description="Which connections the pods may have."
    )
    pod_disruption_budget: PodDisruptionBudgetSection = Field(
        default_factory=PodDisruptionBudgetSection, description="Whether node drains may evict the pod."
    )
    paused: bool = Field(
        False,
        description="Leave everything as it is: the operator changes nothing until this is false, and says so in "
        "the conditions. Pods go on serving.",
    )
    pod_template: PodTemplate = Field(
        default_factory=PodTemplate, description="Additions to the pods that have no field of their own."
    )
