"""What `status` and `why` make of a cluster's status, without a Kubernetes."""

from typing import Any

import pytest

from tests.operator.plan.world import World
from vectorizer_operator.ctl import status
from vectorizer_operator.ctl.why import obstacles


def test_a_settled_cluster_has_nothing_in_its_way() -> None:
    world = World()
    world.settle()
    assert list(obstacles(world.cluster)) == []


def test_a_pod_that_does_not_start_is_named_once_for_all_conditions() -> None:
    (found,) = obstacles(World.stuck().cluster)
    assert (found.reason, found.kind) == ("PodNotReady", "state")
    assert found.conditions == ("Stalled=True", "Ready=False")
    assert "ImagePullBackOff" in found.message
    assert "kubectl describe pod" in found.advice


def test_a_broken_rule_is_told_with_its_code_and_fix() -> None:
    world = World(storage={"type": "memory"})
    world.operate()
    found = {each.reason: each for each in obstacles(world.cluster)}
    rule = found["MmapStorageRequired"]
    assert (rule.kind, rule.meaning[:12]) == ("rule", "CLUSTER_001:")
    assert "set spec.storage.type to mmap" in rule.message
    assert found["NotRolledOut"].conditions == ("MemoryBudgetHonoured=Unknown",)


def test_a_memory_limit_that_is_too_small_shows_though_the_cluster_is_ready() -> None:
    world = World(resources={"limits": {"memory": "64Mi"}})
    world.settle()
    (found,) = obstacles(world.cluster)
    assert (found.reason, found.conditions) == ("MemoryLimitTooSmall", ("MemoryBudgetHonoured=False",))


def test_a_spec_that_the_operator_has_not_seen_is_told_with_the_time_of_the_edit() -> None:
    world = World()
    world.settle()
    world.edit(paused=True)
    fields: list[dict[str, Any]] = [
        {"time": "2026-01-01T00:00:05Z"},
        {"time": "2026-01-01T00:00:09Z", "subresource": "status"},
    ]
    world.cluster["metadata"] |= {"managedFields": fields, "creationTimestamp": "2026-01-01T00:00:00Z"}
    (found,) = obstacles(world.cluster)
    assert (found.reason, found.since) == ("NotSeenYet", "2026-01-01T00:00:05Z")
    assert "generation 2" in found.message


def test_a_reason_of_another_release_is_shown_as_it_is() -> None:
    world = World()
    world.settle()
    world.condition("Ready").update(status="False", reason="NewReason", message="so it is")
    (found,) = obstacles(world.cluster)
    assert (found.reason, found.message) == ("NewReason", "so it is")
    assert "another release" in found.meaning


LEDGER = {"used_bytes": 52428800, "limit_bytes": 104857600, "by_cache": {"hnsw": 41943040, "query": 10485760}}
LAYOUTS = {
    "exact": {
        "segments": 2,
        "points": 9100,
        "largest": [
            {"collection": "docs", "points": 9000, "reason": "hnsw-sq8 is not built yet"},
            {"collection": "others", "points": 100, "reason": "100 vectors are scanned faster"},
        ],
    },
    "hnsw-sq8": {"segments": 0, "points": 0, "largest": []},
}


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        ({"ready": False, "trouble": "waits: ImagePullBackOff"}, ["    waits: ImagePullBackOff"]),
        (
            {"ready": True, "memory": {"ledger": LEDGER}},
            ["    caches 50.0 MiB of 100.0 MiB (50%): hnsw 40.0 MiB, query 10.0 MiB"],
        ),
        (
            {"ready": True, "memory": {"ledger": LEDGER, "layouts": LAYOUTS}},
            [
                "    caches 50.0 MiB of 100.0 MiB (50%): hnsw 40.0 MiB, query 10.0 MiB",
                "    exact: 2 segments with 9100 points; the largest has 9000 of docs: hnsw-sq8 is not built yet",
            ],
        ),
        (
            {"ready": True, "collections": {"count": 60, "shown": {}}},
            ["    collections: 60", "      and 10 more"],
        ),
    ],
    ids=["trouble", "no process figures", "layouts", "many collections"],
)
def test_each_pod_is_shown_with_what_is_known_of_it(pod: dict[str, Any], expected: list[str]) -> None:
    found = {
        "namespace": "default",
        "name": "demo",
        "endpoint": None,
        "upToDate": False,
        "conditions": [],
        "pods": [{"name": "demo-0", "image": "engine:1", **pod}],
    }
    title, older, _, *rest = status._lines(found)
    assert (title, rest) == ("default/demo", expected)
    assert "an older one" in older


def test_pods_that_serve_together_are_shown_with_their_shares_and_who_is_behind() -> None:
    def pod(number: int, version: int, **shards: int) -> dict[str, Any]:
        members = [f"demo-{each}" for each in range(2)]
        return {
            "name": f"demo-{number}",
            "image": "engine:1",
            "ready": True,
            "topology": {"version": version, "members": members[:version], "shards": shards},
        }

    pods = [pod(0, 1, served=6, waiting=0, leaving=0), pod(1, 2, served=2, waiting=1, leaving=0)]
    pods[0]["collections"] = {"count": 1, "shown": {}}
    found = {"namespace": "default", "name": "demo", "endpoint": None, "upToDate": True, "conditions": []}
    assert list(status._lines({**found, "pods": pods})) == [
        "default/demo",
        "  served together by demo-0, demo-1 (topology 2)",
        "  pod demo-0: ready, engine:1",
        "    shards: 6 served, 0 waited for, 0 leaving; knows topology 1 only",
        "    collections of all pods: 1",
        "  pod demo-1: ready, engine:1",
        "    shards: 2 served, 1 waited for, 0 leaving",
    ]
