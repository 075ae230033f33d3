"""A GitOps tool at work: it applies the same YAML again and again, and waits by kstatus or the health script."""

from typing import Any

import yaml

from tests.e2e.harness import (
    Installation,
    Operator,
    at_rest,
    comes_true,
    is_ready,
    recording,
)
from tests.e2e.quickstart import NAME, cluster, is_observed, ready_reason
from tests.gitops.judges import ArgoCD, kstatus
from tests.gitops.test_health import AGREE
from tests.kube.controlplane import ControlPlane
from tests.kube.kubelet import Kubelet


async def test_the_same_yaml_makes_no_diff_and_ready_is_never_said_early(
    control_plane: ControlPlane, installation: Installation, operator: Operator, kubelet: Kubelet
) -> None:
    async def become(reason: str, **spec: Any) -> None:
        """Apply the cluster with *spec*, and wait until this is why it is Ready or not."""
        installation.apply(cluster(**spec))
        await comes_true(
            lambda: is_observed(installation.get("vzc", NAME)) and ready_reason(installation) == reason,
            seconds=60,
            why=operator.log,
        )

    smaller = {"cluster": {"maxCacheMemory": "128Mi"}}
    installation.kubectl("create", "configmap", f"{NAME}-config")  # in the way of the operator's own
    async with recording(control_plane, installation.namespace, NAME) as recorder:
        await become("ForeignObjectNotAdopted")
        installation.kubectl("delete", "configmap", f"{NAME}-config")
        await become(
            "PodsReady", service={"annotations": {"a.example/edited": "so that it is looked at now"}}
        )
        await become("Paused", paused=True, **smaller)
        await become("ScaledToZero", replicas=0, **smaller)
        await become("PodsReady", **smaller)
    argo_cd, verdicts = ArgoCD(), kstatus(recorder.states)
    healths = [argo_cd(state)[0] for state in recorder.states]
    assert (verdicts[0], verdicts[-1]) == ("InProgress", "Current")
    assert set(verdicts) == AGREE.keys()
    assert set(healths) == {"Progressing", "Degraded", "Healthy", "Suspended"}
    for state, verdict, health in zip(recorder.states, verdicts, healths, strict=True):
        assert (verdict == "Current") == is_ready(state)
        assert health in AGREE[verdict] or (health == "Suspended" and state["spec"]["paused"])

    writes = at_rest(installation)
    before = installation.get("vzc", NAME)["metadata"]["resourceVersion"]
    wanted = yaml.safe_dump(cluster(**smaller))
    for _ in range(3):
        installation.kubectl("apply", "--server-side", "-f", "-", stdin=wanted)
    assert installation.get("vzc", NAME)["metadata"]["resourceVersion"] == before
    assert (
        installation.kubectl("diff", "--server-side", "-f", "-", stdin=wanted) == ""
    )  # raises for a difference
    assert at_rest(installation) == writes
