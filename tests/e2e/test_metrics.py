"""The operator's own figures, scraped from a running one as Prometheus does."""

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.harness import Installation, Operator, condition_of
from tests.e2e.quickstart import NAME, cluster, roll_out
from tests.kube.eventually import eventually
from tests.monitoring.panels import check_answered, queries
from tests.promtool import check_metrics

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(operator: Operator) -> Samples:
    families = text_string_to_metric_families(operator.ask("/metrics") or "")
    return {
        (sample.name.removeprefix("vectorizer_operator_"), tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def ready(installation: Installation) -> tuple[str, tuple[tuple[str, str], ...]]:
    return "cluster_ready", (("namespace", installation.namespace), ("vectorizer_cluster", NAME))


def test_the_operators_figures_tell_what_it_does(
    installation: Installation, operator: Operator, tmp_path: Path
) -> None:
    eventually(lambda: scrape(operator)["leader", ()] == 1)
    assert scrape(operator)["webhook_certificate_seconds_left", ()] > 86400
    installation.kubectl("create", "quota", "none", "--hard=count/statefulsets.apps=0")
    installation.apply(cluster())
    eventually(lambda: condition_of(installation.get("vzc", NAME), "Ready").get("reason") == "ActionRefused")
    failed = scrape(operator)
    assert failed[ready(installation)] == 0
    assert failed["reconcile_errors_total", (("reason", "Forbidden"),)] >= 1
    installation.kubectl("delete", "quota", "none")
    installation.kubectl("label", "vzc", NAME, "asked=webhook")
    roll_out(installation, service={"annotations": {"a.example/b": "c"}})
    seen = scrape(operator)
    assert seen["reconcile_duration_seconds_count", ()] > failed["reconcile_duration_seconds_count", ()]
    assert seen["actions_total", (("action", "Apply"), ("kind", "StatefulSet"))] >= 1
    assert seen["webhook_verdicts_total", (("verdict", "allowed"),)] >= 2
    assert seen["queue_depth", ()] >= 0
    watches = {labels[0][1]: age for (name, labels), age in seen.items() if name == "watch_age_seconds"}
    assert f"/apis/vectorizer.io/v1/namespaces/{installation.namespace}/vectorizerclusters" in watches
    assert all(0 <= age < 270 for age in watches.values())
    scraped = operator.ask("/metrics") or ""
    check_metrics(scraped)
    check_answered(queries(operator=True), scraped, tmp_path)  # the dashboard's panels about the operator
    installation.apply(cluster(replicas=0))
    eventually(lambda: scrape(operator)[ready(installation)] == 1)
    installation.kubectl("delete", "vzc", NAME)
    eventually(lambda: ready(installation) not in scrape(operator))
