"""What GitOps tools think of a cluster in each phase of its life: never ready early, never waiting for ever."""

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from tests.gitops.judges import ArgoCD, kstatus
from tests.operator.plan.world import NAME, World, copied
from vectorizer_operator.plan import with_failure
from vectorizer_operator.plan.changes import child_changes, secret_changes
from vectorizer_operator.plan.planner import judge
from vectorizer_operator.plan.pods import Pod
from vectorizer_operator.plan.reasons import REASONS

WALKS, TIMES = 40, 2
QUIET_ROUNDS, WILD_STEPS = 12, 40
"""A walk is quiet and then wild, so many times."""

STORE = {"objectStore": {"url": "s3://bucket/demo"}}

EDITS: list[list[dict[str, Any]]] = [
    [{"image": "engine:1"}, {"image": "engine:2"}, {"image": "engine:broken"}],
    [{"replicas": 0}, {"replicas": 1}, {"replicas": 2}, {"replicas": 4}],
    [{"cluster": {"maxCacheMemory": "64Mi"}}, {"cluster": {"maxCacheMemory": "2Gi"}}, {"cluster": None}],
    [{"resources": {"limits": {"memory": limit}}} for limit in ("1Mi", "4Gi")],
    [{"networkPolicy": {"enabled": False}}, {"networkPolicy": None}],
    [{"fileWatcher": {"enabled": True}}, {"fileWatcher": None}],
    [{"paused": True}, {"paused": None}],
    [{"unheard": 1}, {"unheard": None}],
]
"""By what they are about."""

STORAGES: list[dict[str, Any]] = [
    {"size": "10Gi"},
    {"size": "20Gi"},
    {"size": "20Gi", "type": "memory"},
    {"size": "20Gi", "storageClassName": "fast"},
]


def is_as_wished(world: World) -> bool:
    """The truth, from the objects alone: children as rendered, every pod of the newest template answering, and every
    shard where it belongs."""
    observed = world.observed()
    judged = judge(observed, default_image=world.default_image)
    live = world.stateful_set
    if judged.block is not None or judged.cluster is None or live is None:
        return False
    if [*child_changes(observed, judged.desired), *secret_changes(observed, judged.cluster)]:
        return False
    pods = [Pod(pod) for pod in world.pods.values()]
    newest = live.get("status", {}).get("updateRevision")
    all_answer = all(pod.ready and pod.revision == newest for pod in pods)
    return len(pods) == live["spec"]["replicas"] and all_answer and every_shard_is_served(world)


def every_shard_is_served(world: World) -> bool:
    """Whether the engines that share a store agree on who they are, and none waits for a shard or has one too many."""
    if not world.has_store:
        return True
    engines = [world.answer_of(name) for name in world.pods]
    return all(
        engine is not None
        and engine.version == engines[0].version
        and {member.name for member in engine.members} == set(world.pods)
        and not engine.waiting
        and not engine.leaving
        for engine in engines
    )


