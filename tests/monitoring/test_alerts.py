"""Each alert fires on what it is about and on nothing else, as Prometheus' own tester of rules finds."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.monitoring.panels import ROOT, queries
from tests.promtool import promtool

RULES = ROOT / "helm" / "vectorizer-operator" / "monitoring" / "alerts.yaml"
RUNBOOKS = ROOT / "docs" / "runbooks"
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
}

POD = {"namespace": "search", "vectorizer_cluster": "quickstart", "pod": "quickstart-0"}
_POD = 'namespace="search", vectorizer_cluster="quickstart", pod="quickstart-0"'
_CLUSTER = 'namespace="search", vectorizer_cluster="quickstart"'
_OPERATOR = 'namespace="vectorizer-system", job="operator"'

Series = dict[str, str]
"""A series' name and labels, and its values, one a minute, as promtool writes them."""


class Case(NamedTuple):
    """`firing` and `quiet` are what it must and must not fire on, 30 minutes after the first value."""

    firing: Series
    labels: dict[str, str]
    summary: str
    quiet: tuple[Series, ...]


def cache(percent: int) -> Series:
    return {
        f'vectorizer_cluster_cache_usage_bytes{{type="query", {_POD}}}': "20x30",
        f'vectorizer_cluster_cache_usage_bytes{{type="hnsw", {_POD}}}': f"{percent - 20}x30",
        f"vectorizer_cluster_cache_limit_bytes{{{_POD}}}": "100x30",
    }


def evictions(forced: int, requests: int) -> Series:
    """What is added each minute."""
    return {
        f'vectorizer_cluster_cache_watermarks_reached_total{{watermark="forced", {_POD}}}': f"0+{forced}x30",
        f'vectorizer_cluster_cache_watermarks_reached_total{{watermark="warning", {_POD}}}': "0+1000x30",
        f'vectorizer_http_requests_total{{route="/", {_POD}}}': f"0+{requests}x30",
    }


def failures(values: str) -> Series:
    return {f'vectorizer_write_failures_total{{status="507", {_POD}}}': values}


def damage(segments: int, collections: int) -> Series:
    return {
        f"vectorizer_quarantined_segments{{{_POD}}}": f"{segments}x30",
        f"vectorizer_damaged_collections{{{_POD}}}": f"{collections}x30",
    }


def members(*, shards: tuple[str, str], versions: tuple[str, str] = ("7x30", "7x30")) -> Series:
    """Two pods of a cluster with six shards, how many of them each serves, and the topology that it knows."""
    series: Series = {}
    for number, (served, version) in enumerate(zip(shards, versions, strict=True)):
        pod = f'{_CLUSTER}, pod="quickstart-{number}"'
        series[f"vectorizer_shards{{{pod}}}"] = "6x30"
        series[f"vectorizer_shards_served{{{pod}}}"] = served
        series[f"vectorizer_cluster_topology_version{{{pod}}}"] = version
    return series


def leaders(first: int, second: int) -> Series:
    return {
        f'vectorizer_operator_leader{{pod="operator-0", {_OPERATOR}}}': f"{first}x30",
        f'vectorizer_operator_leader{{pod="operator-1", {_OPERATOR}}}': f"{second}x30",
    }


def errors(reason: str, values: str) -> Series:
    return {f'vectorizer_operator_reconcile_errors_total{{reason="{reason}", {_OPERATOR}}}': values}


