"""Whatever users, the StatefulSet controller, the kubelet and saboteurs do, in any order, the plan stays safe."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.operator.plan.world import NAME, World, copied
from vectorizer_operator.api import VectorizerCluster
from vectorizer_operator.api.rules import violations
from vectorizer_operator.manifests import render
from vectorizer_operator.plan import Delete
from vectorizer_operator.plan.changes import pod_changes
from vectorizer_operator.plan.pods import Pod

IMAGES = ("engine:1", "engine:2", "engine:broken")
SIZES = (5, 10, 20)


class PlannedCluster(RuleBasedStateMachine):
    """One cluster under random edits, drift and failures, with every actor taking turns at random."""

    @initialize(replicas=st.integers(0, 1))
    def create(self, replicas: int) -> None:
        self.world = World(image="engine:1", replicas=replicas, storage={"size": "10Gi"})
        self.world.broken_images.add("engine:broken")
        self.planned = self.world.look()
        self.just_reported = False

    # Users

    @rule(image=st.sampled_from(IMAGES))
    def set_image(self, image: str) -> None:
        self._edit(image=image)

    @rule(limit=st.sampled_from(["64Mi", "1Gi", 1024**3, "2Gi", "lots", 0]))
    def set_cache_limit(self, limit: Any) -> None:
        self._edit(cluster={"maxCacheMemory": limit})

    @rule(size=st.sampled_from(SIZES), kind=st.sampled_from(["mmap", "memory"]))
    def set_storage(self, size: int, kind: str) -> None:
        self._edit(storage={"size": f"{size}Gi", "type": kind})

    @rule(replicas=st.integers(0, 2))
    def scale(self, replicas: int) -> None:
        self._edit(replicas=replicas)

    @rule(paused=st.booleans(), network_policy=st.booleans(), budget=st.booleans())
    def switch(self, paused: bool, network_policy: bool, budget: bool) -> None:
        self._edit(
            paused=paused, networkPolicy={"enabled": network_policy}, podDisruptionBudget={"enabled": budget}
        )

    # Saboteurs and failures

    @precondition(lambda self: self.world.children)
    @rule(data=st.data())
    def delete_a_child(self, data: st.DataObject) -> None:
        kind, name = data.draw(st.sampled_from(sorted(self.world.children)))
        if kind == "StatefulSet":
            for pod in self.world.pods.values():
                pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        del self.world.children[kind, name]
        self.just_reported = False

    @precondition(lambda self: self.world.stateful_set is not None)
    @rule(replicas=st.integers(0, 3), image=st.sampled_from(IMAGES))
    def edit_the_stateful_set(self, replicas: int, image: str) -> None:
        live = self.world.stateful_set
        live["spec"]["replicas"] = replicas
        live["spec"]["template"]["spec"]["containers"][0]["image"] = image
        live["metadata"]["generation"] += 1
        self.just_reported = False

    @precondition(lambda self: self.world.pods)
    @rule(data=st.data())
    def fail_a_pod(self, data: st.DataObject) -> None:
        self.world.report_pod(
            self.world.pods[data.draw(st.sampled_from(sorted(self.world.pods)))], ready=False
        )
        self.just_reported = False

    # Kubernetes

    @rule()
    def let_the_controller_work(self) -> None:
        self.just_reported &= not self.world.control()

    @rule()
    def let_the_kubelet_work(self) -> None:
        self.just_reported &= not self.world.run_pods()

    # The operator

    @rule()
    def let_the_operator_work(self) -> None:
        stateful_set, pods = self.world.stateful_set, len(self.world.pods)
        self.planned = self.world.operate()
        self.just_reported = True
        deletions = [a for a in self.planned.actions if isinstance(a, Delete) and a.kind == "Pod"]
        assert len(deletions) <= 1
        if self._forbidden:
            assert self.planned.actions == ()
            assert (self.world.stateful_set, len(self.world.pods)) == (stateful_set, pods)

    @rule()
    def wait_for_everything(self) -> None:
        planned = self.world.settle()
        assert planned.actions == ()
        assert planned.status == self.world.cluster["status"], "a settled cluster needs no write"
        assert self.world.look().actions == (), "an operator that starts anew has nothing to do"
        assert self.world.look().status == planned.status
        ready = self.world.condition("Ready")["status"] == "True"
        assert ready == self._as_wished
        stalled = self.world.condition("Stalled")["status"] == "True"
        assert not (ready and stalled)

    @invariant()
    def ready_is_true_only_of_what_runs(self) -> None:
        status = self.world.cluster["status"]
        if (
            not self.just_reported
            or status["observedGeneration"] != self.world.cluster["metadata"]["generation"]
        ):
            return
        if self.world.condition("Ready")["status"] == "True":
            assert self._as_wished

    @invariant()
    def volumes_never_shrink(self) -> None:
        for claim in self.world.pvcs.values():
            size = int(claim["spec"]["resources"]["requests"]["storage"].removesuffix("Gi"))
            assert size >= getattr(self, "largest", {}).get(claim["metadata"]["uid"], 0)
            self.largest = {**getattr(self, "largest", {}), claim["metadata"]["uid"]: size}

    def _edit(self, **spec: Any) -> None:
        self.world.edit(**spec)
        self.just_reported = False

    @property
    def _forbidden(self) -> bool:
        return bool(violations(self.world.cluster)) or bool(self.world.cluster["spec"].get("paused"))

    @property
    def _as_wished(self) -> bool:
        """Whether the cluster is what its spec says, judged by comparing everything, without the plan's own code."""
        if violations(self.world.cluster):
            return False
        cluster = VectorizerCluster.parse(self.world.cluster)
        desired = render(cluster, default_image=self.world.default_image)
        wanted = {(c["kind"], c["metadata"]["name"]): self.world.filled_in(copied(c)) for c in desired}
        if set(wanted) != set(self.world.children) or len(self.world.pods) != cluster.spec.replicas:
            return False
        if any(child.get("spec") != self.world.children[key].get("spec") for key, child in wanted.items()):
            return False
        template = desired[-1]["spec"]["template"]
        return all(
            pod["spec"]["containers"] == template["spec"]["containers"]
            and pod["metadata"]["annotations"] == template["metadata"]["annotations"]
            and "deletionTimestamp" not in pod["metadata"]
            and any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"]["conditions"])
            for pod in self.world.pods.values()
        )


