"""Stand-ins for kinds of other projects that the chart makes and the examples use.

They have the fields that we use alone, and what the originals ask of these, so that a wrong one is refused.
"""

import json
from typing import Any

from tests.kube.controlplane import ControlPlane

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_TEXTS: Schema = {"type": "array", "items": _TEXT}
_NUMBER: Schema = {"type": "integer"}
_SWITCH: Schema = {"type": "boolean"}
_ANYTHING: Schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_MAP: Schema = {"type": "object", "additionalProperties": _TEXT}


def _object(*required: str, **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, **({"required": list(required)} if required else {})}


def _list(*required: str, **properties: Schema) -> Schema:
    return {"type": "array", "items": _object(*required, **properties)}


def _one_of(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def _kind(group: str, kind: str, spec: Schema, *, version_name: str = "v1") -> Schema:
    plural = f"{kind.lower()}s".replace("ys", "ies")
    version = {
        "name": version_name,
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
    honorLabels=_SWITCH,
    authorization=_object(type=_TEXT, credentials=_object("key", name=_TEXT, key=_TEXT)),
    relabelings=_list(sourceLabels=_TEXTS, targetLabel=_TEXT),
)
_MONITOR = _object(
    "selector",
    "endpoints",
    namespaceSelector=_object(any=_SWITCH, matchNames=_TEXTS),
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
        size=_NUMBER,
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
ARGO_CD = (
    _kind(
        "argoproj.io",
        "Application",
        _object(
            "destination",
            "project",
            project=_TEXT,
            source=_object(
                "repoURL",
                repoURL=_TEXT,
                targetRevision=_TEXT,
                path=_TEXT,
                helm=_object(valuesObject=_ANYTHING),
            ),
            destination=_object(server=_TEXT, namespace=_TEXT),
            ignoreDifferences=_list("kind", group=_TEXT, kind=_TEXT, jqPathExpressions=_TEXTS),
            syncPolicy=_object(
                automated=_object(prune=_SWITCH, selfHeal=_SWITCH),
                syncOptions=_TEXTS,
                retry=_object(
                    limit=_NUMBER, backoff=_object(duration=_TEXT, factor=_NUMBER, maxDuration=_TEXT)
                ),
            ),
        ),
        version_name="v1alpha1",
    ),
)

_SOURCE = _object("kind", "name", kind=_one_of("GitRepository", "Bucket"), name=_TEXT)
_ATTEMPTS = {
    "crds": _one_of("Skip", "Create", "CreateReplace"),
    "remediation": _object(retries=_NUMBER),
}
_CHART = _object(
    "chart",
    "sourceRef",
    chart=_TEXT,
    sourceRef=_SOURCE,
    reconcileStrategy=_one_of("ChartVersion", "Revision"),
)
FLUX = (
    _kind(
        "source.toolkit.fluxcd.io",
        "GitRepository",
        _object("interval", "url", interval=_TEXT, url=_TEXT, ref=_object(tag=_TEXT)),
    ),
    _kind(
        "helm.toolkit.fluxcd.io",
        "HelmRelease",
        _object(
            "interval",
            interval=_TEXT,
            targetNamespace=_TEXT,
            releaseName=_TEXT,
            chart=_object("spec", spec=_CHART),
            install=_object(createNamespace=_SWITCH, **_ATTEMPTS),
            upgrade=_object(**_ATTEMPTS),
            driftDetection=_object(
                mode=_one_of("enabled", "warn", "disabled"),
                ignore=_list("paths", paths=_TEXTS, target=_object(kind=_TEXT)),
            ),
            values=_ANYTHING,
        ),
        version_name="v2",
    ),
    _kind(
        "kustomize.toolkit.fluxcd.io",
        "Kustomization",
        _object(
            "interval",
            "prune",
            "sourceRef",
            interval=_TEXT,
            retryInterval=_TEXT,
            timeout=_TEXT,
            path=_TEXT,
            prune=_SWITCH,
            wait=_SWITCH,
            sourceRef=_SOURCE,
        ),
    ),
)
"""CustomResourceDefinitions."""


def make_known(control_plane: ControlPlane, definitions: tuple[Schema, ...]) -> None:
    """Apply *definitions*, and wait until objects of these kinds are taken."""
    kinds = json.dumps({"apiVersion": "v1", "kind": "List", "items": definitions})
    control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=kinds)
    control_plane.kubectl("wait", "--for=condition=Established", "-f", "-", stdin=kinds)
