"""From a user's files to what is to run: checked as `vectorizerctl validate` checks, rendered as the operator renders.

Secrets and ConfigMaps beside the clusters are there for their pods, as they would be in the same namespace.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vectorizer_operator import __version__
from vectorizer_operator.api import VectorizerCluster
from vectorizer_operator.api.problems import structural_problems
from vectorizer_operator.api.rules import violations
from vectorizer_operator.ctl.documents import Document, read
from vectorizer_operator.ctl.report import Report, Skipped, examine, is_cluster
from vectorizer_operator.local.control import LocalError, Wish
from vectorizer_operator.local.state import Desired
from vectorizer_operator.manifests import render

DEFAULT_IMAGE = f"vectorizer:{__version__}"
"""What the chart tells the operator. Nothing is pulled here, but `spec.image` shows in what is rendered."""

INPUT_KINDS = ("ConfigMap", "Secret")

Contents = Mapping[str, Mapping[str, str]]
"""Of Secrets or ConfigMaps, by name and key."""


class Refused(Exception):
    """A file cannot be read, or a cluster in it breaks a rule or the schema; the report says everything."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self.report = report


def read_wishes(files: Sequence[str]) -> tuple[list[Wish], Report]:
    """The clusters of `files` that may run (those that are paused left out), and what there is to say about them.

    Raises Refused, or LocalError for files that are fine but cannot be run here.
    """
    documents = list(read(files))
    report = examine(documents)
    if report.exit_status:
        raise Refused(report)
    objects = [each.raw for each in documents if isinstance(each, Document)]
    names = [raw["metadata"]["name"] for raw in objects if is_cluster(raw)]
    if not names:
        raise LocalError(f"{', '.join(files)}: no VectorizerCluster in there")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise LocalError(
            f"{', '.join(twice)}: more than one cluster of that name; namespaces do not count here"
        )
    config_maps = {name: data for kind, name, data in _inputs(objects) if kind == "ConfigMap"}
    secrets = {name: data for kind, name, data in _inputs(objects) if kind == "Secret"}
    wishes = [_wish(raw, secrets, config_maps) for raw in objects if is_cluster(raw)]
    return wishes, report


def scaled(desired: Desired, replicas: int) -> Wish:
    """The same cluster with another number of pods. Raises LocalError for a number that it may not have."""
    if not desired.cluster:
        raise LocalError(
            f"{desired.name} was brought up by an older vectorizerctl: set spec.replicas in its file, and run "
            "`vectorizerctl local up -f FILE`"
        )
    raw = {**desired.cluster, "spec": {**desired.cluster["spec"], "replicas": replicas}}
    wrong = [violation.message for violation in violations(raw)] or list(map(str, structural_problems(raw)))
    if wrong:
        raise LocalError("; ".join(wrong))
    return _wish(raw, desired.secrets, desired.config_maps)


def _wish(raw: dict[str, Any], secrets: Contents, config_maps: Contents) -> Wish:
    cluster = VectorizerCluster.parse(raw)
    return Wish(
        name=cluster.metadata.name,
        cluster=raw,
        objects=render(cluster, default_image=DEFAULT_IMAGE),
        secrets=secrets,
        config_maps=config_maps,
        paused=cluster.spec.paused,
    )


def ignored(report: Report) -> list[Skipped]:
    """The objects that mean nothing here. A claim does: pods that mount one find a folder of the cluster's."""
    return [each for each in report.skipped if each.kind not in (*INPUT_KINDS, "PersistentVolumeClaim")]


def _inputs(objects: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str, dict[str, str]]]:
    for raw in objects:
        kind, name = raw.get("kind"), (raw.get("metadata") or {}).get("name")
        if kind not in INPUT_KINDS or not name:
            continue
        data = {key: str(value) for key, value in (raw.get("data") or {}).items()}
        if kind == "Secret":
            data = {key: _decoded(name, key, value) for key, value in data.items()}
            data |= {key: str(value) for key, value in (raw.get("stringData") or {}).items()}
        yield kind, name, data


def _decoded(name: str, key: str, value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise LocalError(
            f"Secret {name}: data.{key} is no text in base64; write it as it is under stringData"
        ) from None
