"""The dashboard's queries, asked as Prometheus would ask them, of metrics that somebody really exported."""

import json
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.promtool import promtool

ROOT = Path(__file__).parents[2]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "dashboards" / "vectorizer-cluster.json").read_text())
OPERATORS = "vectorizer_operator_"
TARGET = {"namespace": "search", "vectorizer_cluster": "quickstart", "pod": "quickstart-0"}
"""What the chart's ServiceMonitors add to every series."""


def queries(*, operator: bool) -> list[str]:
    """Those over the operator's figures, or all others, with every variable at All."""
    everything = [
        target["expr"].replace("$__rate_interval", "5m")
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", ())
    ]
    for variable in DASHBOARD["templating"]["list"]:
        everything = [each.replace(f"${variable['name']}", ".*") for each in everything]
    return [each for each in everything if (OPERATORS in each) is operator]


def check_answered(asked: list[str], scraped: str, folder: Path) -> None:
    """Raise PromtoolError where one of *asked* finds nothing in *scraped*, or is no query at all.

    Every series grows by one a minute, so that rates are not empty.
    """
    series = [
        {"series": f"{sample.name}{{{_labels(TARGET | sample.labels)}}}", "values": f"{sample.value}+1x20"}
        for family in text_string_to_metric_families(scraped)
        for sample in family.samples
    ]
    tests = [
        {
            "expr": f"count({each}) > bool 0",
            "eval_time": "15m",
            "exp_samples": [{"labels": "{}", "value": 1}],
        }
        for each in asked
    ]
    file = folder / "panels.yaml"
    file.write_text(
        yaml.safe_dump({"tests": [{"interval": "1m", "input_series": series, "promql_expr_test": tests}]})
    )
    promtool("test", "rules", str(file))


def _labels(labels: dict[str, str]) -> str:
    return ", ".join(f"{name}={json.dumps(value)}" for name, value in labels.items())
