"""What the chart makes for Prometheus and Grafana, and for whom; on a real API server in `test_install`."""

from typing import Any

import yaml

from tests.helm.chart import CHART, ROOT, Object, helm, only, rendered
from tests.monitoring.test_alerts import ALERTS, RULES
from vectorizer_operator.api import VectorizerCluster
from vectorizer_operator.manifests import render

KINDS = ("--api-versions", "monitoring.coreos.com/v1")
PRODUCTION_VALUES = ROOT / "examples" / "production-values.yaml"
EVERYTHING = tuple(
    word
    for name in ("dashboard", "prometheusRule", "serviceMonitor")
    for word in ("--set", f"monitoring.{name}.enabled=true")
)


def services_of(example: str, namespace: str) -> list[Object]:
    raw = next(yaml.safe_load_all((ROOT / "examples" / example).read_text()))
    raw["metadata"]["namespace"] = namespace
    children = render(VectorizerCluster.parse(raw), default_image="engine:1")
    return [child for child in children if child["kind"] == "Service"]


def selected(monitor: Object, services: list[Object]) -> list[str]:
    wanted: dict[str, str] = monitor["spec"]["selector"]["matchLabels"]
    return [
        each["metadata"]["name"] for each in services if wanted.items() <= each["metadata"]["labels"].items()
    ]


def test_nothing_is_made_for_prometheus_unless_it_is_asked_for() -> None:
    assert set(rendered(*KINDS)) == set(rendered())


def test_without_the_kinds_of_the_prometheus_operator_only_the_dashboard_is_made() -> None:
    added = set(rendered(*EVERYTHING)) - set(rendered())
    assert added == {("ConfigMap", "vectorizer-operator-dashboard")}


def test_grafanas_sidecar_finds_the_dashboard_of_the_repository() -> None:
    config_map = only(rendered(*EVERYTHING), "ConfigMap")
    assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
    shipped = (ROOT / "dashboards" / "vectorizer-cluster.json").read_text()
    assert config_map["data"] == {"vectorizer-cluster.json": shipped}


def test_the_rule_has_every_alert_with_its_page() -> None:
    assert only(rendered(*EVERYTHING, *KINDS), "PrometheusRule")["spec"] == yaml.safe_load(RULES.read_text())
    ours = ("--set", "monitoring.prometheusRule.runbooks=https://wiki.example/vectorizer")
    groups = only(rendered(*EVERYTHING, *KINDS, *ours), "PrometheusRule")["spec"]["groups"]
    pages = {rule["alert"]: rule["annotations"]["runbook_url"] for group in groups for rule in group["rules"]}
    assert pages == {alert: f"https://wiki.example/vectorizer/{alert}.md" for alert in ALERTS}


def test_the_operators_monitor_finds_its_service_and_not_the_webhooks() -> None:
    objects = rendered(*EVERYTHING, *KINDS)
    services = [each for (kind, _), each in objects.items() if kind == "Service"]
    monitor = objects["ServiceMonitor", "vectorizer-operator"]
    assert selected(monitor, services) == ["vectorizer-operator-metrics"]
    service = objects["Service", "vectorizer-operator-metrics"]
    (container,) = only(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    (port,) = service["spec"]["ports"]
    assert {"name": port["targetPort"], "containerPort": port["port"]} in container["ports"]
    assert monitor["spec"]["endpoints"][0]["port"] == port["name"]


def test_the_clusters_monitor_finds_each_cluster_without_a_key_once_and_no_other() -> None:
    monitor = rendered(*EVERYTHING, *KINDS)["ServiceMonitor", "vectorizer-operator-clusters"]
    assert monitor["spec"]["namespaceSelector"] == {"any": True}
    services = [*services_of("quickstart.yaml", "default"), *services_of("production.yaml", "search")]
    assert selected(monitor, services) == ["quickstart"]
    assert_scrapes(monitor, services[0])


def assert_scrapes(monitor: Object, service: Object) -> dict[str, Any]:
    """The one endpoint of *monitor*, which says of whom its metrics are."""
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    (relabeling,) = endpoint["relabelings"]
    assert relabeling["targetLabel"] == "vectorizer_cluster"
    assert "vectorizer.io/cluster" in service["metadata"]["labels"]
    assert relabeling["sourceLabels"] == ["__meta_kubernetes_service_label_vectorizer_io_cluster"]
    found: dict[str, Any] = endpoint
    return found


def test_clusters_of_named_namespaces_only_are_monitored_where_some_are_named() -> None:
    chosen = rendered(*EVERYTHING, *KINDS, "--set", "watchNamespaces={a,b}")
    monitor = chosen["ServiceMonitor", "vectorizer-operator-clusters"]
    assert monitor["spec"]["namespaceSelector"] == {"matchNames": ["a", "b"]}


def test_the_values_for_production_bring_alerts_dashboard_and_monitors_where_prometheus_looks() -> None:
    helm("lint", "--strict", str(CHART), "--values", str(PRODUCTION_VALUES))
    values = yaml.safe_load(PRODUCTION_VALUES.read_text())
    objects = rendered("--values", str(PRODUCTION_VALUES), *KINDS)
    added = objects.keys() - rendered().keys()
    assert added >= rendered(*EVERYTHING, *KINDS).keys() - rendered().keys()
    assert "NetworkPolicy" in {kind for kind, _ in added}
    groups = only(objects, "PrometheusRule")["spec"]["groups"]
    runbooks = values["monitoring"]["prometheusRule"]["runbooks"]
    for rule in (rule for group in groups for rule in group["rules"]):
        assert rule["annotations"]["runbook_url"] == f"{runbooks}/{rule['alert']}.md"
    for kind, name in added:
        if kind in ("PrometheusRule", "ServiceMonitor"):
            assert values["commonLabels"].items() <= objects[kind, name]["metadata"]["labels"].items()


def test_the_example_for_a_cluster_with_a_key_sends_the_read_only_one_of_the_production_example() -> None:
    monitor = yaml.safe_load((ROOT / "examples" / "monitoring" / "cluster-with-key.yaml").read_text())
    services = services_of("production.yaml", monitor["metadata"]["namespace"])
    assert selected(monitor, services) == [services[0]["metadata"]["name"]]
    sent = assert_scrapes(monitor, services[0])["authorization"]
    production = next(yaml.safe_load_all((ROOT / "examples" / "production.yaml").read_text()))
    reference = production["spec"]["auth"]["readOnlyApiKeySecretRef"]
    assert sent == {"type": "Bearer", "credentials": reference}
    found_by = yaml.safe_load(PRODUCTION_VALUES.read_text())["commonLabels"]
    assert monitor["metadata"]["labels"] == found_by
