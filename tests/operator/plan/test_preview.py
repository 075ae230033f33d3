"""A preview against what then happens in the small world: it has to come true, and nothing else may happen."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.operator.plan.world import NAME, World
from vectorizer_operator.plan.preview import Change, Preview, differences, preview

UNKNOWN = "(the operator's default image)"


def look_ahead(world: World, **spec: Any) -> Preview:
    """What edit(**spec) would come to."""
    before = world.cluster["spec"]
    wished = {key: value for key, value in {**before, **spec}.items() if value is not None}
    return preview(world.observed(), {**world.cluster, "spec": wished}, default_image=world.default_image)


def rolled_out(**spec: Any) -> World:
    world = World(**spec)
    world.settle()
    return world


def verbs(seen: Preview) -> dict[tuple[str, str], str]:
    return {(each.kind, each.name): each.verb for each in seen.objects}


def pods(seen: Preview) -> dict[str, str]:
    return {each.name: each.verb for each in seen.pods}


def test_the_same_spec_changes_nothing() -> None:
    assert look_ahead(rolled_out(cluster={"maxCacheMemory": "256Mi"})).changes_nothing


def test_a_default_written_out_changes_nothing() -> None:
    assert look_ahead(rolled_out(), replicas=1, storage={"type": "mmap", "size": "10Gi"}).changes_nothing


def test_a_new_cluster_is_created_with_all_its_children_and_its_pod() -> None:
    world = World(image="engine:1")
    nothing_yet = {key: value for key, value in world.cluster.items() if key not in ("spec", "status")}
    observed = world.observed()
    seen = preview(
        type(observed)(cluster=nothing_yet), {"spec": {"image": "engine:1"}}, default_image=UNKNOWN
    )
    assert seen.new
    assert set(verbs(seen).values()) == {"create"}
    assert ("StatefulSet", NAME) in verbs(seen)
    assert pods(seen) == {f"{NAME}-0": "start"}


def test_another_cache_limit_restarts_the_pod_and_says_by_which_settings() -> None:
    seen = look_ahead(rolled_out(cluster={"maxCacheMemory": "256Mi"}), cluster={"maxCacheMemory": "512Mi"})
    assert seen.spec == (Change("spec.cluster.maxCacheMemory", "256Mi", "512Mi"),)
    assert verbs(seen) == {("ConfigMap", f"{NAME}-config"): "change", ("StatefulSet", NAME): "change"}
    (pod,) = seen.pods
    assert (pod.verb, pod.name) == ("restart", f"{NAME}-0")
    assert "config.yml.cluster.max_cache_memory_bytes: 268435456 → 536870912" in pod.why
    assert any(
        why.startswith("pod template.spec.containers[engine].resources.limits.memory:") for why in pod.why
    )
    assert not any("hash" in why for why in pod.why)


def test_a_field_that_is_taken_away_restarts_the_pod_too() -> None:
    world = rolled_out(scheduling={"nodeSelector": {"disk": "nvme"}})
    seen = look_ahead(world, scheduling=None)
    assert seen.pods[0].why == ("pod template.spec.nodeSelector.disk: nvme → unset",)


def test_a_larger_volume_restarts_nothing() -> None:
    seen = look_ahead(rolled_out(storage={"size": "10Gi"}), storage={"size": "20Gi"})
    assert verbs(seen) == {
        ("PersistentVolumeClaim", f"data-{NAME}-0"): "expand",
        ("StatefulSet", NAME): "replace",
    }
    assert seen.pods == ()


def test_a_child_that_was_edited_by_hand_is_told_apart() -> None:
    world = rolled_out()
    world.children["ConfigMap", f"{NAME}-config"]["data"]["config.yml"] = "server: {}\n"
    (child,) = look_ahead(world).objects
    assert (child.verb, child.changes) == ("change", ())
    assert (child.why or "").startswith("it was changed by someone else: data.config.yml, line 1")


def test_a_smaller_volume_is_blocked_by_the_predicate_of_the_operator() -> None:
    seen = look_ahead(rolled_out(storage={"size": "10Gi"}), storage={"size": "1Gi"})
    assert seen.block is not None
    assert seen.block.reason == "NeverShrinkStorage"
    assert not seen.objects + seen.pods


def test_a_cluster_that_is_being_deleted_takes_no_spec() -> None:
    world = rolled_out()
    world.cluster["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    seen = look_ahead(world, replicas=0)
    assert seen.block is not None
    assert seen.block.reason == "BeingDeleted"


def test_a_live_spec_that_breaks_a_rule_is_no_hindrance_to_see_what_a_good_one_brings() -> None:
    world = rolled_out()
    world.cluster["spec"] = {"storage": {"type": "memory"}, "unheard": 1}
    seen = look_ahead(world, storage=None, unheard=None, image="engine:2")
    assert Change("spec.storage.type", "memory", "mmap") in seen.spec
    assert (
        seen.pods[0].why[0].startswith("pod template: spec.containers[0].image is engine:1, wanted engine:2")
    )


def test_values_of_environment_variables_are_not_shown() -> None:
    world = rolled_out(podTemplate={"env": [{"name": "TOKEN", "value": "secret-1"}]})
    seen = look_ahead(world, podTemplate={"env": [{"name": "TOKEN", "value": "secret-2"}]})
    assert Change("spec.podTemplate.env[TOKEN].value", "(hidden)", "(hidden)") in seen.spec
    assert "secret-" not in repr(seen)


def test_a_paused_cluster_changes_nothing_yet_and_says_so() -> None:
    seen = look_ahead(rolled_out(), paused=True, image="engine:2")
    assert seen.paused
    assert pods(seen) == {f"{NAME}-0": "restart"}


def test_pods_that_still_run_an_old_template_are_named() -> None:
    world = rolled_out(image="engine:1")
    world.edit(image="engine:2")
    world.operate()
    world.control()
    assert look_ahead(world).pods[0].why == ("it runs an old pod template already",)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"a": [1, 2]}, {"a": [1, 3]}, ["a[1]: 2 → 3"]),
        ({"a": [{"name": "x", "v": True}]}, {"a": []}, ["a[x].name: x → unset", "a[x].v: true → unset"]),
        ({"config.yml": "a: 1\n"}, {"config.yml": "a: 2\n"}, ["config.yml.a: 1 → 2"]),
        ({"a": "1"}, {"a": {"b": 1}}, ["a: 1 → {'b': 1}"]),
        ({"a": {}}, {}, ["a: {} → unset"]),
    ],
)
def test_differences_are_told_by_their_path(before: Any, after: Any, expected: list[str]) -> None:
    assert [str(change) for change in differences(before, after)] == expected


EDITS = st.fixed_dictionaries(
    {},
    optional={
        "replicas": st.sampled_from([0, 1]),
        "image": st.sampled_from(["engine:1", "engine:2", None]),
        "cluster": st.sampled_from([{"maxCacheMemory": "64Mi"}, {"maxCacheMemory": "65536Ki"}, None]),
        "storage": st.sampled_from(
            [{"size": "10Gi"}, {"size": "20Gi"}, {"retention": {"whenDeleted": "Delete"}}]
        ),
        "service": st.sampled_from([{"type": "NodePort"}, None]),
        "networkPolicy": st.sampled_from([{"enabled": False}, None]),
        "podDisruptionBudget": st.sampled_from([{"enabled": True}, None]),
        "podTemplate": st.sampled_from(
            [{"labels": {"team": "a"}}, {"env": [{"name": "A", "value": "b"}]}, None]
        ),
        "scheduling": st.sampled_from([{"priorityClassName": "high"}, {"nodeSelector": {"a": "b"}}, None]),
    },
)


@settings(max_examples=60, deadline=None)
@given(first=EDITS, second=EDITS)
def test_what_is_foreseen_is_what_happens(first: dict[str, Any], second: dict[str, Any]) -> None:
    world = World()
    world.edit(**first)
    world.settle()
    pods_before = {name: pod["metadata"]["uid"] for name, pod in world.pods.items()}
    children_before = {key: each["metadata"].get("annotations") for key, each in world.children.items()}
    seen = look_ahead(world, **second)
    if seen.block:
        assert seen.block.reason == "NeverShrinkStorage"
        return
    world.edit(**second)
    world.settle()
    pods_after = {name: pod["metadata"]["uid"] for name, pod in world.pods.items()}
    happened = {
        name: "stop" if name not in pods_after else "start" if name not in pods_before else "restart"
        for name in {*pods_before, *pods_after}
        if pods_before.get(name) != pods_after.get(name)
    }
    assert pods(seen) == happened
    children_after = {key: each["metadata"].get("annotations") for key, each in world.children.items()}
    touched = {
        key
        for key in {*children_before, *children_after}
        if children_before.get(key) != children_after.get(key)
    }
    assert {key for key in verbs(seen) if key[0] != "PersistentVolumeClaim"} == touched
