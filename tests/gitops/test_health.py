"""What GitOps tools think of a cluster in each phase of its life: never ready early, never waiting for ever."""

import copy
import random
from typing import Any

import pytest

from tests.gitops.judges import ArgoCD, kstatus
from tests.operator.plan.world import World
from vectorizer_operator.plan.changes import child_changes
from vectorizer_operator.plan.planner import judge
from vectorizer_operator.plan.pods import Pod

WALKS, STEPS = 40, 30

EDITS: list[dict[str, Any]] = [
    {"image": "engine:1"},
    {"image": "engine:2"},
    {"image": "engine:broken"},
    {"replicas": 0},
    {"replicas": 1},
    {"cluster": {"maxCacheMemory": "64Mi"}},
    {"cluster": {"maxCacheMemory": "2Gi"}},
    {"cluster": None},
    {"storage": {"size": "10Gi"}},
    {"storage": {"size": "20Gi"}},
    {"storage": {"type": "memory"}},
    {"networkPolicy": {"enabled": False}},
    {"paused": True},
    {"paused": None},
    {"unheard": 1},
    {"unheard": None},
]


def is_as_wished(world: World) -> bool:
    """The truth, from the objects alone: children as rendered, and every pod of the newest template answering."""
    judged = judge(world.observed(), default_image=world.default_image)
    live = world.stateful_set
    if judged.block is not None or live is None or list(child_changes(world.observed(), judged.desired)):
        return False
    pods = [Pod(pod) for pod in world.pods.values()]
    newest = live.get("status", {}).get("updateRevision")
    return len(pods) == live["spec"]["replicas"] and all(pod.ready and pod.revision == newest for pod in pods)


def walk(seed: int) -> tuple[list[tuple[dict[str, Any], bool]], World]:
    """Every state of a cluster, with the truth about it, while users edit it and everybody takes turns at random."""
    choose = random.Random(seed)
    world = World(image="engine:1")
    world.broken_images.add("engine:broken")
    seen = []
    for _ in range(STEPS):
        turn = choose.choice([world.operate, world.operate, world.control, world.run_pods, None])
        if turn is None:
            world.edit(**choose.choice(EDITS))
        else:
            turn()
        seen.append((copy.deepcopy(world.cluster), is_as_wished(world)))
    return seen, world


def test_kstatus_over_a_thousand_transitions_is_never_current_early_and_comes_to_an_end() -> None:
    argo_cd = ArgoCD()
    states: list[tuple[dict[str, Any], bool]] = []
    ends: list[World] = []
    for seed in range(WALKS):
        seen, world = walk(seed)
        states += seen
        world.settle()
        world.wait_past_the_deadline()
        world.settle()
        ends.append(world)
    assert len(states) >= 1000
    verdicts = kstatus([cluster for cluster, _ in states])
    early = [c for (c, true), said in zip(states, verdicts, strict=True) if said == "Current" and not true]
    assert early == []
    assert {"Current", "InProgress", "Failed"} == set(verdicts)
    for (cluster, _), said in zip(states, verdicts, strict=True):
        health, _ = argo_cd(cluster)
        paused = bool(cluster["spec"].get("paused"))
        assert health in AGREE[said] or (paused and health == "Suspended"), (said, health, cluster)
    for world, said in zip(ends, kstatus([world.cluster for world in ends]), strict=True):
        paused = bool(world.cluster["spec"].get("paused"))
        if is_as_wished(world):
            assert said == "Current"
        elif not paused:
            assert said == "Failed", world.cluster["status"]


AGREE = {"Current": {"Healthy"}, "InProgress": {"Progressing"}, "Failed": {"Degraded"}}


def fresh() -> World:
    return World()


def starting() -> World:
    world = World()
    for turn in (world.operate, world.control, world.control, world.operate):
        turn()
    return world


def ready() -> World:
    world = World()
    world.settle()
    return world


def edited() -> World:
    world = ready()
    world.edit(image="engine:2")
    return world


def rolling() -> World:
    world = edited()
    world.operate()
    return world


def breaking_a_rule() -> World:
    world = ready()
    world.edit(storage={"type": "memory"})
    world.operate()
    return world


def paused() -> World:
    world = ready()
    world.edit(paused=True)
    world.operate()
    return world


def stopped() -> World:
    world = ready()
    world.edit(replicas=0)
    world.settle()
    return world


@pytest.mark.parametrize(
    ("phase", "argo_cd", "library", "message"),
    [
        (fresh, "Progressing", "InProgress", "the operator has not looked at the newest spec yet"),
        (starting, "Progressing", "InProgress", "pod demo-0 does not answer its readiness probe yet"),
        (ready, "Healthy", "Current", "1 of 1 pods answer requests"),
        (edited, "Progressing", "InProgress", "the operator has not looked at the newest spec yet"),
        (rolling, "Progressing", "InProgress", "apply StatefulSet demo"),
        (breaking_a_rule, "Degraded", "Failed", "MmapStorageRequired: CLUSTER_001"),
        (World.stuck, "Degraded", "Failed", "PodNotReady: pod demo-0 waits: ImagePullBackOff"),
        (paused, "Suspended", "Current", "spec.paused is true"),
        (stopped, "Healthy", "Current", "0 of 0 pods"),
    ],
)
def test_each_phase_is_told_by_name(phase: Any, argo_cd: str, library: str, message: str) -> None:
    cluster = phase().cluster
    health, said = ArgoCD()(cluster)
    assert (health, kstatus([cluster])) == (argo_cd, [library])
    assert message in said


def test_a_stuck_cluster_that_is_put_right_does_not_fail_again_on_its_way() -> None:
    world = World.stuck()
    world.edit(image="engine:2")
    states = []
    for _ in range(12):
        for turn in (world.operate, world.control, world.run_pods):
            turn()
            states.append(copy.deepcopy(world.cluster))
    verdicts = kstatus(states)
    assert verdicts == sorted(verdicts, key=["InProgress", "Current"].index)
    assert verdicts[-1] == "Current"


def test_the_health_script_takes_an_object_that_no_operator_has_seen() -> None:
    """Where the definition's default is missing, as before an upgrade of it."""
    cluster = {key: value for key, value in World().cluster.items() if key != "status"}
    assert ArgoCD()(cluster)[0] == "Progressing"
    unsaid = {**cluster, "status": {"observedGeneration": 1}}
    assert ArgoCD()(unsaid) == ("Progressing", "there is no condition yet")
