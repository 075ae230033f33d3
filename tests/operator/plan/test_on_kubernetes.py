"""The traps that real Kubernetes sets: values that servers add, fields that cannot change, pods that never start."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.harness import Installation, Object, Operator, condition_of, is_ready
from tests.e2e.quickstart import NAME, QUICKSTART
from tests.kube.controlplane import CommandError, ControlPlane
from tests.kube.eventually import eventually
from tests.kube.kubelet import Kubelet
from tests.operator.manifests.golden import FOLDER, RELEASE
from vectorizer_operator.api import FIELD_MANAGER, VectorizerCluster
from vectorizer_operator.manifests import child_refs, render
from vectorizer_operator.plan import CreateSecret, Observed, plan

GROWN = {"type": "mmap", "size": "3Gi"}
GOLDEN = sorted((FOLDER / RELEASE).glob("*.cluster.yaml"))


@pytest.mark.parametrize("case", GOLDEN, ids=lambda path: path.name.partition(".")[0])
def test_what_the_api_server_makes_of_the_children_is_no_drift(
    control_plane: ControlPlane, namespace: str, case: Path
) -> None:
    raw = yaml.safe_load(case.read_text())
    raw["metadata"] |= {
        "namespace": namespace,
        "uid": "6f1c2c52-0d5c-4f3e-9c0b-0f4c1d8a7e11",
        "generation": 1,
    }
    raw["spec"] |= {"paused": False}
    raw["spec"].setdefault(
        "resources", {"requests": {"cpu": "0.5", "memory": "0.5Gi"}, "limits": {"memory": "2048Mi"}}
    )
    desired = render(VectorizerCluster.parse(raw), default_image="engine:1")
    for child in desired:  # whose owner does not exist would be collected
        control_plane.kubectl(
            "apply", "--server-side", f"--field-manager={FIELD_MANAGER}", "-f", "-",
            stdin=yaml.safe_dump({**child, "metadata": {**child["metadata"], "ownerReferences": []}}),
        )  # fmt: skip
    observed = {}
    for ref in child_refs(raw["metadata"]["name"]):
        arguments = (
            "get",
            ref.kind.lower(),
            ref.name,
            f"--namespace={namespace}",
            "--ignore-not-found",
            "-o",
            "json",
        )
        text = control_plane.kubectl(*arguments)
        if text:
            live = json.loads(text)
            owned = next(
                child
                for child in desired
                if (child["kind"], child["metadata"]["name"]) == (ref.kind, ref.name)
            )
            live["metadata"]["ownerReferences"] = owned["metadata"]["ownerReferences"]
            observed[ref.kind, ref.name] = live
    planned = plan(Observed(cluster=raw, children=observed), now=datetime.now(UTC), default_image="engine:1")
    assert len(observed) == len(desired)
    # The Secret of engines over one store is made once, and not rendered.
    assert [action.why for action in planned.actions if not isinstance(action, CreateSecret)] == []


@pytest.mark.parametrize("case", GOLDEN, ids=lambda path: path.name.partition(".")[0])
def test_a_namespace_that_enforces_the_restricted_standard_takes_the_pods(
    control_plane: ControlPlane, namespace: str, case: Path
) -> None:
    control_plane.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    children = render(VectorizerCluster.parse(yaml.safe_load(case.read_text())), default_image="engine:1")
    template = children[-1]["spec"]["template"]
    elsewhere = ("priorityClassName", "serviceAccountName")
    spec = {key: value for key, value in template["spec"].items() if key not in elsewhere}
    volumes = [*spec["volumes"], {"name": "data", "emptyDir": {}}]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "demo-0"},
        "spec": {**spec, "volumes": volumes},
    }
    create = ("create", f"--namespace={namespace}", "--dry-run=server", "-f", "-")
    control_plane.kubectl(*create, stdin=yaml.safe_dump(pod))
    spec["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    with pytest.raises(CommandError, match="violates PodSecurity"):
        control_plane.kubectl(*create, stdin=yaml.safe_dump(pod))


def apply(installation: Installation, **spec: Any) -> None:
    installation.apply({**QUICKSTART, "spec": {**QUICKSTART["spec"], **spec}})


def ready(installation: Installation, operator: Operator) -> Object:
    """The cluster, as soon as it is ready for its newest generation."""
    return eventually(
        lambda: (cluster := installation.get("vzc", NAME)) and is_ready(cluster) and cluster,
        seconds=60,
        why=operator.log,
    )


@pytest.mark.timeout(240)
def test_growing_failing_stopping_and_starting_again(
    installation: Installation, operator: Operator, kubelet: Kubelet
) -> None:
    apply(installation)
    ready(installation, operator)
    first = installation.get("pod", f"{NAME}-0")
    stateful_set = installation.get("statefulset", NAME)

    # A bigger volume: the claim grows, the StatefulSet is made anew, the pod never notices.
    apply(installation, storage=GROWN)
    ready(installation, operator)
    claim = installation.get("pvc", f"data-{NAME}-0")
    assert claim["spec"]["resources"]["requests"]["storage"] == "3Gi"
    made = installation.get("statefulset", NAME)
    assert made["metadata"]["uid"] != stateful_set["metadata"]["uid"]
    pod = installation.get("pod", f"{NAME}-0")
    assert pod["metadata"]["uid"] == first["metadata"]["uid"]
    assert pod["metadata"]["ownerReferences"][0]["uid"] == made["metadata"]["uid"]
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 0

    # A spec with which the engine cannot start, and the next one that can: the broken pod is not waited for.
    apply(installation, storage=GROWN, podTemplate={"env": [{"name": "PYTHONHOME", "value": "/nowhere"}]})

    def failing() -> bool:
        cluster = installation.get("vzc", NAME)
        message = condition_of(cluster, "Ready").get("message", "")
        return (
            f"pod {NAME}-0" in message
            and cluster["status"].get("updatedReplicas") == 1
            and not is_ready(cluster)
        )

    eventually(failing, seconds=60, why=operator.log)
    broken = installation.get("pod", f"{NAME}-0")
    apply(installation, storage=GROWN)
    ready(installation, operator)
    assert installation.get("pod", f"{NAME}-0")["metadata"]["uid"] != broken["metadata"]["uid"]

    # Stopped, the data stays; started again, it is found.
    installation.kubectl("scale", f"vzc/{NAME}", "--replicas=0")
    stopped = ready(installation, operator)
    assert stopped["status"]["replicas"] == 0
    assert installation.get("pvc", f"data-{NAME}-0")["metadata"]["uid"] == claim["metadata"]["uid"]
    installation.kubectl("scale", f"vzc/{NAME}", "--replicas=1")
    assert ready(installation, operator)["status"]["readyReplicas"] == 1
