"""`dashboards/vectorizer-cluster.json`: the Grafana dashboard, made of the table in `dashboard_panels`."""

import json
from collections.abc import Iterator
from typing import Any

from tools.dashboard_panels import ROWS, Panel

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_HEIGHT = 8
_WHOLE_WIDTH = 24


def dashboard() -> str:
    """The dashboard as Grafana imports it: which Prometheus is asked is a variable."""
    return (
        json.dumps(
            {
                "uid": "vectorizer-cluster",
                "title": "Vectorizer clusters",
                "description": "Made by `make generate` from tools/dashboard_panels.py.",
                "tags": ["vectorizer"],
                "schemaVersion": 39,
                "editable": True,
                "graphTooltip": 1,
                "time": {"from": "now-6h", "to": "now"},
                "refresh": "30s",
                "templating": {"list": list(_variables())},
                "panels": list(_panels()),
            },
            indent=1,
            ensure_ascii=False,
        )
        + "\n"
    )


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    chosen = ""
    for name, label in (("namespace", "namespace"), ("cluster", "vectorizer_cluster"), ("pod", "pod")):
        yield {
            "name": name,
            "label": name.capitalize(),
            "type": "query",
            "datasource": _SOURCE,
            "query": f"label_values(vectorizer_cluster_cache_limit_bytes{{{chosen}}}, {label})",
            "refresh": 2,  # whenever the time range changes
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "current": {"text": ["All"], "value": ["$__all"]},
        }
        chosen += f'{", " if chosen else ""}{label}=~"${name}"'


def _panels() -> Iterator[dict[str, Any]]:
    number, top = 0, 0
    for title, panels in ROWS.items():
        number += 1
        place = {"x": 0, "y": top, "w": _WHOLE_WIDTH, "h": 1}
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "panels": [],
            "gridPos": place,
        }
        top, left = top + 1, 0
        for panel in panels:
            height = _HEIGHT // 2 if panel.kind == "stat" else _HEIGHT
            if left + panel.width > _WHOLE_WIDTH:
                top, left = top + height, 0
            number += 1
            place = {"x": left, "y": top, "w": panel.width, "h": height}
            yield {"id": number, "gridPos": place, **_panel(panel)}
            left += panel.width
        top += height


def _panel(panel: Panel) -> dict[str, Any]:
    steps = [{"value": None, "color": "green"}] + [
        {"value": value, "color": color} for value, color in panel.levels
    ]
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    options: dict[str, Any]
    if panel.kind == "stat":
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "graphMode": "area"}
    else:
        stacking = {"mode": "normal" if panel.stacked else "none"}
        defaults["custom"] = {"fillOpacity": 20 if panel.stacked else 0, "stacking": stacking}
        options = {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _SOURCE,
                "expr": query.expression,
                "legendFormat": query.legend,
            }
            for index, query in enumerate(panel.queries)
        ],
    }
