"""A GitOps tool at work: it applies the same YAML again and again, and waits by kstatus or the health script."""

import yaml

from tests.e2e.harness import Installation, Operator, at_rest, comes_true, is_ready, recording
from tests.e2e.quickstart import NAME, cluster
from tests.gitops.judges import ArgoCD, kstatus
from tests.kube.controlplane import ControlPlane
from tests.kube.kubelet import Kubelet


async def test_the_same_yaml_makes_no_diff_and_ready_is_never_said_early(
    control_plane: ControlPlane, installation: Installation, operator: Operator, kubelet: Kubelet
) -> None:
    def ready() -> bool:
        return is_ready(installation.get("vzc", NAME))

    async with recording(control_plane, installation.namespace, NAME) as recorder:
        installation.apply(cluster())
        await comes_true(ready, seconds=60)
        installation.apply(cluster(cluster={"maxCacheMemory": "128Mi"}))
        await comes_true(ready, seconds=60)
    verdicts = kstatus(recorder.states)
    assert verdicts[0] == "InProgress"
    assert verdicts[-1] == "Current"
    for state, verdict in zip(recorder.states, verdicts, strict=True):
        assert (verdict == "Current") == is_ready(state)
        assert (ArgoCD()(state)[0] == "Healthy") == is_ready(state)

    writes = at_rest(installation)
    before = installation.get("vzc", NAME)["metadata"]["resourceVersion"]
    wanted = yaml.safe_dump(cluster(cluster={"maxCacheMemory": "128Mi"}))
    for _ in range(3):
        installation.kubectl("apply", "--server-side", "-f", "-", stdin=wanted)
    assert installation.get("vzc", NAME)["metadata"]["resourceVersion"] == before
    assert (
        installation.kubectl("diff", "--server-side", "-f", "-", stdin=wanted) == ""
    )  # raises for a difference
    assert at_rest(installation) == writes
