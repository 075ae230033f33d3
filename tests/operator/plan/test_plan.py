"""The plan as a whole: children, drift, status, time."""

import re
from datetime import timedelta
from typing import Any

import pytest

from tests.operator.plan.world import NAME, World
from vectorizer_operator.plan import Apply, Delete, with_failure
from vectorizer_operator.plan.planner import PROGRESS_DEADLINE


@pytest.fixture
def world() -> World:
    world = World()
    world.settle()
    return world


def applied(world: World) -> list[tuple[str, str]]:
    return [(a.manifest["kind"], a.why) for a in world.look().actions if isinstance(a, Apply)]


def test_a_new_cluster_gets_its_children_with_the_stateful_set_last() -> None:
    kinds = [kind for kind, why in applied(World())]
    assert kinds == ["ServiceAccount", "ConfigMap", "Service", "Service", "NetworkPolicy", "StatefulSet"]


def test_a_changed_cache_limit_touches_the_configuration_and_the_pods_only(world: World) -> None:
    world.edit(cluster={"maxCacheMemory": "256Mi"})
    assert [kind for kind, why in applied(world)] == ["ConfigMap", "StatefulSet"]
    old = world.pods["demo-0"]["metadata"]["uid"]
    world.settle()
    assert world.pods["demo-0"]["metadata"]["uid"] != old
    assert world.cluster["status"]["cache"] == {"limitBytes": 256 * 1024**2}


def test_the_same_limit_in_other_words_restarts_nothing(world: World) -> None:
    world.edit(cluster={"maxCacheMemory": "1024Mi"})
    assert applied(world) == []
    world.edit(cluster={"maxCacheMemory": 1024**3})
    assert applied(world) == []


@pytest.mark.parametrize(
    ("key", "path", "value"),
    [
        (("ConfigMap", "demo-config"), ("data", "config.yml"), "cluster: {enabled: false}"),
        (("Service", NAME), ("spec", "selector", "vectorizer.io/cluster"), "other"),
        (("StatefulSet", NAME), ("spec", "replicas"), 0),
        (("StatefulSet", NAME), ("spec", "template", "spec", "automountServiceAccountToken"), True),
        (("NetworkPolicy", NAME), ("spec", "policyTypes"), ["Ingress"]),
        (("ServiceAccount", NAME), ("automountServiceAccountToken",), True),
    ],
)
def test_drift_on_a_child_is_repaired(
    world: World, key: tuple[str, str], path: tuple[str, ...], value: Any
) -> None:
    node = world.children[key]
    for name in path[:-1]:
        node = node[name]
    wanted, node[path[-1]] = node[path[-1]], value
    [(kind, why)] = applied(world)
    assert kind == key[0]
    assert why.startswith(f"it was changed by someone else: {'.'.join(path)}")
    world.settle()
    node = world.children[key]
    for name in path:
        node = node[name]
    assert node == wanted


def test_drift_of_the_configuration_names_the_line_and_not_the_whole_file(world: World) -> None:
    data = world.children["ConfigMap", "demo-config"]["data"]
    data["config.yml"] = data["config.yml"].replace("enabled: true", "enabled: false", 1)
    [(_, why)] = applied(world)
    assert re.fullmatch(r".*: data\.config\.yml, line \d+, is   enabled: false, wanted   enabled: true", why)


def test_values_of_environment_variables_are_not_said(world: World) -> None:
    variable = {"name": "TOKEN", "value": "old-secret"}
    world.cluster["spec"]["podTemplate"] = {"env": [variable]}
    world.settle()
    world.cluster["spec"]["podTemplate"] = {"env": [variable | {"value": "new-secret"}]}
    [(kind, why)] = applied(world)
    assert kind == "StatefulSet"
    assert why == (
        "the spec asks for another one: spec.template.spec.containers[0].env[0].value is another one"
    )


def test_a_deleted_child_is_made_again(world: World) -> None:
    del world.children["Service", "demo-headless"]
    assert applied(world) == [("Service", "it does not exist")]


def test_a_child_that_is_being_deleted_is_waited_for(world: World) -> None:
    world.children["Service", NAME]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert world.look().actions == ()


