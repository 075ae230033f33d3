"""The cluster rules as the engine asks for them. `tests/doors` holds every bad spec against every door."""

from typing import Any

import pytest

from vectorizer_engine.cluster.validator import (
    CHECKS,
    MAX_CACHE_MEMORY_BYTES,
    RULES,
    ClusterConfigValidator,
    ClusterSettings,
    Setting,
    cluster_warnings,
    validate_cluster_config,
    validate_cluster_requirements,
)

IN_CLUSTER = {"enabled": True}


def codes(config: dict[str, Any]) -> list[tuple[str, str]]:
    return [(violation.code, violation.path) for violation in validate_cluster_config(config)]


def test_a_cluster_that_sets_nothing_breaks_nothing() -> None:
    assert codes({"cluster": IN_CLUSTER}) == []


def test_a_cluster_that_sets_everything_right_breaks_nothing() -> None:
    config = {
        "cluster": {
            "enabled": True,
            "max_cache_memory_bytes": MAX_CACHE_MEMORY_BYTES,
            "enforce_mmap_storage": True,
            "disable_file_watcher": True,
        },
        "storage": {"type": "mmap"},
        "file_watcher": {"enabled": False},
    }
    assert codes(config) == []


@pytest.mark.parametrize(
    ("section", "key", "value", "code"),
    [
        ("storage", "type", "memory", "CLUSTER_001"),
        ("storage", "type", "MMAP", "CLUSTER_001"),
        ("cluster", "enforce_mmap_storage", False, "CLUSTER_001"),
        ("cluster", "enforce_mmap_storage", "true", "CLUSTER_001"),
        ("file_watcher", "enabled", True, "CLUSTER_002"),
        ("file_watcher", "enabled", 1, "CLUSTER_002"),
        ("cluster", "disable_file_watcher", False, "CLUSTER_002"),
        ("cluster", "max_cache_memory_bytes", 0, "CLUSTER_003"),
        ("cluster", "max_cache_memory_bytes", -1, "CLUSTER_003"),
        ("cluster", "max_cache_memory_bytes", MAX_CACHE_MEMORY_BYTES + 1, "CLUSTER_003"),
        ("cluster", "max_cache_memory_bytes", "2Gi", "CLUSTER_003"),
        ("cluster", "max_cache_memory_bytes", "lots", "CLUSTER_003"),
        ("cluster", "max_cache_memory_bytes", True, "CLUSTER_003"),
        ("cluster", "max_cache_memory_bytes", 1.5, "CLUSTER_003"),
    ],
)
def test_a_broken_rule_is_found_at_its_setting(section: str, key: str, value: Any, code: str) -> None:
    config: dict[str, Any] = {"cluster": dict(IN_CLUSTER)}
    config.setdefault(section, {})[key] = value
    assert codes(config) == [(code, f"{section}.{key}")]


def test_every_violation_is_reported_at_once_in_the_order_of_the_rules() -> None:
    config = {
        "cluster": {"enabled": True, "max_cache_memory_bytes": 0, "disable_file_watcher": False},
        "file_watcher": {"enabled": True},
        "storage": {"type": "memory"},
    }
    assert [code for code, path in codes(config)] == [
        "CLUSTER_001",
        "CLUSTER_002",
        "CLUSTER_002",
        "CLUSTER_003",
    ]


def test_a_violation_says_what_is_what_must_be_and_what_to_do() -> None:
    [violation] = validate_cluster_config({"cluster": IN_CLUSTER, "storage": {"type": "memory"}})
    assert violation.rule == "MmapStorageRequired"
    assert violation.error_type == "ClusterConfigViolation"
    assert (violation.current_value, violation.required_value) == ("memory", "mmap")
    assert violation.fix == "set storage.type to mmap"
    assert violation.message == (
        'CLUSTER_001: storage.type is "memory", but a cluster keeps its vectors in memory-mapped files: '
        "set storage.type to mmap"
    )


def test_the_file_watcher_has_an_error_type_of_its_own() -> None:
    [violation] = validate_cluster_config({"cluster": IN_CLUSTER, "file_watcher": {"enabled": True}})
    assert violation.error_type == "FileWatcherNotAllowedInCluster"


@pytest.mark.parametrize("cluster", [{}, {"enabled": False}, None, [], "on"])
def test_outside_cluster_mode_no_rule_applies(cluster: Any) -> None:
    config = {"cluster": cluster, "storage": {"type": "memory"}, "file_watcher": {"enabled": True}}
    assert codes(config) == []
    assert ClusterConfigValidator().warnings(config) == []


def test_a_section_of_the_wrong_type_breaks_no_rule() -> None:
    assert codes({"cluster": IN_CLUSTER, "storage": "memory"}) == []  # the models refuse it, with its path


@pytest.mark.parametrize(
    ("replicas", "broken"), [(0, False), (1, False), (2, True), (1000, True), ("2", False)]
)
def test_more_than_one_pod_needs_a_shared_store(replicas: Any, broken: bool) -> None:
    found = validate_cluster_requirements(ClusterSettings(replicas=Setting("spec.replicas", replicas)))
    assert [violation.code for violation in found] == (["CLUSTER_004"] if broken else [])


@pytest.mark.parametrize(
    ("limit", "warned"), [("63Mi", True), (1, True), ("64Mi", False), (0, False), ("lots", False)]
)
def test_a_small_limit_is_a_warning_and_no_violation(limit: Any, warned: bool) -> None:
    config = {"cluster": {"enabled": True, "max_cache_memory_bytes": limit}}
    warnings = ClusterConfigValidator().warnings(config)
    assert bool(warnings) == warned
    assert all("cluster.max_cache_memory_bytes" in warning for warning in warnings)


def test_a_door_that_knows_no_cache_limit_warns_of_none() -> None:
    assert cluster_warnings(ClusterSettings()) == []


def test_every_rule_has_a_check_and_every_check_a_setting() -> None:
    assert {check.rule for check in CHECKS} == set(RULES)
    assert {check.setting for check in CHECKS} == set(ClusterSettings.__dataclass_fields__)


def test_codes_and_names_of_rules_are_unique() -> None:
    assert len({rule.code for rule in RULES}) == len({rule.name for rule in RULES}) == len(RULES)
