"""Stand-ins for the kinds of the Prometheus operator and of cert-manager that the chart and the examples use.

They have the fields that we use alone, and what the originals ask of these, so that a wrong one is refused.
"""

import json
from typing import Any

from tests.kube.controlplane import ControlPlane

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_TEXTS: Schema = {"type": "array", "items": _TEXT}
_MAP: Schema = {"type": "object", "additionalProperties": _TEXT}


def _object(*required: str, **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, **({"required": list(required)} if required else {})}


def _list(*required: str, **properties: Schema) -> Schema:
    return {"type": "array", "items": _object(*required, **properties)}


def _one_of(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def _kind(group: str, kind: str, spec: Schema) -> Schema:
    plural = f"{kind.lower()}s"
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


_RULES = _list("expr", alert=_TEXT, expr=_TEXT, **{"for": _TEXT}, labels=_MAP, annotations=_MAP)
_ENDPOINTS = _list(
    port=_TEXT,
    honorLabels={"type": "boolean"},
    authorization=_object(type=_TEXT, credentials=_object("key", name=_TEXT, key=_TEXT)),
    relabelings=_list(sourceLabels=_TEXTS, targetLabel=_TEXT),
)
_MONITOR = _object(
    "selector",
    "endpoints",
    namespaceSelector=_object(any={"type": "boolean"}, matchNames=_TEXTS),
    selector=_object(matchLabels=_MAP),
    endpoints=_ENDPOINTS,
)
_CERTIFICATE = _object(
    "secretName",
    "issuerRef",
    secretName=_TEXT,
    dnsNames=_TEXTS,
    privateKey=_object(
        algorithm=_one_of("RSA", "ECDSA", "Ed25519"),
        size={"type": "integer"},
        rotationPolicy=_one_of("Never", "Always"),
    ),
    issuerRef=_object("name", name=_TEXT, kind=_TEXT, group=_TEXT),
)

PROMETHEUS = (
    _kind("monitoring.coreos.com", "PrometheusRule", _object(groups=_list("name", name=_TEXT, rules=_RULES))),
    _kind("monitoring.coreos.com", "ServiceMonitor", _MONITOR),
)
CERT_MANAGER = (
    _kind("cert-manager.io", "Issuer", _object(selfSigned=_object())),
    _kind("cert-manager.io", "Certificate", _CERTIFICATE),
)
"""CustomResourceDefinitions."""


def make_known(control_plane: ControlPlane, definitions: tuple[Schema, ...]) -> None:
    """Apply *definitions*, and wait until objects of these kinds are taken."""
    kinds = json.dumps({"apiVersion": "v1", "kind": "List", "items": definitions})
    control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=kinds)
    control_plane.kubectl("wait", "--for=condition=Established", "-f", "-", stdin=kinds)