class Walk:
    """A cluster that everybody has time for; then users edit it, others get in the way, and turns are taken at random.

    `states` are all that a watch would show, each another one than that before, with the truth at that moment.
    """

    def __init__(self, seed: int) -> None:
        self.choose = random.Random(seed)
        self.storage = STORE if seed % 2 else {}
        self.sizes = [0, 2, 3, 4] if seed % 2 else [0, 1, 1, 1]
        self.world = World(image="engine:1", storage=self.storage)
        self.world.broken_images.add("engine:broken")
        self.states: list[tuple[dict[str, Any], bool]] = []

    def go(self) -> None:
        world = self.world
        turns: list[tuple[Callable[[], object], int]] = [
            (world.operate, 30),
            (world.control, 25),
            (world.run_pods, 15),
            (world.open_shards, 15),
            (self.edit, 16),
            (self.refuse, 3),
            (self.freeze_or_thaw, 6),
            (self.take_or_free_a_name, 3),
            (world.wait_past_the_deadline, 8),
        ]
        works, weights = zip(*turns, strict=True)
        everybody = [world.operate, world.control, world.run_pods, world.open_shards]
        for _ in range(TIMES):
            wild = self.choose.choices(works, weights, k=WILD_STEPS)
            for work in [self.put_right, *everybody * QUIET_ROUNDS, *wild]:
                work()
                world.now += timedelta(seconds=1)
                if not self.states or world.cluster != self.states[-1][0]:
                    self.states.append((copied(world.cluster), is_as_wished(world)))

    def come_to_rest(self) -> None:
        """Nobody gets in the way any more, but for what only a person takes away."""
        if self.holder() == "VectorizerCluster":
            self.take_or_free_a_name()
        self.world.settle(200)
        self.world.wait_past_the_deadline()
        self.world.settle(200)

    def edit(self) -> None:
        spec = self.choose.choice(self.choose.choice(EDITS))
        if self.choose.random() < 0.2:
            other_place = self.choose.random() < 0.2
            store = ({} if self.storage else STORE) if other_place else self.storage
            spec = {"storage": {**store, **self.choose.choice(STORAGES)}}
        self.world.edit(**spec)

    def put_right(self) -> None:
        """The spec is one that can be rolled out, and nobody is in the way."""
        others = dict.fromkeys(self.world.cluster["spec"])
        image, replicas = self.choose.choice(["engine:1", "engine:2"]), self.choose.choice(self.sizes)
        self.world.edit(**{**others, "image": image, "replicas": replicas, "storage": self.storage})
        self.world.frozen.clear()
        if self.holder():
            self.take_or_free_a_name()

    def refuse(self) -> None:
        """A round of the operator in which the API server takes none of its changes."""
        planned = self.world.look()
        if planned.actions:
            observed, now = self.world.observed(), self.world.now
            planned = with_failure(planned, observed, message="exceeded quota", now=now)
        self.world.cluster["status"] = copied(planned.status)

    def freeze_or_thaw(self) -> None:
        """A pod ceases to answer, or all of them do so again."""
        if self.world.frozen:
            self.world.frozen.clear()
        elif self.world.pods:
            self.world.frozen.add(self.choose.choice(sorted(self.world.pods)))

    def holder(self) -> str | None:
        """Whose the client Service is, if not the cluster's."""
        service = self.world.children.get(("Service", NAME), {"metadata": {"uid": "ours"}})
        if not service["metadata"]["uid"].startswith("other-"):
            return None
        kind: str = service["metadata"]["ownerReferences"][0]["kind"]
        return kind

    def take_or_free_a_name(self) -> None:
        """An object of a stranger's, or of a deleted cluster of the same name, has the name of a child."""
        key = ("Service", NAME)
        if self.holder():
            del self.world.children[key]
            return
        kind = self.choose.choice(["VectorizerCluster", "Deployment"])
        owner = {"kind": kind, "name": NAME, "uid": "other-1", "controller": True}
        self.world.children[key] = {
            "kind": "Service",
            "metadata": {"name": NAME, "uid": "other-2", "ownerReferences": [owner]},
        }


def test_kstatus_over_a_thousand_transitions_is_never_current_early_and_comes_to_an_end() -> None:
    argo_cd = ArgoCD()
    walks = [Walk(seed) for seed in range(WALKS)]
    for each in walks:
        each.go()
    states = [state for each in walks for state in each.states]
    assert len(states) - WALKS >= 1000
    conditions = [each for cluster, _ in states for each in cluster["status"].get("conditions", ())]
    assert {each["reason"] for each in conditions} == set(REASONS)
    verdicts = kstatus([cluster for cluster, _ in states])
    early = [c for (c, true), said in zip(states, verdicts, strict=True) if said == "Current" and not true]
    assert early == []
    assert {"Current", "InProgress", "Failed"} == set(verdicts)
    for (cluster, _), said in zip(states, verdicts, strict=True):
        health, _ = argo_cd(cluster)
        paused = bool(cluster["spec"].get("paused"))
        assert health in AGREE[said] or (paused and health == "Suspended"), (said, health, cluster)

    for each in walks:
        each.come_to_rest()
    for each, said in zip(walks, kstatus([each.world.cluster for each in walks]), strict=True):
        assert said == ("Current" if is_as_wished(each.world) else "Failed"), each.world.cluster


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


def refused() -> World:
    world = edited()
    failed = with_failure(world.look(), world.observed(), message="exceeded quota", now=world.now)
    world.cluster["status"] = failed.status
    return world


def paused() -> World:
    world = ready()
    world.edit(paused=True)
    world.operate()
    return world


def held_back() -> World:
    world = paused()
    world.edit(image="engine:2")
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
        (refused, "Degraded", "Failed", "ActionRefused: exceeded quota"),
        (World.stuck, "Degraded", "Failed", "PodNotReady: pod demo-0 waits: ImagePullBackOff"),
        (paused, "Suspended", "Current", "spec.paused is true"),
        (held_back, "Suspended", "Failed", "to be done when it is false: apply StatefulSet demo"),
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
            states.append(copied(world.cluster))
    verdicts = kstatus(states)
    assert verdicts == sorted(verdicts, key=["InProgress", "Current"].index)
    assert verdicts[-1] == "Current"


def test_the_health_script_takes_an_object_that_no_operator_has_seen() -> None:
    """Where the definition's default is missing, as before an upgrade of it."""
    cluster = {key: value for key, value in World().cluster.items() if key != "status"}
    assert ArgoCD()(cluster)[0] == "Progressing"
    unsaid = {**cluster, "status": {"observedGeneration": 1}}
    assert ArgoCD()(unsaid) == ("Progressing", "there is no condition yet")
