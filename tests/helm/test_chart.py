"""The chart without a cluster: what it renders, and what values it refuses."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.helm.chart import CHART, NAMESPACE, RELEASE, ROOT, HelmError, Object, helm, only, rendered
from vectorizer_operator.controller.main import run


@pytest.fixture(scope="module")
def objects() -> dict[tuple[str, str], Object]:
    return rendered()


def test_helm_finds_nothing_to_complain_about() -> None:
    helm("lint", "--strict", str(CHART))


def test_everything_is_named_and_labelled_as_part_of_the_release(
    objects: dict[tuple[str, str], Object],
) -> None:
    for (kind, name), each in objects.items():
        if kind == "CustomResourceDefinition":
            continue
        assert name.startswith("vectorizer-operator")
        labels = each["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "vectorizer-operator"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"


def test_the_definition_is_the_generated_one_and_stays_when_the_release_goes(
    objects: dict[tuple[str, str], Object],
) -> None:
    shipped = only(objects, "CustomResourceDefinition")
    assert shipped["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    (generated,) = (ROOT / "crds").glob("*.yaml")
    assert shipped == yaml.safe_load(generated.read_text())


def test_the_certificate_authority_is_left_to_the_operator(objects: dict[tuple[str, str], Object]) -> None:
    (webhook,) = only(objects, "ValidatingWebhookConfiguration")["webhooks"]
    assert "caBundle" not in webhook["clientConfig"]


def test_the_webhook_is_asked_for_five_seconds_and_refuses_when_it_does_not_answer(
    objects: dict[tuple[str, str], Object],
) -> None:
    (webhook,) = only(objects, "ValidatingWebhookConfiguration")["webhooks"]
    assert webhook["timeoutSeconds"] == 5
    assert webhook["failurePolicy"] == "Fail"
    (lenient,) = only(rendered("--set", "webhook.failurePolicy=Ignore"), "ValidatingWebhookConfiguration")[
        "webhooks"
    ]
    assert lenient["failurePolicy"] == "Ignore"


def test_the_operators_arguments_name_what_the_chart_makes(objects: dict[tuple[str, str], Object]) -> None:
    (container,) = only(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    command, *arguments = container["args"]
    assert command == "run"
    options = run.make_context("run", [*arguments, "--operator-namespace", NAMESPACE]).params
    configuration = only(objects, "ValidatingWebhookConfiguration")
    service = configuration["webhooks"][0]["clientConfig"]["service"]
    assert options["webhook_configuration"] == configuration["metadata"]["name"]
    assert options["webhook_hosts"] == (f"{service['name']}.{service['namespace']}.svc",)
    assert ("Service", service["name"]) in objects
    allowed = {name for rule in only(objects, "Role")["rules"] for name in rule.get("resourceNames", ())}
    assert allowed == {options["lease"], options["webhook_secret"]}
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"webhook": options["webhook_port"], "health": options["health_port"]}


def test_an_empty_tag_is_the_charts_own_version(objects: dict[tuple[str, str], Object]) -> None:
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    (container,) = only(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"vectorizer-operator:{version}"
    assert f"--default-image=vectorizer:{version}" in container["args"]


def test_images_resources_and_placement_follow_the_values() -> None:
    deployment = only(
        rendered(
            *(
                "--set",
                "replicas=3",
                "--set",
                "image.repository=registry.example/op",
                "--set",
                "image.tag=1.2",
            ),
            *("--set", "engineImage.repository=registry.example/engine", "--set", "engineImage.tag=3.4"),
            *("--set", "imagePullSecrets[0].name=key", "--set", "resources.limits.memory=1Gi"),
            *("--set", "nodeSelector.pool=system", "--set", "tolerations[0].operator=Exists"),
            *("--set", "priorityClassName=system-cluster-critical", "--set", "logLevel=debug"),
            *("--set-json", 'affinity={"nodeAffinity":{}}'),
        ),
        "Deployment",
    )
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert deployment["spec"]["replicas"] == 3
    assert container["image"] == "registry.example/op:1.2"
    assert {"--default-image=registry.example/engine:3.4", "--log-level=debug"} <= set(container["args"])
    assert pod["imagePullSecrets"] == [{"name": "key"}]
    assert container["resources"]["limits"]["memory"] == "1Gi"
    assert pod["nodeSelector"] == {"pool": "system"}
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert pod["priorityClassName"] == "system-cluster-critical"
    assert pod["affinity"] == {"nodeAffinity": {}}


DIGEST = f"sha256:{'a' * 64}"


def test_images_may_be_pinned_by_digest() -> None:
    settings = ("--set", f"image.digest={DIGEST}", "--set", f"engineImage.digest={DIGEST}")
    (container,) = only(rendered(*settings), "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"vectorizer-operator:0.1.0@{DIGEST}"
    assert f"--default-image=vectorizer:0.1.0@{DIGEST}" in container["args"]


def test_common_labels_are_on_everything_and_select_nothing(objects: dict[tuple[str, str], Object]) -> None:
    labelled = rendered("--set", "commonLabels.team=search", "--set", "networkPolicy.enabled=true")
    for (kind, name), each in labelled.items():
        if kind != "CustomResourceDefinition":
            assert each["metadata"]["labels"]["team"] == "search", name
    deployment, before = (only(each, "Deployment") for each in (labelled, objects))
    assert deployment["spec"]["template"]["metadata"]["labels"]["team"] == "search"
    assert deployment["spec"]["selector"] == before["spec"]["selector"]


def test_named_namespaces_need_rights_and_reviews_there_only() -> None:
    chosen = rendered("--set", "watchNamespaces={a,b}")
    roles = {each["metadata"]["namespace"]: each for (kind, _), each in chosen.items() if kind == "Role"}
    everywhere = only(rendered(), "ClusterRole")["rules"]
    hook_right = only(chosen, "ClusterRole")["rules"]
    assert [rule["resources"] for rule in hook_right] == [["validatingwebhookconfigurations"]]
    every_role = _documents("Role", "watchNamespaces={a,b}")
    assert sorted(each["metadata"]["namespace"] for each in every_role) == ["a", "b", NAMESPACE]
    assert roles["b"]["rules"] + hook_right == everywhere
    bindings = _documents("RoleBinding", "watchNamespaces={a,b}")
    assert {binding["subjects"][0]["namespace"] for binding in bindings} == {NAMESPACE}
    (webhook,) = only(chosen, "ValidatingWebhookConfiguration")["webhooks"]
    (selected,) = webhook["namespaceSelector"]["matchExpressions"]
    assert selected == {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["a", "b"]}
    (container,) = only(chosen, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert [each for each in container["args"] if each.startswith("--namespace")] == [
        "--namespace=a",
        "--namespace=b",
    ]


def test_cert_manager_makes_the_certificate_that_the_operator_then_mounts() -> None:
    managed = rendered("--set", "webhook.certManager.enabled=true", "--set", "watchNamespaces={a}")
    certificate, issuer = only(managed, "Certificate"), only(managed, "Issuer")
    assert certificate["spec"]["issuerRef"]["name"] == issuer["metadata"]["name"]
    configuration = only(managed, "ValidatingWebhookConfiguration")
    service = configuration["webhooks"][0]["clientConfig"]["service"]
    assert certificate["spec"]["dnsNames"] == [f"{service['name']}.{service['namespace']}.svc"]
    injected = configuration["metadata"]["annotations"]["cert-manager.io/inject-ca-from"]
    assert injected == f"{NAMESPACE}/{certificate['metadata']['name']}"
    pod = only(managed, "Deployment")["spec"]["template"]["spec"]
    (volume,) = [each for each in pod["volumes"] if "secret" in each]
    assert volume["secret"]["secretName"] == certificate["spec"]["secretName"]
    (container,) = pod["containers"]
    (mount,) = [each for each in container["volumeMounts"] if each["name"] == volume["name"]]
    assert f"--webhook-certificate={mount['mountPath']}" in container["args"]
    # Whoever keeps no certificate needs no right to change Secrets, nor to the webhook's configuration.
    rules = [rule for (kind, _), each in managed.items() if kind.endswith("Role") for rule in each["rules"]]
    assert [rule["verbs"] for rule in rules if "secrets" in rule["resources"]] == [["get", "create"]]
    assert "validatingwebhookconfigurations" not in json.dumps(rules)


def test_an_issuer_that_there_is_already_is_used() -> None:
    settings = ("webhook.certManager.enabled=true", "webhook.certManager.issuerRef.name=ours")
    managed = rendered(*(word for setting in settings for word in ("--set", setting)))
    reference = only(managed, "Certificate")["spec"]["issuerRef"]
    assert reference == {"name": "ours", "kind": "Issuer", "group": "cert-manager.io"}
    assert not any(kind == "Issuer" for kind, _ in managed)


def test_the_network_policy_names_the_ports_that_the_container_has() -> None:
    metrics = 'networkPolicy.metricsFrom=[{"namespaceSelector":{}}]'
    chosen = rendered("--set", "networkPolicy.enabled=true", "--set-json", metrics)
    policy = only(chosen, "NetworkPolicy")["spec"]
    (container,) = only(chosen, "Deployment")["spec"]["template"]["spec"]["containers"]
    webhook, health = policy["ingress"]
    assert {rule["ports"][0]["port"] for rule in (webhook, health)} == {
        port["name"] for port in container["ports"]
    }
    assert "from" not in webhook
    assert health["from"] == [{"namespaceSelector": {}}]
    assert [port["port"] for port in policy["egress"][0]["ports"]] == [443, 6443]
    assert not any(kind == "NetworkPolicy" for kind, _ in rendered())


def test_the_disruption_budget_can_be_left_out() -> None:
    without = rendered("--set", "podDisruptionBudget.enabled=false")
    assert not any(kind == "PodDisruptionBudget" for kind, _ in without)


def _documents(kind: str, *settings: str) -> list[Object]:
    """Every object of a kind: those of several namespaces share their names."""
    arguments = [word for setting in settings for word in ("--set", setting)]
    text = helm("template", RELEASE, str(CHART), "--namespace", NAMESPACE, *arguments)
    return [each for each in yaml.safe_load_all(text) if each and each["kind"] == kind]


def test_long_release_names_still_make_valid_object_names() -> None:
    text = helm("template", "r" * 53, str(CHART), "--namespace", "n" * 63)
    for each in filter(None, yaml.safe_load_all(text)):
        limit = 253 if "namespace" not in each["metadata"] else 63
        assert len(each["metadata"]["name"]) <= limit


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("replicas=0", "/replicas"),
        ("replica=2", "replica"),
        ("webhook.failurePolicy=Maybe", "/webhook/failurePolicy"),
        ("webhook.timeoutSeconds=31", "/webhook/timeoutSeconds"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("image.repository=", "/image/repository"),
        ("image.digest=x", "/image/digest"),
        ("engineImage.digest=sha256:abc", "/engineImage/digest"),
        ("watchNamespaces[0]=Search", "/watchNamespaces/0"),
        ("commonLabels.app\\.kubernetes\\.io/name=x", "app.kubernetes.io/name"),
        ("webhook.certManager.enable=true", "enable"),
        ("webhook.certManager.issuerRef.kind=", "/webhook/certManager/issuerRef/kind"),
        ("podDisruptionBudget.enabled=1", "/podDisruptionBudget/enabled"),
        ("networkPolicy.apiServerPorts=null", "apiServerPorts"),
        ("networkPolicy.apiServerPorts[0]=0", "/networkPolicy/apiServerPorts/0"),
        ("imagePullSecrets[0].nam=x", "/imagePullSecrets/0"),
        ("resources.limit.memory=1Gi", "limit"),
        ("logLevel=loud", "/logLevel"),
        ("monitoring.prometheusRule.runbooks=wiki", "/monitoring/prometheusRule/runbooks"),
        ("monitoring.dashboards.enabled=true", "dashboards"),
    ],
)
def test_values_that_mean_nothing_are_refused_by_name(setting: str, complaint: str) -> None:
    with pytest.raises(HelmError, match="values don't meet the specifications of the schema") as refused:
        rendered("--set", setting)
    assert complaint in str(refused.value)


def test_every_value_is_described_and_every_description_has_a_value() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    described = dict(_leaves(schema))
    assert all(described.values()), [path for path, text in described.items() if not text]
    assert set(_paths(values)) == set(described) - {"global"}


def _leaves(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, str | None]]:
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}".lstrip(".")
        if "properties" in field:
            assert field.get("description"), here
            yield from _leaves(field, here)
        else:
            yield here, field.get("description")


def _paths(values: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, value in values.items():
        here = f"{path}.{name}".lstrip(".")
        if isinstance(value, dict) and value and here not in ("resources.requests", "resources.limits"):
            yield from _paths(value, here)
        else:
            yield here