CASES = {
    "VectorizerCacheFilling": Case(
        cache(81),
        POD,
        "The caches of search/quickstart-0 use 81% of their limit.",
        (cache(80),),
    ),
    "VectorizerCacheFull": Case(
        cache(96),
        POD,
        "The caches of search/quickstart-0 stay at 96% of their limit.",
        (cache(95),),
    ),
    "VectorizerEvictionStorm": Case(
        evictions(forced=120, requests=600),
        POD,
        "20% of the requests to search/quickstart-0 have to evict first.",
        (evictions(forced=120, requests=6000), evictions(forced=50, requests=100)),
    ),
    "VectorizerWritesFail": Case(
        failures("0x27 1x3"),
        POD | {"status": "507"},
        "Writes to search/quickstart-0 fail with 507.",
        (failures("3x30"), failures("0x9 3x21")),
    ),
    "VectorizerRulesSkipped": Case(
        {f"vectorizer_cluster_validation_skipped{{{_POD}}}": "1x30"},
        POD,
        "search/quickstart-0 runs with --skip-cluster-validation: the cluster rules do not hold.",
        ({f"vectorizer_cluster_validation_skipped{{{_POD}}}": "0x30"},),
    ),
    "VectorizerDataDamaged": Case(
        damage(segments=1, collections=2),
        POD,
        "search/quickstart-0 has set aside damaged data: 3 segments or collections.",
        (damage(segments=0, collections=0),),
    ),
    "VectorizerShardsNotServed": Case(
        members(shards=("3x30", "1x30")),
        {"namespace": "search", "vectorizer_cluster": "quickstart"},
        "No pod of search/quickstart serves 2 of its shards.",
        (
            members(shards=("4x30", "2x30")),
            members(shards=("0x30", "6x30")),
            members(shards=("3x27 0x3", "3x30")),
        ),
    ),
    "VectorizerTopologiesDiffer": Case(
        members(shards=("3x30", "3x30"), versions=("7x30", "6x30")),
        {"namespace": "search", "vectorizer_cluster": "quickstart"},
        "The pods of search/quickstart do not agree on who serves.",
        (
            members(shards=("3x30", "3x30")),
            members(shards=("3x30", "3x30"), versions=("7x27 8x3", "7x30")),
        ),
    ),
    "VectorizerMetricsMissing": Case(
        {f'up{{service="quickstart", {_POD}}}': "0x30"},
        POD,
        "search/quickstart-0 gives Prometheus no metrics: no other alert would tell of it.",
        ({f"up{{{_POD}}}": "0x20 1x10"}, {'up{job="somebody-elses"}': "0x30"}),
    ),
    "VectorizerClusterNotReady": Case(
        {f"vectorizer_operator_cluster_ready{{{_CLUSTER}}}": "0x30"},
        {"namespace": "search", "vectorizer_cluster": "quickstart"},
        "The VectorizerCluster search/quickstart is not Ready.",
        (
            {f"vectorizer_operator_cluster_ready{{{_CLUSTER}}}": "1x30"},
            {f"vectorizer_operator_cluster_ready{{{_CLUSTER}}}": "1x20 0x10"},
        ),
    ),
    "VectorizerOperatorNotLeading": Case(
        leaders(0, 0),
        {"namespace": "vectorizer-system", "job": "operator"},
        "No replica of the operator leads, so no change to a cluster is carried out.",
        (leaders(0, 1),),
    ),
    "VectorizerOperatorErrors": Case(
        errors("Forbidden", "0+1x30"),
        {"namespace": "vectorizer-system", "reason": "Forbidden"},
        "The operator in vectorizer-system fails again and again to bring clusters to their specs (Forbidden).",
        (errors("Conflict", "0+1x30"), errors("Forbidden", "0x20 2x10")),
    ),
}


def check(alert: str, folder: Path, cases: list[tuple[Series, list[dict[str, Any]]]]) -> None:
    """Raise PromtoolError unless *alert* does on each of the series what is expected of it."""
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "alert_rule_test": [{"eval_time": "30m", "alertname": alert, "exp_alerts": expected}],
        }
        for series, expected in cases
    ]
    file = folder / "alert.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "tests": tests}))
    promtool("test", "rules", str(file))


@pytest.mark.parametrize("alert", CASES)
def test_an_alert_fires_on_what_it_is_about_and_on_nothing_else(alert: str, tmp_path: Path) -> None:
    case, rule = CASES[alert], ALERTS[alert]
    annotations = {"summary": case.summary, "runbook_url": f"docs/runbooks/{alert}.md"}
    fires = {"exp_labels": case.labels | rule["labels"], "exp_annotations": annotations}
    check(alert, tmp_path, [(case.firing, [fires]), *((quiet, []) for quiet in case.quiet)])


def test_that_no_operator_is_scraped_is_told_as_well(tmp_path: Path) -> None:
    alert = "VectorizerOperatorNotLeading"
    annotations = {"summary": CASES[alert].summary, "runbook_url": f"docs/runbooks/{alert}.md"}
    fires = {"exp_labels": {"severity": "critical"}, "exp_annotations": annotations}
    check(alert, tmp_path, [({"up": "1x30"}, [fires])])


def test_promtool_has_nothing_to_say_about_the_rules() -> None:
    promtool("check", "rules", "--lint-fatal", str(RULES))


def test_every_alert_is_tried_out() -> None:
    assert set(CASES) == set(ALERTS)


def test_every_alert_has_a_page_that_says_what_to_do_and_every_page_an_alert() -> None:
    assert {page.stem for page in RUNBOOKS.glob("*.md")} == set(ALERTS)
    for alert in ALERTS:
        text = (RUNBOOKS / f"{alert}.md").read_text()
        assert re.findall(r"^#+ .*", text, re.MULTILINE) == [
            f"# {alert}",
            "## What you see",
            "## Why",
            "## What to do",
        ]
        assert re.search(r"^```sh\n[^`]*\bkubectl\b", text, re.MULTILINE), alert


def test_alerts_are_about_metrics_that_a_panel_shows_and_so_somebody_exports() -> None:
    shown = {name for asked in (True, False) for query in queries(operator=asked) for name in names(query)}
    for alert, rule in ALERTS.items():
        assert names(rule["expr"]) - {"up"} <= shown, alert


def names(expression: str) -> set[str]:
    """The metrics in *expression*: no label values, and no labels."""
    bare = re.sub(r"by \([^)]*\)|\{[^}]*\}", "", expression)
    return set(re.findall(r"\b(?:vectorizer_\w+|up)\b", bare))


def test_the_page_about_monitoring_names_every_alert_with_its_severity() -> None:
    page = (ROOT / "docs" / "users" / "MONITORING.md").read_text()
    rows = dict(re.findall(r"^\| \[(\w+)\]\(\.\./runbooks/\1\.md\) \| (\w+) \|", page, re.MULTILINE))
    assert rows == {alert: rule["labels"]["severity"] for alert, rule in ALERTS.items()}
