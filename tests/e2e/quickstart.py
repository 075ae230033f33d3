"""The quickstart's cluster as the end-to-end tests use it: applied, looked at, and what it should have brought."""

import json
from typing import Any

import yaml

from tests.e2e.harness import ROOT, Installation, Object, condition_of
from tests.kube.controlplane import CommandError
from tests.kube.eventually import eventually
from vectorizer_operator.api import CLUSTER_LABEL

QUICKSTART: Object = yaml.safe_load((ROOT / "examples" / "quickstart.yaml").read_text())
NAME = QUICKSTART["metadata"]["name"]
CHILDREN = {
    ("serviceaccount", NAME),
    ("configmap", f"{NAME}-config"),
    ("service", NAME),
    ("service", f"{NAME}-headless"),
    ("networkpolicy", NAME),
    ("poddisruptionbudget", NAME),
    ("statefulset", NAME),
}


def cluster(**spec: Any) -> Object:
    """The quickstart with every child switched on, and *spec* on top."""
    wanted = {**QUICKSTART["spec"], "podDisruptionBudget": {"enabled": True}, **spec}
    return {**QUICKSTART, "spec": wanted}


def names(installation: Installation) -> set[tuple[str, str]]:
    """The cluster's children that there are."""
    kinds = ",".join(sorted({kind for kind, _ in CHILDREN}))
    found = json.loads(installation.kubectl("get", kinds, "-o", "json", f"--selector={CLUSTER_LABEL}={NAME}"))
    return {(each["kind"].lower(), each["metadata"]["name"]) for each in found["items"]}


def ready_reason(installation: Installation) -> str:
    return str(condition_of(installation.get("vzc", NAME), "Ready").get("reason"))


def is_observed(cluster: Object) -> bool:
    """Whether the status is about the newest spec."""
    return bool(cluster["status"]["observedGeneration"] == cluster["metadata"]["generation"])


def roll_out(installation: Installation, **spec: Any) -> None:
    """Apply the cluster and wait until its children and its status are there."""
    installation.apply(cluster(**spec))
    eventually(lambda: names(installation) == CHILDREN)
    eventually(lambda: installation.get("vzc", NAME)["status"].get("replicas") == 1)


def accepted(installation: Installation, manifest: Object) -> bool:
    try:
        installation.apply(manifest)
    except CommandError:
        return False
    return True
