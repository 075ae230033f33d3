"""A world small enough to think about: one cluster, an API server that keeps what is applied, the StatefulSet
controller and the kubelet, each as a step that a test takes when it likes.

It follows the real ones in what a plan can see: generations, revisions, ownership, immutable claim templates, values
that the server fills in. It is for the plan's logic; the operator's loop is tested on the real API server.
"""

import hashlib
import json
import marshal
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from vectorizer_operator.plan import (
    Action,
    Apply,
    CreateSecret,
    Engine,
    ExpandVolume,
    Observed,
    Plan,
    PublishTopology,
    plan,
)
from vectorizer_operator.plan.planner import PROGRESS_DEADLINE
from vectorizer_operator.plan.status import timestamp

IMAGE = "engine:1"
NAME = "demo"
START = datetime(2026, 1, 1, tzinfo=UTC)
NOTHING_KNOWN = Engine(0, (), 0)

_Thing = TypeVar("_Thing")


def copied(thing: _Thing) -> _Thing:
    """A deep copy of what JSON can say. copy.deepcopy takes four times as long."""
    return marshal.loads(marshal.dumps(thing))


class World:
    def __init__(self, **spec: Any) -> None:
        self.now = START
        self.default_image = IMAGE
        self.children: dict[tuple[str, str], dict[str, Any]] = {}
        self.pods: dict[str, dict[str, Any]] = {}
        self.pvcs: dict[str, dict[str, Any]] = {}
        self.broken_images: set[str] = set()
        self._uids = 0
        # What the engines of a cluster with a store know, by pod; what they knew stays on their volumes.
        self.engines: dict[str, Engine] = {}
        self.frozen: set[str] = set()
        self.starting: set[str] = set()
        self.cluster: dict[str, Any] = {
            "apiVersion": "vectorizer.io/v1",
            "kind": "VectorizerCluster",
            "metadata": {"name": NAME, "namespace": "default", "uid": self._uid(), "generation": 1},
            "spec": spec,
            "status": {"observedGeneration": -1},
        }

    @classmethod
    def stuck(cls) -> "World":
        """One whose pod cannot start, and for which nobody waits any more."""
        world = cls(image="engine:broken")
        world.broken_images.add("engine:broken")
        world.settle()
        world.wait_past_the_deadline()
        world.operate()
        return world

    # What a user does

    def edit(self, **spec: Any) -> None:
        """Replace whole sections of the spec; None takes one away."""
        before = copied(self.cluster["spec"])
        self.cluster["spec"] = {k: v for k, v in {**before, **spec}.items() if v is not None}
        if before != self.cluster["spec"]:
            self.cluster["metadata"]["generation"] += 1

    # What the operator does

    def look(self) -> Plan:
        return plan(self.observed(), now=self.now, default_image=self.default_image)

    def observed(self) -> Observed:
        return Observed(
            cluster=copied(self.cluster),
            children=copied(self.children),
            pods=copied(list(self.pods.values())),
            pvcs=copied(list(self.pvcs.values())),
            engines={name: self.answer_of(name) for name in self.pods} if self.has_store else None,
        )

    @property
    def has_store(self) -> bool:
        return "objectStore" in (self.cluster["spec"].get("storage") or {})

    def answer_of(self, name: str) -> Engine | None:
        """What the operator hears from the engine of a pod."""
        pod = self.pods.get(name)
        runs = pod is not None and "podIP" in pod["status"] and not {name} & (self.frozen | self.starting)
        return self.engines.get(name, NOTHING_KNOWN) if runs else None

    def operate(self) -> Plan:
        """One round: plan, act, report."""
        planned = self.look()
        for action in planned.actions:
            self._execute(action)
        self.cluster["status"] = copied(planned.status)
        return planned

    def die_after(self, actions: int) -> None:
        """A round that is killed after so many actions."""
        for action in self.look().actions[:actions]:
            self._execute(action)

    def _execute(self, action: Action) -> None:
        if isinstance(action, Apply):
            self._apply(action.manifest)
        elif isinstance(action, CreateSecret):
            self._apply({**action.manifest, "stringData": {action.key: "secret"}})
        elif isinstance(action, PublishTopology):
            self._publish(action)
        elif isinstance(action, ExpandVolume):
            self.pvcs[action.name]["spec"]["resources"]["requests"]["storage"] = action.size
        elif action.kind == "Pod":
            assert self.pods[action.name]["metadata"]["uid"] == action.uid
            self.pods[action.name]["metadata"]["deletionTimestamp"] = timestamp(self.now)
        else:
            live = self.children.pop((action.kind, action.name))
            assert live["metadata"]["uid"] == action.uid
            if action.kind == "StatefulSet":
                assert action.propagation == "Orphan", "deleting a StatefulSet must not take its pods"
                for pod in self.pods.values():
                    pod["metadata"]["ownerReferences"] = []

    def _publish(self, topology: PublishTopology) -> None:
        for name, _ in topology.to:
            before = self.answer_of(name)
            if before is None or before.version >= topology.version:
                continue
            moves = any(member.name == name for member in topology.members)
            self.engines[name] = Engine(
                topology.version,
                topology.members,
                waiting=int(moves),
                leaving=int(bool(before.members)),
                previous=topology.previous,
            )

    def _apply(self, manifest: dict[str, Any]) -> None:
        manifest = json.loads(json.dumps(manifest))
        key = (manifest["kind"], manifest["metadata"]["name"])
        live = self.children.get(key)
        if live is None:
            manifest["metadata"] |= {"uid": self._uid(), "generation": 1}
            self.children[key] = self.filled_in(manifest)
            return
        before = copied(live.get("spec"))
        if key[0] == "StatefulSet":
            # As the API server does: these fields can never change.
            for field in ("volumeClaimTemplates", "selector", "serviceName", "podManagementPolicy"):
                assert manifest["spec"][field] == live["spec"][field], f"{field} is immutable"
        foreign = {k: v for k, v in live["metadata"]["annotations"].items() if k.startswith("other/")}
        kept = {k: live["metadata"][k] for k in ("uid", "generation")}
        status = live.get("status")
        live.clear()
        live.update(self.filled_in(manifest))
        live["metadata"] |= kept
        live["metadata"]["annotations"] |= foreign
        if status is not None:
            live["status"] = status
        if live.get("spec") != before:
            live["metadata"]["generation"] += 1

    def filled_in(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """With values of the server's own, which must not look like drift."""
        if manifest["kind"] == "StatefulSet":
            manifest["spec"]["template"]["spec"] |= {"dnsPolicy": "ClusterFirst", "restartPolicy": "Always"}
        if manifest["kind"] == "Service" and "clusterIP" not in manifest["spec"]:
            manifest["spec"]["clusterIP"] = "127.0.0.9"
        return manifest

    # What Kubernetes does

    @property
    def stateful_set(self) -> dict[str, Any] | None:
        return self.children.get(("StatefulSet", NAME))

    def control(self) -> bool:
        """The StatefulSet controller's turn. Whether it changed anything."""
        live = self.stateful_set
        for name, pod in list(self.pods.items()):
            if "deletionTimestamp" in pod["metadata"]:
                del self.pods[name]
                return True
        if live is None:
            return False
        revision = _hash(live["spec"]["template"])
        seen = {"observedGeneration": live["metadata"]["generation"], "updateRevision": f"{NAME}-{revision}"}
        if live.get("status") != seen:
            live["status"] = seen
            return True
        for pod in self.pods.values():
            if not pod["metadata"]["ownerReferences"]:
                pod["metadata"]["ownerReferences"] = [self._owner(live)]
                return True
        for ordinal in range(live["spec"]["replicas"]):
            if f"{NAME}-{ordinal}" not in self.pods:
                self._create_pod(live, ordinal)
                return True
        for name, pod in self.pods.items():
            if int(name.rpartition("-")[2]) >= live["spec"]["replicas"]:
                pod["metadata"]["deletionTimestamp"] = timestamp(self.now)
                return True
        return False

    def _create_pod(self, live: dict[str, Any], ordinal: int) -> None:
        name = f"{NAME}-{ordinal}"
        template = copied(live["spec"]["template"])
        self.pods[name] = {
            "metadata": {
                **template["metadata"],
                "labels": {
                    **template["metadata"]["labels"],
                    "controller-revision-hash": live["status"]["updateRevision"],
                },
                "name": name,
                "uid": self._uid(),
                "creationTimestamp": timestamp(self.now),
                "ownerReferences": [self._owner(live)],
            },
            "spec": template["spec"],
            "status": {"conditions": [{"type": "PodScheduled", "status": "True"}]},
        }
        claim = live["spec"]["volumeClaimTemplates"][0]
        self.pvcs.setdefault(
            f"data-{name}",
            {"metadata": {"name": f"data-{name}", "uid": self._uid()}, "spec": copied(claim["spec"])},
        )

    def open_shards(self) -> bool:
        """The engines' turn: one opens the shards that it waits for, or gives up those that others have opened."""
        answers = {name: answer for name in self.pods if (answer := self.answer_of(name)) is not None}
        for name, engine in answers.items():
            if engine.waiting:
                self.engines[name] = replace(engine, waiting=0)
                return True
        for name, engine in answers.items():
            if engine.leaving:
                self.engines[name] = replace(engine, leaving=0)
                return True
        return False

    def run_pods(self) -> bool:
        """The kubelet's turn: pods whose image works become ready, the others say what is wrong.

        A pod of a cluster with a store runs first, and is ready when its engine has heard of a topology.
        """
        changed = False
        for name, pod in self.pods.items():
            if "deletionTimestamp" in pod["metadata"]:
                continue
            works = pod["spec"]["containers"][0]["image"] not in self.broken_images
            if works and "podIP" not in pod["status"]:
                pod["status"] |= {"podIP": f"10.0.0.{pod['metadata']['uid'].removeprefix('uid-')}"}
                changed = True
            engine = self.answer_of(name)
            if works and self.has_store and not (engine and engine.version):
                pod["status"]["containerStatuses"] = [{"name": "engine", "state": {"running": {}}}]
                if name in self.frozen:
                    changed |= self.report_pod(pod, ready=False)
                continue
            changed |= self.report_pod(pod, ready=works and name not in self.frozen)
        return changed

    def report_pod(self, pod: dict[str, Any], *, ready: bool) -> bool:
        waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
        state = {"running": {}} if ready else {"waiting": waiting}
        conditions = {condition["type"]: condition for condition in pod["status"]["conditions"]}
        before = conditions.get("Ready", {})
        if before.get("status") == str(ready):
            return False
        conditions["Ready"] = {
            "type": "Ready",
            "status": str(ready),
            "lastTransitionTime": timestamp(self.now),
        }
        pod["status"] |= {
            "conditions": list(conditions.values()),
            "containerStatuses": [{"name": "engine", "state": state}],
        }
        return True

    def settle(self, rounds: int = 60) -> Plan:
        """Let everybody take turns until nobody has anything to do."""
        for _ in range(rounds):
            before = copied(self.cluster["status"])
            planned = self.operate()
            busy = bool(planned.actions) or before != self.cluster["status"]
            busy |= self.control()
            busy |= self.run_pods()
            busy |= self.open_shards()
            self.now += timedelta(seconds=1)
            if not busy:
                return planned
        raise AssertionError(f"not settled after {rounds} rounds: {self.cluster['status']}")

    def wait_past_the_deadline(self) -> None:
        self.now += PROGRESS_DEADLINE

    def condition(self, kind: str) -> dict[str, Any]:
        return next(c for c in self.cluster["status"]["conditions"] if c["type"] == kind)

    def _owner(self, live: dict[str, Any]) -> dict[str, Any]:
        return {"kind": "StatefulSet", "name": NAME, "uid": live["metadata"]["uid"], "controller": True}

    def _uid(self) -> str:
        self._uids += 1
        return f"uid-{self._uids}"


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]