class RollingPods(RuleBasedStateMachine):
    """Several pods under random rollouts: what this release's rules do not allow yet, and its predicates already do."""

    @initialize(replicas=st.integers(2, 5))
    def create(self, replicas: int) -> None:
        self.replicas = replicas
        self.revision = 0
        self.pods = dict.fromkeys(range(replicas), (0, True))

    @rule()
    def change_the_template(self) -> None:
        self.revision += 1

    @rule(data=st.data())
    def fail_a_pod(self, data: st.DataObject) -> None:
        ordinal = data.draw(st.integers(0, self.replicas - 1))
        if ordinal in self.pods:
            self.pods[ordinal] = (self.pods[ordinal][0], False)

    @rule()
    def recover(self) -> None:
        self.pods = {n: self.pods.get(n, (self.revision, True)) for n in range(self.replicas)}
        self.pods = {ordinal: (revision, True) for ordinal, (revision, _) in self.pods.items()}

    @rule()
    def roll(self) -> None:
        answering = {ordinal for ordinal, (_, ready) in self.pods.items() if ready}
        for action in pod_changes(self._stateful_set, self._pods):
            ordinal = int(action.name.rpartition("-")[2])
            if ordinal in answering:
                assert len(answering) == self.replicas, "no second pod goes down for a rollout"
            assert self.pods[ordinal][0] != self.revision, "a pod of the newest template is left alone"
            del self.pods[ordinal]

    @rule()
    def finish(self) -> None:
        for _ in range(3 * self.replicas):
            self.roll()
            self.recover()
        assert {revision for revision, _ in self.pods.values()} == {self.revision}

    @property
    def _stateful_set(self) -> dict[str, Any]:
        return {
            "metadata": {"name": NAME, "generation": 1},
            "spec": {"replicas": self.replicas},
            "status": {"observedGeneration": 1, "updateRevision": str(self.revision)},
        }

    @property
    def _pods(self) -> list[Pod]:
        return [
            Pod(
                {
                    "metadata": {
                        "name": f"{NAME}-{ordinal}",
                        "uid": str(ordinal),
                        "labels": {"controller-revision-hash": str(revision)},
                    },
                    "status": {"conditions": [{"type": "Ready", "status": str(ready)}]},
                }
            )
            for ordinal, (revision, ready) in self.pods.items()
        ]


PlannedCluster.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
RollingPods.TestCase.settings = settings(max_examples=50, stateful_step_count=25, deadline=None)


class TestWhateverHappensThePlanStaysSafe(PlannedCluster.TestCase):  # type: ignore[misc, valid-type]
    pass


class TestARolloutNeverTakesASecondPodDown(RollingPods.TestCase):  # type: ignore[misc, valid-type]
    pass
