"""The cluster rules, CLUSTER_001 to CLUSTER_004: one source of truth for every door.

A door (CRD schema, webhook, `vectorizerctl`, the reconciler, the engine at start and at run time) states the
settings it sees as `ClusterSettings`, each with the path under which its user wrote it, and gets every
violation back, each with its fix in words. Nothing here does I/O, and nothing here decides what a door does
with a violation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from vectorizer_engine.cluster.quantity import parse_quantity

MAX_CACHE_MEMORY_BYTES = 1024**3
"""CLUSTER_003's ceiling, and the limit where none is set: 1 GiB."""

SMALL_CACHE_MEMORY_BYTES = 64 * 1024**2
"""Below this a cluster works, but spends its time evicting: a warning."""


class Rule(NamedTuple):
    """A cluster rule: its code, its name (also the reason of a condition), the error type it is raised as."""

    code: str
    name: str
    error_type: str
    statement: str


MMAP_STORAGE = Rule(
    "CLUSTER_001",
    "MmapStorageRequired",
    "ClusterConfigViolation",
    "a cluster keeps its vectors in memory-mapped files",
)
FILE_WATCHER_OFF = Rule(
    "CLUSTER_002",
    "FileWatcherNotAllowed",
    "FileWatcherNotAllowedInCluster",
    "a cluster runs no file watcher",
)
CACHE_LIMIT = Rule(
    "CLUSTER_003",
    "CacheLimitRequired",
    "ClusterConfigViolation",
    "all caches of a cluster share one limit above 0 and up to 1 GiB",
)
SHARED_STORE = Rule(
    "CLUSTER_004",
    "SharedStoreRequired",
    "ClusterConfigViolation",
    "pods behind one Service must hold the same data",
)
RULES = (MMAP_STORAGE, FILE_WATCHER_OFF, CACHE_LIMIT, SHARED_STORE)


class Violation(BaseModel):
    """A setting that breaks a rule. `path` is where its user wrote it, `fix` says what to do, in words."""

    model_config = ConfigDict(frozen=True)

    code: str
    rule: str
    error_type: str
    path: str
    current_value: Any
    required_value: Any
    fix: str

    @property
    def message(self) -> str:
        """One line for people: code, what is wrong, what to do."""
        return violation_message(self.code, self.path, _as_yaml(self.current_value), self.fix)


def violation_message(code: str, path: str, current: str, fix: str) -> str:
    """The one line that every door shows for a violation."""
    statement = next(rule.statement for rule in RULES if rule.code == code)
    return f"{code}: {path} is {current}, but {statement}: {fix}"


@dataclass(frozen=True, slots=True)
class Setting:
    """A value as its user wrote it (None: not set), and the path under which they did."""

    path: str
    value: Any = None


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """The settings that the rules are about. A door states those it knows and leaves the others out.

    `replicas` is stated only of pods that share no store: with one there may be any number of them.
    """

    storage_type: Setting | None = None
    enforce_mmap_storage: Setting | None = None
    file_watcher_enabled: Setting | None = None
    disable_file_watcher: Setting | None = None
    max_cache_memory: Setting | None = None
    replicas: Setting | None = None


class Check(NamedTuple):
    """How one setting is held against its rule.

    `required` is the value that every violation names; `fix` completes "set PATH to …".
    """

    rule: Rule
    setting: str
    holds: Callable[[Any], bool]
    required: Any
    fix: str


def _cache_limit_holds(value: Any) -> bool:
    limit = parse_quantity(value)
    return limit is not None and 0 < limit <= MAX_CACHE_MEMORY_BYTES


def _is_one_pod(value: Any) -> bool:
    return not isinstance(value, int) or value <= 1  # a replica count of another type is the schema's affair


CHECKS = (
    Check(MMAP_STORAGE, "storage_type", lambda value: value == "mmap", "mmap", "mmap"),
    Check(MMAP_STORAGE, "enforce_mmap_storage", lambda value: value is True, True, "true"),
    Check(FILE_WATCHER_OFF, "file_watcher_enabled", lambda value: value is False, False, "false"),
    Check(FILE_WATCHER_OFF, "disable_file_watcher", lambda value: value is True, True, "true"),
    Check(
        CACHE_LIMIT,
        "max_cache_memory",
        _cache_limit_holds,
        f"1..{MAX_CACHE_MEMORY_BYTES} bytes",
        f"a size above 0 and up to 1Gi ({MAX_CACHE_MEMORY_BYTES} bytes)",
    ),
    Check(
        SHARED_STORE,
        "replicas",
        _is_one_pod,
        "0..1",
        "1, or give the pods a store that they share: spec.storage.objectStore",
    ),
)


def validate_cluster_requirements(settings: ClusterSettings) -> list[Violation]:
    """Every rule that *settings* break, in the rules' order. A setting that is not set breaks none."""
    violations = []
    for check in CHECKS:
        setting: Setting | None = getattr(settings, check.setting)
        if setting is None or setting.value is None or check.holds(setting.value):
            continue
        violations.append(
            Violation(
                code=check.rule.code,
                rule=check.rule.name,
                error_type=check.rule.error_type,
                path=setting.path,
                current_value=setting.value,
                required_value=check.required,
                fix=fix_in_words(check, setting.path),
            )
        )
    return violations


def fix_in_words(check: Check, path: str) -> str:
    """What the user of the door has to do so that *check* holds."""
    return f"set {path} to {check.fix}"


def cluster_warnings(settings: ClusterSettings) -> list[str]:
    """What is allowed and probably not wanted."""
    setting = settings.max_cache_memory
    limit = parse_quantity(setting.value) if setting else None
    if setting is None or limit is None or not 0 < limit < SMALL_CACHE_MEMORY_BYTES:
        return []
    return [
        f"{setting.path} is {_as_yaml(setting.value)}, under 64Mi: the caches will spend their time evicting"
    ]


class ClusterConfigValidator:
    """Holds an engine's configuration, as it was read from YAML and the environment, against the rules."""

    def settings(self, config: Mapping[str, Any]) -> ClusterSettings:
        """The rules' settings under the paths of the engine's `config.yml`."""

        def at(section: str, key: str) -> Setting:
            fields = config.get(section)
            return Setting(f"{section}.{key}", fields.get(key) if isinstance(fields, Mapping) else None)

        return ClusterSettings(
            storage_type=at("storage", "type"),
            enforce_mmap_storage=at("cluster", "enforce_mmap_storage"),
            file_watcher_enabled=at("file_watcher", "enabled"),
            disable_file_watcher=at("cluster", "disable_file_watcher"),
            max_cache_memory=at("cluster", "max_cache_memory_bytes"),
        )

    def violations(self, config: Mapping[str, Any]) -> list[Violation]:
        """Every violation, or none where the configuration is not in cluster mode."""
        if not self.in_cluster_mode(config):
            return []
        return validate_cluster_requirements(self.settings(config))

    def warnings(self, config: Mapping[str, Any]) -> list[str]:
        return cluster_warnings(self.settings(config)) if self.in_cluster_mode(config) else []

    @staticmethod
    def in_cluster_mode(config: Mapping[str, Any]) -> bool:
        cluster = config.get("cluster")
        return isinstance(cluster, Mapping) and cluster.get("enabled") is True


def validate_cluster_config(config: Mapping[str, Any]) -> list[Violation]:
    """Every rule that an engine's configuration breaks. Outside cluster mode no rule applies."""
    return ClusterConfigValidator().violations(config)


def _as_yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
