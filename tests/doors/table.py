"""The one table of clusters that break a rule, and what every door has to say about each.

The expectations are written out, not computed: the doors share their code, so a test that computed them with it would
prove little.
"""

from dataclasses import dataclass, replace
from typing import Any

MMAP = "a cluster keeps its vectors in memory-mapped files"
WATCHER = "a cluster runs no file watcher"
CACHE = "all caches of a cluster share one limit above 0 and up to 1 GiB"
STORE = "pods behind one Service must hold the same data"
SIZE = "a size above 0 and up to 1Gi (1073741824 bytes)"
ONE = "1, or give the pods a store that they share: spec.storage.objectStore"

# Where the engine's configuration has what the custom resource has elsewhere.
ENGINE_PATHS = {
    "spec.storage.type": "storage.type",
    "spec.cluster.enforceMmapStorage": "cluster.enforce_mmap_storage",
    "spec.fileWatcher.enabled": "file_watcher.enabled",
    "spec.cluster.disableFileWatcher": "cluster.disable_file_watcher",
    "spec.cluster.maxCacheMemory": "cluster.max_cache_memory_bytes",
}


@dataclass(frozen=True)
class Broken:
    """A broken rule as a door has to report it. `current` is as it is shown."""

    code: str
    rule: str
    path: str
    current: str
    statement: str
    fix_value: str

    @property
    def fix(self) -> str:
        return f"set {self.path} to {self.fix_value}"

    @property
    def message(self) -> str:
        return f"{self.code}: {self.path} is {self.current}, but {self.statement}: {self.fix}"


@dataclass(frozen=True)
class BadSpec:
    name: str
    spec: dict[str, Any]
    broken: tuple[Broken, ...]

    def cluster(self) -> dict[str, Any]:
        return {
            "apiVersion": "vectorizer.io/v1",
            "kind": "VectorizerCluster",
            "metadata": {"name": self.name},
            "spec": self.spec,
        }

    def messages(self) -> list[str]:
        return sorted(broken.message for broken in self.broken)

    def engine_messages(self) -> list[str]:
        """What the engine has to say: the same rules at its own paths. It knows nothing of replicas."""
        return sorted(
            replace(broken, path=ENGINE_PATHS[broken.path]).message
            for broken in self.broken
            if broken.path in ENGINE_PATHS
        )


def _memory(current: str = '"memory"') -> Broken:
    return Broken("CLUSTER_001", "MmapStorageRequired", "spec.storage.type", current, MMAP, "mmap")


def _cache(current: str) -> Broken:
    return Broken("CLUSTER_003", "CacheLimitRequired", "spec.cluster.maxCacheMemory", current, CACHE, SIZE)


_NOT_ENFORCED = Broken(
    "CLUSTER_001", "MmapStorageRequired", "spec.cluster.enforceMmapStorage", "false", MMAP, "true"
)
_WATCHER_ON = Broken(
    "CLUSTER_002", "FileWatcherNotAllowed", "spec.fileWatcher.enabled", "true", WATCHER, "false"
)
_WATCHER_NOT_DISABLED = Broken(
    "CLUSTER_002", "FileWatcherNotAllowed", "spec.cluster.disableFileWatcher", "false", WATCHER, "true"
)
_TWO_PODS = Broken("CLUSTER_004", "SharedStoreRequired", "spec.replicas", "2", STORE, ONE)

BAD_SPECS = (
    BadSpec("memory-storage", {"storage": {"type": "memory"}}, (_memory(),)),
    BadSpec("unknown-storage", {"storage": {"type": "MMAP"}}, (_memory('"MMAP"'),)),
    BadSpec("mmap-not-enforced", {"cluster": {"enforceMmapStorage": False}}, (_NOT_ENFORCED,)),
    BadSpec("watcher-on", {"fileWatcher": {"enabled": True}}, (_WATCHER_ON,)),
    BadSpec("watcher-not-disabled", {"cluster": {"disableFileWatcher": False}}, (_WATCHER_NOT_DISABLED,)),
    BadSpec("cache-2gi", {"cluster": {"maxCacheMemory": "2Gi"}}, (_cache('"2Gi"'),)),
    BadSpec("cache-one-byte-too-many", {"cluster": {"maxCacheMemory": 1024**3 + 1}}, (_cache("1073741825"),)),
    BadSpec("cache-0", {"cluster": {"maxCacheMemory": 0}}, (_cache("0"),)),
    BadSpec("cache-negative", {"cluster": {"maxCacheMemory": -1}}, (_cache("-1"),)),
    BadSpec("cache-lots", {"cluster": {"maxCacheMemory": "lots"}}, (_cache('"lots"'),)),
    BadSpec("cache-empty", {"cluster": {"maxCacheMemory": ""}}, (_cache('""'),)),
    BadSpec("two-replicas", {"replicas": 2}, (_TWO_PODS,)),
    BadSpec(
        "several-at-once",
        {"storage": {"type": "memory"}, "cluster": {"maxCacheMemory": 0}},
        (_memory(), _cache("0")),
    ),
    BadSpec(
        "everything-at-once",
        {
            "replicas": 2,
            "storage": {"type": "memory"},
            "fileWatcher": {"enabled": True},
            "cluster": {"maxCacheMemory": "lots", "enforceMmapStorage": False, "disableFileWatcher": False},
        },
        (_memory(), _NOT_ENFORCED, _WATCHER_ON, _WATCHER_NOT_DISABLED, _cache('"lots"'), _TWO_PODS),
    ),
)

GOOD_SPECS: dict[str, dict[str, Any]] = {
    "empty": {},
    "three-replicas-over-a-store": {
        "replicas": 3,
        "storage": {"objectStore": {"url": "s3://vectors/search"}},
    },
    "smallest-cache": {"cluster": {"maxCacheMemory": 1}},
    "largest-cache": {"cluster": {"maxCacheMemory": "1Gi"}},
    "cache-in-bytes": {"cluster": {"maxCacheMemory": 1024**3}},
    "decimal-cache": {"cluster": {"maxCacheMemory": "0.5Gi"}},
    "written-out": {
        "replicas": 1,
        "storage": {"type": "mmap"},
        "fileWatcher": {"enabled": False},
        "cluster": {"maxCacheMemory": "512Mi", "enforceMmapStorage": True, "disableFileWatcher": True},
    },
    "stopped": {"replicas": 0},
    "object-store": {
        "storage": {
            "objectStore": {
                "url": "s3://vectors/search_1/a=b",
                "endpoint": "http://minio.storage.svc:9000",
                "region": "eu-central-1",
                "secretRef": {"name": "credentials"},
            }
        }
    },
    "object-store-in-a-folder": {
        "storage": {"objectStore": {"url": "file:///objects/search"}},
        "podTemplate": {
            "volumes": [{"name": "objects", "persistentVolumeClaim": {"claimName": "objects"}}],
            "volumeMounts": [{"name": "objects", "mountPath": "/objects"}],
        },
    },
}


def good_cluster(name: str) -> dict[str, Any]:
    return BadSpec(name, GOOD_SPECS[name], ()).cluster()
