"""The cluster rules, held against a VectorizerCluster as its user wrote it."""

from collections.abc import Mapping
from typing import Any

from vectorizer_engine.cluster.validator import (
    ClusterSettings,
    Setting,
    Violation,
    cluster_warnings,
    validate_cluster_requirements,
)

SETTING_PATHS = {
    "storage_type": ("spec", "storage", "type"),
    "enforce_mmap_storage": ("spec", "cluster", "enforceMmapStorage"),
    "file_watcher_enabled": ("spec", "fileWatcher", "enabled"),
    "disable_file_watcher": ("spec", "cluster", "disableFileWatcher"),
    "max_cache_memory": ("spec", "cluster", "maxCacheMemory"),
    "replicas": ("spec", "replicas"),
}
"""Where each setting of the rules is in the custom resource."""

OBJECT_STORE_PATH = ("spec", "storage", "objectStore")


def violations(raw: Mapping[str, Any]) -> list[Violation]:
    """Every cluster rule that *raw* breaks, whatever else may be wrong with it."""
    return validate_cluster_requirements(_settings(raw))


def warnings(raw: Mapping[str, Any]) -> list[str]:
    """What *raw* may have and its user probably does not want."""
    return cluster_warnings(_settings(raw))


def _settings(raw: Mapping[str, Any]) -> ClusterSettings:
    settings = {name: Setting(".".join(path), value_at(raw, path)) for name, path in SETTING_PATHS.items()}
    if value_at(raw, OBJECT_STORE_PATH) is not None:
        del settings["replicas"]
    return ClusterSettings(**settings)


def value_at(raw: Any, path: tuple[str, ...]) -> Any:
    """The value at *path*, or None where there is none, or something else than mappings on the way."""
    for key in path:
        raw = raw.get(key) if isinstance(raw, Mapping) else None
    return raw
