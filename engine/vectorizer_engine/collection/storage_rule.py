"""CLUSTER_001 where collections are made and opened: in cluster mode none keeps its vectors on the heap.

The doors before this one (the configuration's, each request's) name what their user wrote; this one holds whoever
comes past them: code that uses the store directly, and a data folder that was filled in standalone mode.
"""

from __future__ import annotations

from collections.abc import Iterable

from vectorizer_engine.cluster.validator import ClusterSettings, Setting, validate_cluster_requirements
from vectorizer_engine.collection.types import StorageType
from vectorizer_engine.errors import ClusterConfigViolation

_MIGRATE = (
    "run vectorizer --migrate-to-cluster --config FILE (docs/users/MIGRATION.md), "
    "or set cluster.enabled to false"
)


def require_mmap_to_create(name: str, storage: StorageType) -> None:
    """Raises ClusterConfigViolation where the new collection is not to have mapped files."""
    _require_mmap({name: storage}, fix=f"create collection '{name}' with mmap storage")


def require_mmap_to_open(storages: dict[str, StorageType]) -> None:
    """Raises ClusterConfigViolation that names every collection that needs to be migrated first."""
    _require_mmap(storages, fix=_MIGRATE)


def _require_mmap(storages: dict[str, StorageType], *, fix: str) -> None:
    settings: Iterable[Setting] = (
        Setting(f"the storage of collection '{name}'", storage.value) for name, storage in storages.items()
    )
    violations = [
        violation.model_copy(update={"fix": fix})
        for setting in settings
        for violation in validate_cluster_requirements(ClusterSettings(storage_type=setting))
    ]
    if violations:
        raise ClusterConfigViolation(violations)
