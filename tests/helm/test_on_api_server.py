"""What the chart renders for every combination of values that changes what there is, as a real API server judges it.

Not by kubeconform: it holds objects against schemas that it fetches, and knows neither defaults, nor CEL, nor what only
the server's own validation finds (a port twice, a wrong label). A strict dry run on the server has all of that.
"""

import pytest
import yaml

from tests.helm.chart import CHART, RELEASE, ROOT, helm
from tests.kube.controlplane import ControlPlane

DIGEST = f"sha256:{'a' * 64}"
PULL_SECRETS = "imagePullSecrets[0].name=key"
PLACEMENT = (
    "nodeSelector.pool=system,tolerations[0].operator=Exists,priorityClassName=system-cluster-critical"
)


@pytest.mark.parametrize(
    "settings",
    [
        "",
        "networkPolicy.enabled=true,commonLabels.team=search,podDisruptionBudget.enabled=false",
        "networkPolicy.enabled=true,networkPolicy.metricsFrom[0].podSelector.matchLabels.app=prometheus",
        "watchNamespaces={default,kube-public}",
        "webhook.certManager.enabled=true,watchNamespaces={default}",
        f"image.digest={DIGEST},engineImage.digest={DIGEST},webhook.failurePolicy=Ignore,{PULL_SECRETS}",
        PLACEMENT,
    ],
)
def test_the_api_server_takes_all_that_is_rendered(
    control_plane: ControlPlane, namespace: str, settings: str
) -> None:
    text = helm("template", RELEASE, str(CHART), "--namespace", namespace, "--set", settings)
    objects = [each for each in yaml.safe_load_all(text) if each]
    ours = [each for each in objects if not each["apiVersion"].startswith("cert-manager.io/")]
    said = control_plane.kubectl(
        *("apply", "--dry-run=server", "--server-side", "--force-conflicts", "--validate=strict", "-f", "-"),
        stdin=yaml.safe_dump_all(ours),
    )
    assert len(said.splitlines()) == len(ours)


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
