"""Tenants at every door of the operator: what cannot be served is refused, the rest is what the engine takes."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from tests.doors.test_live_doors import create
from tests.kube.controlplane import CommandError, ControlPlane
from vectorizer_engine.config import ConfigError, parse_config
from vectorizer_operator.api import VectorizerCluster
from vectorizer_operator.api.crd import crd
from vectorizer_operator.api.problems import structural_problems
from vectorizer_operator.cli import ctl_main
from vectorizer_operator.manifests import config_yaml, render
from vectorizer_operator.plan import Observed, plan

ACME = {"name": "acme", "apiKeySecretRef": {"name": "keys", "key": "acme"}}
GLOBEX = {"name": "globex", "apiKeySecretRef": {"name": "globex"}}
ENGINE_KEY = {"auth": {"apiKeySecretRef": {"name": "keys", "key": "admin"}}}


def cluster(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "vectorizer.io/v1",
        "kind": "VectorizerCluster",
        "metadata": {"name": "shared"},
        "spec": ENGINE_KEY | spec,
    }


QUOTA = "tenants[].memoryQuota has to be a size above 0 and up to spec.cluster.maxCacheMemory"
OWN_KEY = (
    "a key tells who asks: every reference of spec.auth and spec.tenants needs a Secret's key of its own"
)

BAD = {
    "no-key-of-the-engine": (
        cluster(auth={}, tenants=[ACME]),
        "tenants need spec.auth.apiKeySecretRef",
        "tenants acme without it",
    ),
    "quota-over-the-limit": (
        cluster(cluster={"maxCacheMemory": "64Mi"}, tenants=[ACME, GLOBEX | {"memoryQuota": "65Mi"}]),
        QUOTA,
        "65Mi for globex",
    ),
    "quota-over-the-default-limit": (cluster(tenants=[ACME | {"memoryQuota": "2Gi"}]), QUOTA, "2Gi for acme"),
    "quota-of-nothing": (cluster(tenants=[ACME | {"memoryQuota": "0"}]), QUOTA, "0 for acme"),
    "quota-of-lots": (cluster(tenants=[ACME | {"memoryQuota": "lots"}]), QUOTA, "lots for acme"),
    "one-key-for-two": (
        cluster(tenants=[ACME, GLOBEX | {"apiKeySecretRef": ACME["apiKeySecretRef"]}]),
        OWN_KEY,
        "keys/acme more than once",
    ),
    "the-engines-key": (
        cluster(tenants=[GLOBEX | {"readOnlyApiKeySecretRef": {"name": "keys", "key": "admin"}}]),
        OWN_KEY,
        "keys/admin more than once",
    ),
    "the-engines-key-to-read": (
        cluster(
            auth=ENGINE_KEY["auth"] | {"readOnlyApiKeySecretRef": ACME["apiKeySecretRef"]}, tenants=[ACME]
        ),
        OWN_KEY,
        "keys/acme more than once",
    ),
    "the-engines-key-to-read-and-write": (
        cluster(auth={"apiKeySecretRef": {"name": "keys"}, "readOnlyApiKeySecretRef": {"name": "keys"}}),
        OWN_KEY,
        "keys/api-key more than once",
    ),
    "a-key-to-read-alone": (
        cluster(auth={"readOnlyApiKeySecretRef": {"name": "keys"}}),
        "readOnlyApiKeySecretRef needs apiKeySecretRef, or nobody could write",
        "readOnlyApiKeySecretRef alone",
    ),
    "one-key-to-read-and-write": (
        cluster(tenants=[GLOBEX | {"readOnlyApiKeySecretRef": {"name": "globex"}}]),
        OWN_KEY,
        "globex/api-key more than once",
    ),
}
"""The cluster, what every door says, and what those that show values add."""

UNFIT: dict[str, tuple[dict[str, Any], str, str]] = {
    "same-name": (
        cluster(tenants=[ACME, GLOBEX | {"name": "acme"}]),
        "expected each name once",
        "Duplicate value",
    ),
    "no-name": (
        cluster(tenants=[{"apiKeySecretRef": {"name": "k"}}]),
        "spec.tenants[0].name: required",
        "name",
    ),
    "no-key": (
        cluster(tenants=[{"name": "a"}]),
        "spec.tenants[0].apiKeySecretRef: required",
        "Required value",
    ),
    "bad-name": (cluster(tenants=[ACME | {"name": "Acme_"}]), "spec.tenants[0].name: ", "should match"),
    "unknown-field": (
        cluster(tenants=[ACME | {"memoryQuotas": "1Mi"}]),
        "spec.tenants[0].memoryQuotas: unknown field; did you mean memoryQuota?",
        'unknown field "spec.tenants[0].memoryQuotas"',
    ),
    "too-many": (
        cluster(tenants=[{"name": f"t{i}", "apiKeySecretRef": {"name": f"t{i}"}} for i in range(65)]),
        "spec.tenants: ",
        "at most 64",
    ),
}
"""The cluster, and what is said of its shape: by us, and by the API server."""


def in_cluster(raw: dict[str, Any]) -> dict[str, Any]:
    return {**raw, "metadata": {**raw["metadata"], "namespace": "default", "uid": "u1", "generation": 1}}


@pytest.mark.parametrize("case", BAD)
def test_validate_and_the_operator_refuse_each_with_the_same_words(case: str) -> None:
    raw, expected, shown = BAD[case]
    result = CliRunner().invoke(ctl_main, ["validate", "-"], input=yaml.safe_dump(raw))
    assert result.exit_code == 1
    assert expected in result.stdout and shown in result.stdout
    planned = plan(Observed(cluster=in_cluster(raw)), now=datetime.now(UTC), default_image="engine:1")
    assert planned.actions == ()
    ready = next(each for each in planned.status["conditions"] if each["type"] == "Ready")
    assert ready["status"] == "False" and expected in ready["message"]


@pytest.mark.parametrize("case", UNFIT)
def test_what_has_the_wrong_shape_is_named_with_its_place(case: str) -> None:
    raw, expected, _ = UNFIT[case]
    assert any(expected in str(problem) for problem in structural_problems(raw)), structural_problems(raw)


@pytest.fixture(scope="module")
def definition(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    control_plane.kubectl(
        "apply", "--server-side", "--force-conflicts", "-f", "-", stdin=yaml.safe_dump(crd())
    )
    control_plane.kubectl("wait", "--for=condition=Established", "crd/vectorizerclusters.vectorizer.io")
    yield control_plane


def refusal(control_plane: ControlPlane, namespace: str, raw: dict[str, Any]) -> str:
    with pytest.raises(CommandError) as refused:
        create(control_plane, namespace, raw, dry_run=True)
    return str(refused.value)


class TestTheApiServer:
    """With no webhook at all."""

    @pytest.mark.parametrize("case", BAD)
    def test_it_refuses_each_with_the_same_words(
        self, definition: ControlPlane, namespace: str, case: str
    ) -> None:
        raw, expected, _ = BAD[case]
        assert expected in refusal(definition, namespace, raw)

    @pytest.mark.parametrize("case", UNFIT)
    def test_it_refuses_what_has_the_wrong_shape(
        self, definition: ControlPlane, namespace: str, case: str
    ) -> None:
        raw, _, expected = UNFIT[case]
        assert expected in refusal(definition, namespace, raw)

    def test_it_takes_as_many_as_there_may_be(self, definition: ControlPlane, namespace: str) -> None:
        tenants = [
            {"name": f"t{i}", "apiKeySecretRef": {"name": f"t{i}"}, "memoryQuota": "1Gi"} for i in range(64)
        ]
        auth = ENGINE_KEY["auth"] | {"readOnlyApiKeySecretRef": {"name": "keys", "key": "reader"}}
        create(definition, namespace, cluster(auth=auth, tenants=tenants), dry_run=True)
        create(
            definition, namespace, cluster(auth={}, tenants=[]) | {"metadata": {"name": "b"}}, dry_run=True
        )


def test_what_is_rendered_is_a_configuration_that_the_engine_takes(tmp_path: Path) -> None:
    """Every key file that the configuration names is in the volume, and none of the keys elsewhere."""
    documents = [*yaml.safe_load_all(Path("examples/multi-tenant.yaml").read_text())]
    shared = VectorizerCluster.parse(documents[0])
    objects = {each["kind"]: each for each in render(shared, default_image="engine:1")}
    pod = objects["StatefulSet"]["spec"]["template"]["spec"]
    [mount] = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "tenants"]
    [volume] = [each for each in pod["volumes"] if each["name"] == "tenants"]
    for source in volume["projected"]["sources"]:
        [item] = source["secret"]["items"]
        file = tmp_path / item["path"]
        file.parent.mkdir(exist_ok=True)
        file.write_text(documents[1]["stringData"][item["key"]])

    text = objects["ConfigMap"]["data"]["config.yml"]
    assert text == config_yaml(shared)
    raw = yaml.safe_load(text.replace(mount["mountPath"], str(tmp_path))) | {
        "auth": {"api_key": "change-me-admin"}
    }
    tenants = {tenant.name: tenant for tenant in parse_config(raw).active_tenants}
    assert tenants.keys() == {"acme", "globex"}
    assert tenants["acme"].api_key_file.get_secret_value() == "change-me-acme"
    assert tenants["globex"].memory_quota_bytes == 96 * 1024**2
    assert "change-me" not in yaml.safe_dump(objects)
    with pytest.raises(ConfigError, match="api_key_file: cannot be read"):
        parse_config(yaml.safe_load(text))
