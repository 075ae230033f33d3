"""Stand-ins for the Prometheus operator's kinds: the fields that we use alone, so that a wrong one is refused."""

import json
from typing import Any

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_TEXTS: Schema = {"type": "array", "items": _TEXT}
_MAP: Schema = {"type": "object", "additionalProperties": _TEXT}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties}


def _list(**properties: Schema) -> Schema:
    return {"type": "array", "items": _object(**properties)}


_RULE = _list(alert=_TEXT, expr=_TEXT, **{"for": _TEXT}, labels=_MAP, annotations=_MAP)
_ENDPOINTS = _list(
    port=_TEXT,
    honorLabels={"type": "boolean"},
    authorization=_object(type=_TEXT, credentials=_object(name=_TEXT, key=_TEXT)),
    relabelings=_list(sourceLabels=_TEXTS, targetLabel=_TEXT),
)
_SPECS = {
    "PrometheusRule": _object(groups=_list(name=_TEXT, rules=_RULE)),
    "ServiceMonitor": _object(
        namespaceSelector=_object(any={"type": "boolean"}, matchNames=_TEXTS),
        selector=_object(matchLabels=_MAP),
        endpoints=_ENDPOINTS,
    ),
}


def prometheus_kinds() -> str:
    """CustomResourceDefinitions, for kubectl."""
    return json.dumps(
        {"apiVersion": "v1", "kind": "List", "items": [_kind(kind, spec) for kind, spec in _SPECS.items()]}
    )


def _kind(kind: str, spec: Schema) -> Schema:
    group, plural = "monitoring.coreos.com", f"{kind.lower()}s"
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": _object(spec=spec)},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [version],
        },
    }