def test_a_stateful_set_that_is_being_deleted_is_not_ready(world: World) -> None:
    assert world.stateful_set is not None
    world.stateful_set["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    planned = world.look()
    assert planned.actions == ()
    assert "StatefulSet demo is being deleted" in planned.status["conditions"][0]["message"]


def test_what_others_add_beside_ours_is_left_alone(world: World) -> None:
    for child in world.children.values():
        child["metadata"]["annotations"]["other/note"] = "theirs"
    assert world.stateful_set is not None
    world.stateful_set["spec"]["template"]["spec"]["containers"].append({"name": "sidecar"})
    assert world.look().actions == ()


def test_a_restart_that_kubectl_asks_for_is_rolled_out(world: World) -> None:
    pod = world.pods["demo-0"]["metadata"]["uid"]
    assert world.stateful_set is not None
    restarted = {"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}
    world.stateful_set["spec"]["template"]["metadata"]["annotations"] |= restarted
    world.stateful_set["metadata"]["generation"] += 1
    world.settle()
    assert world.pods["demo-0"]["metadata"]["uid"] != pod
    assert world.condition("Ready")["status"] == "True"


def test_a_field_that_the_spec_no_longer_asks_for_is_applied_away(world: World) -> None:
    world.edit(scheduling={"priorityClassName": "high"})
    world.settle()
    world.edit(scheduling=None)
    assert applied(world) == [("StatefulSet", "the spec asks for another one")]


def test_an_optional_child_comes_and_goes_with_its_switch(world: World) -> None:
    world.edit(networkPolicy={"enabled": False}, podDisruptionBudget={"enabled": True})
    world.settle()
    assert ("NetworkPolicy", NAME) not in world.children
    assert world.children["PodDisruptionBudget", NAME]["spec"]["maxUnavailable"] == 0


def test_an_optional_child_of_somebody_else_is_not_deleted(world: World) -> None:
    foreign = {"kind": "PodDisruptionBudget", "metadata": {"name": NAME, "uid": "theirs"}}
    world.children["PodDisruptionBudget", NAME] = foreign
    assert world.look().actions == ()


def test_a_cluster_that_is_being_deleted_is_left_to_the_garbage_collector(world: World) -> None:
    world.cluster["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    world.children.clear()
    planned = world.look()
    assert planned.actions == ()
    assert planned.status == world.cluster["status"]


def test_an_operator_with_another_default_image_restarts_nothing(world: World) -> None:
    world.default_image = "engine:2"
    assert world.look().actions == ()
    world.edit(image="engine:3")
    world.settle()
    assert world.cluster["status"]["currentVersion"] == "engine:3"


def test_scaled_to_zero_is_ready_and_keeps_the_volume(world: World) -> None:
    world.edit(replicas=0)
    world.settle()
    assert world.pods == {}
    assert list(world.pvcs) == ["data-demo-0"]
    assert (world.condition("Ready")["status"], world.condition("Ready")["reason"]) == (
        "True",
        "ScaledToZero",
    )


def test_ready_is_never_said_of_an_older_generation(world: World) -> None:
    world.edit(image="engine:2")
    generation = world.cluster["metadata"]["generation"]
    world.operate()
    for _ in range(10):
        ready, observed = world.condition("Ready"), world.cluster["status"]["observedGeneration"]
        assert observed == generation
        running = [pod["spec"]["containers"][0]["image"] for pod in world.pods.values()]
        assert ready["status"] == "False" or running == ["engine:2"]
        world.control()
        world.operate()
        world.run_pods()
    assert world.condition("Ready")["status"] == "True"


def test_the_version_stays_until_every_pod_runs_the_next(world: World) -> None:
    world.edit(image="engine:2")
    world.operate()
    assert world.cluster["status"]["currentVersion"] == "engine:1"
    world.pods.clear()
    world.operate()
    assert world.cluster["status"]["currentVersion"] == "engine:1"


def test_a_transition_time_moves_only_with_the_status(world: World) -> None:
    before = world.condition("Ready")["lastTransitionTime"]
    world.now += timedelta(hours=1)
    world.edit(paused=True)
    world.operate()
    assert world.condition("Ready")["reason"] == "Paused"
    assert world.condition("Ready")["lastTransitionTime"] == before
    assert world.condition("Ready")["observedGeneration"] == 2


def test_a_pod_that_stays_down_stalls_the_cluster_after_the_deadline() -> None:
    world = World(image="engine:typo")
    world.broken_images.add("engine:typo")
    planned = world.settle()
    assert world.condition("Stalled")["status"] == "False"
    assert planned.requeue_after is not None
    assert 0 < planned.requeue_after <= PROGRESS_DEADLINE.total_seconds()
    world.wait_past_the_deadline()
    world.operate()
    stalled = world.condition("Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "PodNotReady")
    assert "pod demo-0 waits: ImagePullBackOff" in stalled["message"]


def test_a_pod_says_why_it_is_not_ready(world: World) -> None:
    pod = world.pods["demo-0"]
    message = "0/3 nodes are available"
    pod["status"] = {"conditions": [{"type": "PodScheduled", "status": "False", "message": message}]}
    assert "pod demo-0 cannot be scheduled: 0/3 nodes" in world.look().status["conditions"][0]["message"]
    pod["status"] = {"conditions": [], "containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]}
    assert "pod demo-0 stopped with exit code 3" in world.look().status["conditions"][0]["message"]
    pod["status"] = {}
    assert "pod demo-0 does not answer" in world.look().status["conditions"][0]["message"]
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert "pod demo-0 is stopping" in world.look().status["conditions"][0]["message"]


def test_pods_of_somebody_else_do_not_count(world: World) -> None:
    stranger = {"kind": "Job", "name": "load", "uid": "x", "controller": True}
    world.pods["load-1"] = {
        "metadata": {"name": "load-1", "uid": "y", "ownerReferences": [stranger]},
        "spec": {"containers": [{"name": "load", "image": "load:1"}]},
    }
    world.pods["debug"] = {"metadata": {"name": "debug", "uid": "z"}, "spec": {"containers": []}}
    assert world.look().status["replicas"] == 1


def test_a_pod_without_an_engine_container_does_not_change_the_version(world: World) -> None:
    world.pods["demo-0"]["spec"]["containers"][0]["name"] = "other"
    assert world.look().status["currentVersion"] == "engine:1"  # as it was


def test_a_memory_limit_that_is_too_small_is_said_and_not_refused(world: World) -> None:
    world.edit(resources={"limits": {"memory": "512Mi"}})
    world.settle()
    budget = world.condition("MemoryBudgetHonoured")
    assert (budget["status"], budget["reason"]) == ("False", "MemoryLimitTooSmall")
    assert "set spec.resources.limits.memory to 1227Mi or more" in budget["message"]
    assert world.condition("Ready")["status"] == "True"
    world.edit(resources={"limits": {"memory": "2Gi"}})
    world.settle()
    assert world.condition("MemoryBudgetHonoured")["status"] == "True"


def test_a_small_cache_is_mentioned_where_the_rules_are(world: World) -> None:
    world.edit(cluster={"maxCacheMemory": "16Mi"})
    world.settle()
    assert "under 64Mi" in world.condition("RulesHonoured")["message"]


def test_a_refused_action_stalls_the_cluster_and_is_quoted(world: World) -> None:
    world.edit(image="engine:2")
    for _ in range(2):
        observed, planned = world.observed(), world.look()
        failed = with_failure(planned, observed, message="pods is forbidden: exceeded quota", now=world.now)
        world.cluster["status"] = failed.status
        stalled = world.condition("Stalled")
        assert (stalled["status"], stalled["reason"]) == ("True", "ActionRefused")
        assert world.condition("Reconciling")["status"] == "False"
        assert "exceeded quota" in world.condition("Ready")["message"]
        world.now += timedelta(minutes=1)
    first = world.now - timedelta(minutes=2)
    assert stalled["lastTransitionTime"] == first.strftime("%Y-%m-%dT%H:%M:%SZ")  # not of the second attempt
    world.settle()
    assert world.condition("Stalled")["status"] == "False"


def test_the_status_tells_where_and_what(world: World) -> None:
    status = world.cluster["status"]
    assert status["endpoint"] == "http://demo.default.svc:6333"
    assert status["selector"] == "app.kubernetes.io/component=engine,vectorizer.io/cluster=demo"
    assert (status["replicas"], status["readyReplicas"], status["updatedReplicas"]) == (1, 1, 1)
    assert Delete not in {type(action) for action in world.look().actions}
