"""Who serves the shards of a cluster with a store, and when a pod may go."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.operator.plan.world import NAME, World
from vectorizer_operator.plan import Apply, Delete, Engine, Member, Plan, PublishTopology
from vectorizer_operator.plan.topology import LOOK_AGAIN, LOOK_AGAIN_LATER, LOST_AFTER

STORE = {"size": "10Gi", "objectStore": {"url": "s3://vectors/demo"}}


def pod(ordinal: int) -> str:
    return f"{NAME}-{ordinal}"


def members(world: World) -> list[str]:
    """Who serves, as the engines know it. All of them know the same."""
    known = {world.engines[name].members for name in world.pods}
    assert len(known) == 1
    return [member.name for member in known.pop()]


def published(planned: Plan) -> list[PublishTopology]:
    return [action for action in planned.actions if isinstance(action, PublishTopology)]


@pytest.fixture
def world() -> World:
    """Three pods that serve together."""
    world = World(image="engine:1", replicas=3, storage=STORE)
    world.broken_images.add("engine:broken")
    world.settle()
    return world


def test_pods_over_one_store_become_members_and_the_cluster_is_ready(world: World) -> None:
    assert members(world) == [pod(0), pod(1), pod(2)]
    assert world.condition("Ready")["status"] == "True"
    assert world.look().actions == ()
    assert world.look().requeue_after is None
    secret = world.children["Secret", f"{NAME}-internal"]
    assert secret["stringData"]["key"]
    assert secret["metadata"]["ownerReferences"]


def test_pods_without_a_store_are_told_nothing() -> None:
    world = World(image="engine:1", replicas=1)
    world.settle()
    assert ("Secret", f"{NAME}-internal") not in world.children
    assert world.engines == {}


def test_all_shards_served_the_cluster_is_not_ready_while_shards_move(world: World) -> None:
    world.edit(replicas=4)
    while not world.engines.get(pod(3)):
        world.operate()
        world.control()
        world.run_pods()
    world.run_pods()
    planned = world.operate()
    assert world.condition("Ready")["reason"] == "MovingShards"
    assert f"engine {pod(0)} opens shards" in world.condition("Ready")["message"]
    assert planned.requeue_after == LOOK_AGAIN
    world.now += timedelta(minutes=2)
    assert world.look().requeue_after == LOOK_AGAIN_LATER
    while world.open_shards():
        pass
    world.operate()
    assert world.condition("Ready")["status"] == "True"


def test_all_shards_served_an_engine_that_is_still_starting_is_looked_at_again(world: World) -> None:
    world.starting.add(pod(3))
    world.edit(replicas=4)
    for _ in range(10):
        planned = world.operate()
        world.control()
        world.run_pods()
        world.open_shards()
    assert planned.requeue_after == LOOK_AGAIN
    assert f"engine {pod(3)} is no member yet" in world.condition("Ready")["message"]
    world.starting.clear()
    world.settle()
    assert members(world) == [pod(0), pod(1), pod(2), pod(3)]


def test_drained_before_removed_a_pod_is_scaled_away_when_the_others_serve_its_shards(world: World) -> None:
    world.edit(replicas=2)
    planned = world.operate()
    assert [member.name for [action] in [published(planned)] for member in action.members] == [pod(0), pod(1)]
    assert {member.name for [action] in [published(planned)] for member in action.to} == {
        pod(0),
        pod(1),
        pod(2),
    }
    world.operate()
    assert world.stateful_set is not None
    assert world.stateful_set["spec"]["replicas"] == 3, "the others are yet to open its shards"
    while world.open_shards():
        pass
    world.operate()
    assert world.stateful_set["spec"]["replicas"] == 2
    world.settle()
    assert members(world) == [pod(0), pod(1)]
    assert world.condition("Ready")["status"] == "True"


def test_drained_before_removed_a_pod_that_is_last_to_give_up_its_shards_is_looked_at_again(
    world: World,
) -> None:
    world.edit(replicas=2)
    world.operate()
    while any(world.engines[pod(each)].waiting for each in (0, 1)):
        world.open_shards()
    world.engines |= {pod(each): replace(world.engines[pod(each)], leaving=0) for each in (0, 1)}
    planned = world.operate()
    assert world.stateful_set is not None
    assert world.stateful_set["spec"]["replicas"] == 3
    assert planned.requeue_after == LOOK_AGAIN
    assert f"engine {pod(2)} still serves shards of others" in world.condition("Ready")["message"]
    world.open_shards()
    world.operate()
    assert world.stateful_set["spec"]["replicas"] == 2


def test_a_cluster_that_is_stopped_has_nobody_to_give_shards_to(world: World) -> None:
    world.edit(replicas=0)
    world.settle()
    assert not world.pods
    assert world.condition("Ready")["reason"] == "ScaledToZero"
    world.edit(replicas=2)
    world.settle()
    assert members(world) == [pod(0), pod(1)]


def test_drained_before_removed_a_rollout_replaces_pods_that_serve_nothing_any_more(world: World) -> None:
    world.edit(image="engine:2")
    replaced = []
    for _ in range(200):
        planned = world.look()
        for action in planned.actions:
            if isinstance(action, Delete):
                replaced.append(action.name)
                assert action.name not in members(world)
                assert all(engine.waiting == 0 for engine in world.engines.values())
        world.operate()
        world.control()
        world.run_pods()
        world.open_shards()
        world.now += timedelta(seconds=1)
    assert replaced == [pod(2), pod(1), pod(0)]
    assert members(world) == [pod(0), pod(1), pod(2)]
    assert world.condition("Ready")["status"] == "True"


def test_the_only_pod_is_replaced_though_nobody_takes_its_shards() -> None:
    world = World(image="engine:1", replicas=1, storage=STORE)
    world.settle()
    world.edit(image="engine:2")
    world.settle()
    assert world.condition("Ready")["status"] == "True"
    assert world.cluster["status"]["currentVersion"] == "engine:2"


def test_a_frozen_pod_is_no_member_any_more_after_a_while_and_again_when_it_answers(world: World) -> None:
    world.frozen.add(pod(1))
    world.run_pods()
    world.operate()
    assert f"engine {pod(1)} does not answer" in world.condition("Ready")["message"]
    assert published(world.look()) == [], "it may be back in a moment"
    world.now += LOST_AFTER
    world.operate()
    assert [member.name for member in world.engines[pod(0)].members] == [pod(0), pod(2)]
    assert [member.name for member in world.engines[pod(1)].members] == [pod(0), pod(1), pod(2)]
    world.frozen.clear()
    world.settle()
    assert members(world) == [pod(0), pod(1), pod(2)]


def test_a_pod_that_kubernetes_finds_ready_stays_though_the_operator_cannot_reach_it(world: World) -> None:
    world.frozen.add(pod(1))
    world.now += timedelta(hours=1)
    assert published(world.look()) == []


def test_a_pod_that_comes_back_with_another_address_is_told_of_to_all(world: World) -> None:
    before = world.engines[pod(0)]
    world.pods[pod(2)]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    world.settle()
    assert members(world) == [pod(0), pod(1), pod(2)]
    assert world.engines[pod(0)].members[2].address != before.members[2].address
    assert world.engines[pod(0)].version > before.version


def test_an_engine_that_knows_an_older_topology_is_told_the_newest(world: World) -> None:
    newest = world.engines[pod(0)]
    world.engines[pod(1)] = Engine(newest.version - 1, (Member(pod(1), "10.0.0.9:6333"),), 0)
    [action] = published(world.look())
    assert (action.version, action.members) == (newest.version, newest.members)
    assert [member.name for member in action.to] == [pod(1)]


def test_a_topology_of_before_a_restore_is_followed_by_a_newer_one(world: World) -> None:
    world.engines[pod(1)] = Engine(50, (Member("gone-0", "10.9.9.9:6333"),), 0)
    world.settle()
    assert world.engines[pod(0)].version == 51
    assert members(world) == [pod(0), pod(1), pod(2)]


@pytest.mark.parametrize(
    "spec", [{"paused": True}, {"cluster": {"maxCacheMemory": "2Gi"}}], ids=["paused", "a-broken-rule"]
)
def test_a_lost_pod_is_replaced_as_a_member_whatever_holds_the_spec_back(
    world: World, spec: dict[str, Any]
) -> None:
    world.edit(**spec)
    world.operate()
    del world.pods[pod(1)]
    planned = world.operate()
    assert [type(action) for action in planned.actions] == [PublishTopology]
    assert [member.name for member in world.engines[pod(0)].members] == [pod(0), pod(2)]
    assert planned.requeue_after is not None


def test_no_pod_is_drained_while_the_cluster_is_paused(world: World) -> None:
    world.edit(paused=True, replicas=2, image="engine:2")
    world.settle()
    assert members(world) == [pod(0), pod(1), pod(2)]
    assert "to be done when it is false" in world.condition("Ready")["message"]


def test_engines_that_cannot_be_asked_change_nothing(world: World) -> None:
    world.frozen |= set(world.pods)
    world.now += timedelta(hours=1)
    world.edit(replicas=2)
    assert world.operate().actions == ()
    world.edit(replicas=3)
    world.frozen.clear()
    world.settle()
    assert world.condition("Ready")["status"] == "True"


class SharedCluster(RuleBasedStateMachine):
    """Pods over one store under random edits, rollouts, crashes and freezes, with all taking turns at random."""

    @initialize(replicas=st.integers(0, 4))
    def create(self, replicas: int) -> None:
        self.world = World(image="engine:1", replicas=replicas, storage=STORE)
        self.version = 0

    @rule(replicas=st.integers(0, 5), image=st.sampled_from(["engine:1", "engine:2"]))
    def edit(self, replicas: int, image: str) -> None:
        self.world.edit(replicas=replicas, image=image)

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        self.world.edit(paused=paused)

    @precondition(lambda self: self.world.pods)
    @rule(data=st.data(), freeze=st.booleans())
    def lose_a_pod(self, data: st.DataObject, freeze: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.world.pods)))
        if freeze:
            self.world.frozen.add(name)
        else:
            self.world.pods[name]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"

    @rule()
    def thaw(self) -> None:
        self.world.frozen.clear()

    @rule()
    def let_the_controller_work(self) -> None:
        self.world.control()

    @rule()
    def let_the_kubelet_work(self) -> None:
        self.world.run_pods()

    @rule()
    def let_an_engine_open_shards(self) -> None:
        self.world.open_shards()

    @rule(seconds=st.integers(0, 10))
    def wait(self, seconds: int) -> None:
        self.world.now += timedelta(seconds=seconds)

    @rule(actions=st.integers(0, 3))
    def kill_the_operator_in_a_round(self, actions: int) -> None:
        self.world.die_after(actions)

    @rule()
    def let_the_operator_work(self) -> None:
        live = self.world.stateful_set
        before = live["spec"]["replicas"] if live else 0
        planned = self.world.look()
        for action in planned.actions:
            if isinstance(action, Delete) and action.kind == "Pod":
                self._check_may_go(action.name)
            if isinstance(action, Apply) and action.manifest["kind"] == "StatefulSet":
                after = action.manifest["spec"]["replicas"]
                for name in self.world.pods:
                    if after and after <= int(name.rpartition("-")[2]) < before:
                        self._check_may_go(name)
        self.world.operate()

    @rule()
    def wait_for_everything(self) -> None:
        self.world.frozen.clear()
        if self.world.cluster["spec"].get("paused"):
            self.world.edit(paused=False)
        self.world.settle(rounds=300)
        assert self.world.condition("Ready")["status"] == "True"
        assert self.world.look().actions == ()
        if self.world.pods:
            assert members(self.world) == sorted(self.world.pods)
            assert all(self.world.engines[name].waiting == 0 for name in self.world.pods)

    @invariant()
    def versions_only_grow(self) -> None:
        newest = max((engine.version for engine in self.world.engines.values()), default=0)
        assert newest >= self.version
        self.version = newest

    def _check_may_go(self, name: str) -> None:
        """A pod that answers is taken away only when the members that are left serve everything."""
        pods = self.world.pods
        answers = [answer for each in pods if (answer := self.world.answer_of(each)) is not None]
        ready = any(
            each["type"] == "Ready" and each["status"] == "True"
            for each in pods[name]["status"]["conditions"]
        )
        if not ready or "deletionTimestamp" in pods[name]["metadata"]:
            return
        newest = max(answers, key=lambda answer: answer.version)
        left = [member.name for member in newest.members if member.name != name]
        if not left:
            return
        assert name not in [member.name for member in newest.members]
        for each in left:
            answer = self.world.answer_of(each)
            assert answer is not None
            assert (answer.version, answer.waiting) == (newest.version, 0)


TestSharedCluster = SharedCluster.TestCase
TestSharedCluster.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
