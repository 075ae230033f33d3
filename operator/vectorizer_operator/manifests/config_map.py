"""The engine's `config.yml`, in a ConfigMap."""

from typing import Any

import yaml

from vectorizer_engine.cluster.quantity import parse_quantity
from vectorizer_engine.cluster.validator import MAX_CACHE_MEMORY_BYTES
from vectorizer_operator.api.cluster import VectorizerCluster
from vectorizer_operator.api.constants import PORT
from vectorizer_operator.api.spec import StorageSection, Tenant
from vectorizer_operator.manifests.common import Manifest, child, config_name

CONFIG_KEY = "config.yml"
CONFIG_FOLDER = "/etc/vectorizer"
DATA_FOLDER = "/var/lib/vectorizer"
TENANTS_FOLDER = "/etc/vectorizer-tenants"


def config_yaml(cluster: VectorizerCluster) -> str:
    """The configuration of the engine's pods.

    What breaks a rule is passed on as it was written: the engine refuses it at start, as the last of the doors.
    """
    spec = cluster.spec
    written = spec.cluster.max_cache_memory
    limit = parse_quantity(written)
    allowed = limit is not None and 0 < limit <= MAX_CACHE_MEMORY_BYTES
    config: dict[str, Any] = {
        "server": {"host": "0.0.0.0", "port": PORT},
        "storage": {"path": DATA_FOLDER, "type": spec.storage.type, **_object_store(spec.storage)},
        "cluster": {
            "enabled": True,
            # In bytes, so that 1Gi and 1024Mi are the same configuration and restart nothing.
            "max_cache_memory_bytes": limit if allowed else written,
            "enforce_mmap_storage": spec.cluster.enforce_mmap_storage,
            "disable_file_watcher": spec.cluster.disable_file_watcher,
            "cache_warning_threshold": spec.cluster.cache_warning_threshold_percent,
        },
        "file_watcher": {"enabled": spec.file_watcher.enabled},
    }
    if spec.tenants:
        config["tenants"] = {
            "enabled": True,
            "keys_folder": TENANTS_FOLDER,
            "members": [_tenant(tenant) for tenant in spec.tenants],
        }
    return yaml.safe_dump(config, sort_keys=False)


def _object_store(storage: StorageSection) -> dict[str, Any]:
    """What is set of the store; its credentials are the container's environment."""
    if storage.object_store is None:
        return {}
    settings = storage.object_store.model_dump(include={"url", "endpoint", "region"}, exclude_none=True)
    return {"object_store": settings}


def key_path(tenant: Tenant, *, read_only: bool) -> str:
    """Where below TENANTS_FOLDER the file with a tenant's key is."""
    return f"{tenant.name}/{'read-only-api-key' if read_only else 'api-key'}"


def _tenant(tenant: Tenant) -> dict[str, Any]:
    """A tenant as the engine reads it: its keys stay in files, as a ConfigMap is no place for them."""
    member: dict[str, Any] = {
        "name": tenant.name,
        "api_key_file": key_path(tenant, read_only=False),
    }
    if tenant.read_only_api_key_secret_ref is not None:
        member["read_only_api_key_file"] = key_path(tenant, read_only=True)
    if tenant.memory_quota is not None:
        member["memory_quota_bytes"] = parse_quantity(tenant.memory_quota)
    return member


def config_map(cluster: VectorizerCluster, config: str) -> Manifest:
    """*config* is what `config_yaml` made of *cluster*: written once, as it costs more than all the rest."""
    return child(
        cluster,
        api_version="v1",
        kind="ConfigMap",
        name=config_name(cluster.metadata.name),
        data={CONFIG_KEY: config},
    )
