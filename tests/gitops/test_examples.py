"""The examples for Argo CD and Flux: what they name is there, and fits together."""

import json
from typing import Any

import pytest
import yaml

from tests.gitops.judges import GITOPS, ROOT
from tests.helm.chart import helm
from tests.kube.controlplane import ControlPlane
from tests.kube.foreign_kinds import ARGO_CD, FLUX, make_known

Object = dict[str, Any]


def documents(name: str) -> dict[tuple[str, str], Object]:
    objects = yaml.safe_load_all((GITOPS / name).read_text())
    return {(each["kind"], each["metadata"]["name"]): each for each in objects}


def rendered(path: str, values: Object, namespace: str) -> list[Object]:
    text = helm("template", "release", str(ROOT / path), "-n", namespace, "--set-json", _as_json(values))
    return [each for each in yaml.safe_load_all(text) if each]


def _as_json(values: Object) -> str:
    return ",".join(f"{key}={json.dumps(value)}" for key, value in values.items())


def argo_cd() -> tuple[str, Object, str]:
    source = documents("argo-cd/applications.yaml")["Application", "vectorizer-operator"]["spec"]["source"]
    clusters = documents("argo-cd/applications.yaml")["Application", "search-clusters"]["spec"]["source"]
    return source["path"], source["helm"]["valuesObject"], clusters["path"]


def flux() -> tuple[str, Object, str]:
    release = documents("flux/operator.yaml")["HelmRelease", "vectorizer-operator"]["spec"]
    clusters = documents("flux/clusters.yaml")["Kustomization", "search-clusters"]["spec"]
    sources = documents("flux/operator.yaml")
    for reference in (release["chart"]["spec"]["sourceRef"], clusters["sourceRef"]):
        assert (reference["kind"], reference["name"]) in sources
    return release["chart"]["spec"]["chart"], release["values"], clusters["path"]


@pytest.mark.parametrize("tool", [argo_cd, flux])
def test_chart_values_and_clusters_of_an_example_are_there(tool: Any, control_plane: ControlPlane) -> None:
    chart, values, clusters = tool()
    kinds = {each["kind"] for each in rendered(chart, values, "vectorizer-system")}
    assert {"Deployment", "ValidatingWebhookConfiguration", "NetworkPolicy"} <= kinds
    (cluster,) = yaml.safe_load_all(control_plane.kubectl("kustomize", str(ROOT / clusters)))
    assert cluster["kind"] == "VectorizerCluster"
    assert cluster["metadata"]["namespace"] == "search-production"


@pytest.mark.parametrize(("folder", "kinds"), [("argo-cd", ARGO_CD), ("flux", FLUX)], ids=["Argo CD", "Flux"])
def test_the_objects_of_an_example_are_taken_with_every_field(
    folder: str, kinds: tuple[Object, ...], control_plane: ControlPlane, namespace: str
) -> None:
    make_known(control_plane, kinds)
    for file in (GITOPS / folder).glob("*.yaml"):
        objects = list(documents(f"{folder}/{file.name}").values())
        for each in objects:
            if "namespace" in each["metadata"]:
                each["metadata"]["namespace"] = namespace  # the tools' own is not there
        assert len(control_plane.dry_run(yaml.safe_dump_all(objects))) == len(objects)


def argo_cd_namespaces() -> set[str]:
    applications = documents("argo-cd/applications.yaml").values()
    specs = [each["spec"] for each in applications]
    return {
        spec["destination"]["namespace"]
        for spec in specs
        if "CreateNamespace=true" in spec["syncPolicy"]["syncOptions"]
    }


def flux_namespaces() -> set[str]:
    release = documents("flux/operator.yaml")["HelmRelease", "vectorizer-operator"]["spec"]
    made = {name for kind, name in documents("flux/clusters.yaml") if kind == "Namespace"}
    return made | ({release["targetNamespace"]} if release["install"]["createNamespace"] else set())


@pytest.mark.parametrize(
    ("page", "tool", "namespaces"),
    [
        ("argo-cd/applications.yaml", argo_cd, argo_cd_namespaces),
        ("flux/clusters.yaml", flux, flux_namespaces),
    ],
    ids=["Argo CD", "Flux"],
)
def test_an_example_makes_every_namespace_and_says_which_secret_it_does_not(
    page: str, tool: Any, namespaces: Any, control_plane: ControlPlane
) -> None:
    (cluster,) = yaml.safe_load_all(control_plane.kubectl("kustomize", str(ROOT / tool()[2])))
    namespace = cluster["metadata"]["namespace"]
    assert namespaces() == {"vectorizer-system", namespace}
    secret = cluster["spec"]["auth"]["apiKeySecretRef"]["name"]
    assert f"kubectl -n {namespace} create secret generic {secret}" in (GITOPS / page).read_text()


def test_the_authority_that_the_operator_fills_in_is_no_drift() -> None:
    application = documents("argo-cd/applications.yaml")["Application", "vectorizer-operator"]["spec"]
    release = documents("flux/operator.yaml")["HelmRelease", "vectorizer-operator"]["spec"]
    objects = rendered("helm/vectorizer-operator", {}, "vectorizer-system")
    (webhooks,) = [each["webhooks"] for each in objects if each["kind"] == "ValidatingWebhookConfiguration"]
    assert len(webhooks) == 1
    assert [each["kind"] for each in application["ignoreDifferences"]] == ["ValidatingWebhookConfiguration"]
    (ignored,) = release["driftDetection"]["ignore"]
    assert ignored["paths"] == ["/webhooks/0/clientConfig/caBundle"]
