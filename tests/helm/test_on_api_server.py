"""What the chart renders for every combination of values that changes what there is, as a real API server judges it.

Why not by kubeconform says decision 13. Of kinds that are not Kubernetes' own there are stand-ins (`foreign_kinds`).
"""

import pytest
import yaml

from tests.helm.chart import CHART, RELEASE, ROOT, helm
from tests.helm.test_monitoring import EVERYTHING, KINDS, PRODUCTION_VALUES
from tests.kube.controlplane import ControlPlane
from tests.kube.foreign_kinds import CERT_MANAGER, PROMETHEUS, make_known

DIGEST = f"sha256:{'a' * 64}"
PULL_SECRETS = "imagePullSecrets[0].name=key"
PLACEMENT = (
    "nodeSelector.pool=system,tolerations[0].operator=Exists,priorityClassName=system-cluster-critical"
)


@pytest.fixture(scope="module")
def with_foreign_kinds(control_plane: ControlPlane) -> ControlPlane:
    """The control plane with what the chart makes besides Kubernetes' own kinds."""
    make_known(control_plane, PROMETHEUS)
    make_known(control_plane, CERT_MANAGER)
    return control_plane


@pytest.mark.parametrize(
    "values",
    [
        (),
        ("--set", "networkPolicy.enabled=true,commonLabels.team=search,podDisruptionBudget.enabled=false"),
        ("--set", "networkPolicy.enabled=true,networkPolicy.metricsFrom[0].podSelector.matchLabels.app=prom"),
        ("--set", "watchNamespaces={default,kube-public}"),
        ("--set", "webhook.certManager.enabled=true,watchNamespaces={default}"),
        ("--set", "webhook.certManager.enabled=true,webhook.certManager.issuerRef.name=ours"),
        (
            "--set",
            f"image.digest={DIGEST},engineImage.digest={DIGEST},webhook.failurePolicy=Ignore,{PULL_SECRETS}",
        ),
        ("--set", PLACEMENT),
        (*EVERYTHING, "--set", "watchNamespaces={default}"),
        ("--values", str(PRODUCTION_VALUES)),
    ],
)
def test_the_api_server_takes_all_that_is_rendered(
    with_foreign_kinds: ControlPlane, namespace: str, values: tuple[str, ...]
) -> None:
    text = helm("template", RELEASE, str(CHART), "--namespace", namespace, *KINDS, *values)
    objects = [each for each in yaml.safe_load_all(text) if each]
    assert len(with_foreign_kinds.dry_run(text)) == len(objects)


def test_the_api_server_takes_the_monitor_for_a_cluster_with_a_key(
    with_foreign_kinds: ControlPlane, namespace: str
) -> None:
    monitor = yaml.safe_load((ROOT / "examples" / "monitoring" / "cluster-with-key.yaml").read_text())
    monitor["metadata"]["namespace"] = namespace
    assert len(with_foreign_kinds.dry_run(yaml.safe_dump(monitor))) == 1


def test_the_clusters_of_the_kustomize_example_are_taken(control_plane: ControlPlane, namespace: str) -> None:
    crd = ROOT / "crds" / "vectorizerclusters.vectorizer.io.yaml"
    control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(crd))
    control_plane.kubectl("wait", "--for=condition=Established", "crd/vectorizerclusters.vectorizer.io")
    for folder in ("base", "overlays/production"):
        text = control_plane.kubectl("kustomize", str(ROOT / "examples" / "kustomize" / folder))
        (cluster,) = yaml.safe_load_all(text)
        assert cluster["kind"] == "VectorizerCluster"
        cluster["metadata"]["namespace"] = namespace
        control_plane.kubectl(
            "apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=yaml.safe_dump(cluster)
        )
