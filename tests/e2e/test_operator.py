"""The operator on a real API server, as its users see it: what it makes, repairs, refuses, and leaves alone."""

import base64
import json
import os
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from tests.e2e.harness import (
    CRD,
    Installation,
    Object,
    Operator,
    at_rest,
    condition_of,
    is_ready,
    post_review,
    versions,
    without_rules,
)
from tests.e2e.quickstart import CHILDREN, NAME, accepted, cluster, is_observed, names, ready_reason, roll_out
from tests.kube.controlplane import CommandError
from tests.kube.eventually import eventually
from tests.kube.kubelet import Kubelet
from vectorizer_operator.api import CLUSTER_LABEL, FIELD_MANAGER
from vectorizer_operator.kube.client import KubeClient
from vectorizer_operator.webhook import certificates

RULE_BREAKING = {"storage": {"type": "memory", "size": "1Gi"}, "fileWatcher": {"enabled": True}}


def test_a_cluster_gets_all_its_children_by_server_side_apply(
    installation: Installation, operator: Operator
) -> None:
    roll_out(installation)
    uid = installation.get("vzc", NAME)["metadata"]["uid"]
    for kind, name in CHILDREN:
        metadata = json.loads(installation.kubectl("get", kind, name, "-o", "json", "--show-managed-fields"))[
            "metadata"
        ]
        assert [owner["uid"] for owner in metadata["ownerReferences"]] == [uid]
        applied = [each["manager"] for each in metadata["managedFields"] if each["operation"] == "Apply"]
        assert applied == [FIELD_MANAGER]
    metadata = installation.get("vzc", NAME)["metadata"]
    assert "finalizers" not in metadata
    assert not any("kopf" in annotation for annotation in metadata.get("annotations", {}))


@pytest.mark.parametrize("kind_and_name", sorted(CHILDREN), ids=lambda child: "-".join(child))
def test_a_deleted_child_comes_back(
    module_installation: Installation, kind_and_name: tuple[str, str]
) -> None:
    kind, name = kind_and_name
    before = module_installation.get(kind, name)["metadata"]["uid"]
    module_installation.kubectl("delete", kind, name, "--wait=false")
    eventually(lambda: (kind, name) in names(module_installation))
    eventually(lambda: module_installation.get(kind, name)["metadata"]["uid"] != before)


DRIFT = [
    ("serviceaccount", NAME, {"automountServiceAccountToken": True}),
    ("configmap", f"{NAME}-config", {"data": {"config.yml": "cluster: {enabled: false}"}}),
    ("service", NAME, {"spec": {"selector": {CLUSTER_LABEL: "another"}}}),
    ("service", f"{NAME}-headless", {"spec": {"publishNotReadyAddresses": False}}),
    ("networkpolicy", NAME, {"spec": {"podSelector": {"matchLabels": {CLUSTER_LABEL: "another"}}}}),
    ("poddisruptionbudget", NAME, {"spec": {"maxUnavailable": 9}}),
    ("statefulset", NAME, {"spec": {"replicas": 3}}),
    ("statefulset", NAME, {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}}),
    ("configmap", f"{NAME}-config", {"metadata": {"labels": {CLUSTER_LABEL: None}}}),
]


@pytest.mark.parametrize(("kind", "name", "patch"), DRIFT, ids=[f"{d[0]}-{next(iter(d[2]))}" for d in DRIFT])
def test_an_edited_child_is_put_right(
    module_installation: Installation, kind: str, name: str, patch: Object
) -> None:
    before = module_installation.get(kind, name)
    module_installation.kubectl("patch", kind, name, "--type=merge", "-p", json.dumps(patch))

    def repaired() -> bool:
        now = module_installation.get(kind, name)
        wanted = {key: before[key] for key in ("spec", "data") if key in before}
        return {key: now[key] for key in wanted} == wanted and now["metadata"]["labels"] == before[
            "metadata"
        ]["labels"]

    eventually(repaired)


def test_a_paused_cluster_is_left_alone_and_says_so(installation: Installation, operator: Operator) -> None:
    roll_out(installation)
    installation.apply(cluster(paused=True))
    eventually(lambda: is_observed(installation.get("vzc", NAME)))
    installation.kubectl("delete", "configmap", f"{NAME}-config")
    eventually(lambda: ready_reason(installation) == "Paused")
    message = condition_of(installation.get("vzc", NAME), "Ready")["message"]
    assert f"to be done when it is false: apply ConfigMap {NAME}-config" in message
    assert ("configmap", f"{NAME}-config") not in names(installation)
    installation.apply(cluster())
    eventually(lambda: names(installation) == CHILDREN)


def test_what_got_past_schema_and_webhook_is_held_by_the_guard(
    installation: Installation, operator: Operator
) -> None:
    schema = yaml.safe_load(CRD.read_text())
    installation.apply(without_rules(schema))
    try:
        bad = cluster(**RULE_BREAKING)

        def refused_by_the_webhook() -> str:
            try:
                installation.apply(bad)
            except CommandError as error:
                return str(error) if "admission webhook" in str(error) else ""
            installation.kubectl("delete", "vzc", NAME)
            return ""

        message = eventually(refused_by_the_webhook)
        assert "CLUSTER_001" in message
        assert "CLUSTER_002" in message
        assert "set spec.storage.type to mmap" in message
        installation.webhook_down()
        eventually(lambda: accepted(installation, bad))
        eventually(lambda: ready_reason(installation) == "MmapStorageRequired")
        status = installation.get("vzc", NAME)
        assert condition_of(status, "Ready")["status"] == "False"
        assert condition_of(status, "Stalled")["status"] == "True"
        assert "set spec.fileWatcher.enabled to false" in condition_of(status, "Ready")["message"]
        assert names(installation) == set()
        events = installation.kubectl("get", "events", f"--field-selector=involvedObject.name={NAME}")
        assert "MmapStorageRequired" in events
    finally:
        installation.apply(schema)
    good = {"storage": {"type": "mmap", "size": "1Gi"}, "fileWatcher": {"enabled": False}}
    roll_out(installation, **good)


def test_what_the_api_server_refuses_is_said_and_tried_again(
    installation: Installation, operator: Operator
) -> None:
    installation.kubectl("create", "quota", "none", "--hard=count/statefulsets.apps=0")
    installation.apply(cluster())
    eventually(lambda: ready_reason(installation) == "ActionRefused")
    status = installation.get("vzc", NAME)
    assert "exceeded quota" in condition_of(status, "Stalled")["message"]
    assert operator.metric('vectorizer_operator_reconcile_errors_total{reason="Forbidden"}') >= 1
    installation.kubectl("delete", "quota", "none")
    eventually(lambda: names(installation) == CHILDREN, seconds=90)
    eventually(lambda: condition_of(installation.get("vzc", NAME), "Stalled")["status"] == "False")


def test_deleting_a_cluster_removes_its_children_and_keeps_its_volumes(
    installation: Installation, operator: Operator
) -> None:
    roll_out(installation)
    eventually(lambda: f"data-{NAME}-0" in installation.kubectl("get", "pvc", "-o", "name"))
    installation.kubectl("delete", "vzc", NAME)
    # The garbage collector looks every 30 s whether there are new kinds, of which this one is perhaps.
    eventually(lambda: names(installation) == set(), seconds=60)
    at_rest(installation)
    assert names(installation) == set()
    assert f"data-{NAME}-0" in installation.kubectl("get", "pvc", "-o", "name")


def test_a_pod_that_lost_its_owner_goes_when_its_cluster_does(
    installation: Installation, operator: Operator, kubelet: Kubelet
) -> None:
    roll_out(installation)
    eventually(lambda: is_ready(installation.get("vzc", NAME)))
    # Deleted in the moment in which its StatefulSet is made anew, and the operator is away.
    assert operator.stop() == 0
    installation.kubectl("delete", "statefulset", NAME, "--cascade=orphan")
    eventually(lambda: "ownerReferences" not in installation.get("pod", f"{NAME}-0")["metadata"])
    other = installation.get("pod", f"{NAME}-0")
    del other["status"]
    other["metadata"] = {"name": "not-its-own", "labels": other["metadata"]["labels"]}
    installation.apply(other)
    installation.kubectl("delete", "vzc", NAME)
    operator.start()
    eventually(lambda: f"pod/{NAME}-0" not in installation.kubectl("get", "pods", "-o", "name").split())
    assert "pod/not-its-own" in installation.kubectl("get", "pods", "-o", "name").split()


async def test_an_operator_that_is_started_again_writes_nothing(
    installation: Installation, operator: Operator, kubelet: Kubelet, client: KubeClient
) -> None:
    roll_out(installation)
    eventually(lambda: is_ready(installation.get("vzc", NAME)))
    writes = at_rest(installation)
    before = await versions(client, installation.namespace)
    assert operator.stop() == 0
    operator.start()
    eventually(lambda: operator.leads)
    eventually(lambda: operator.metric("vectorizer_operator_reconcile_duration_seconds_count") >= 1)
    installation.kubectl("annotate", "vzc", NAME, "unrelated=1")
    eventually(lambda: operator.metric("vectorizer_operator_reconcile_duration_seconds_count") >= 2)
    after = await versions(client, installation.namespace)
    del before["VectorizerCluster", NAME], after["VectorizerCluster", NAME]
    assert after == before
    assert installation.writes() == writes


async def test_one_of_two_operators_works_and_the_other_takes_over_and_both_answer_the_webhook(
    installation: Installation, operator: Operator
) -> None:
    eventually(lambda: operator.leads)
    network = installation.control_plane.network
    other = Operator(installation, name="other", listen=f"127.{network}.0.77").start()
    try:
        assert not other.leads
        secret = installation.get("secret", installation.webhook_secret)
        ca = base64.b64decode(secret["data"]["ca.crt"])
        review = {"request": {"uid": "u-1", "object": cluster(**RULE_BREAKING)}}
        for each in (operator, other):
            answer = await post_review(each, ca=ca, host=installation.webhook_host, review=review)
            assert answer["response"]["allowed"] is False
        operator.kill()
        eventually(lambda: other.leads, seconds=60, why=other.log)
        installation.webhook_down()
        roll_out(installation)
    finally:
        other.stop()


async def test_a_certificate_from_elsewhere_is_shown_and_none_is_made(
    installation: Installation, tmp_path: Path
) -> None:
    data = certificates.make([installation.webhook_host], now=datetime.now(UTC))
    for name in (certificates.CERTIFICATE, certificates.KEY):
        (tmp_path / name).write_bytes(data[name])
    operator = Operator(installation).start(f"--webhook-certificate={tmp_path}")
    try:
        eventually(lambda: operator.leads)
        answer = await post_review(
            operator,
            ca=data[certificates.AUTHORITIES],
            host=installation.webhook_host,
            review={"request": {"uid": "u-1", "object": cluster()}},
        )
        assert answer["response"]["allowed"] is True
        assert installation.writes() == []
    finally:
        operator.stop()


def test_a_clean_stop_hands_over_at_once(installation: Installation, operator: Operator) -> None:
    network = installation.control_plane.network
    other = Operator(installation, name="other", listen=f"127.{network}.0.77").start()
    try:
        eventually(lambda: operator.leads)
        operator.stop()
        eventually(lambda: other.leads, seconds=5, why=other.log)
    finally:
        other.stop()
    assert "released the Lease" in operator.log()


async def test_a_stopping_operator_is_not_ready_and_still_answers_the_webhook(
    installation: Installation, operator: Operator
) -> None:
    eventually(lambda: operator.leads)
    secret = installation.get("secret", installation.webhook_secret)
    os.kill(operator.pid, signal.SIGTERM)
    eventually(lambda: "stopping" in (operator.ask("/readyz") or ""))
    answer = await post_review(
        operator,
        ca=base64.b64decode(secret["data"]["ca.crt"]),
        host=installation.webhook_host,
        review={"request": {"uid": "u-1", "object": cluster(**RULE_BREAKING)}},
    )
    assert answer["response"]["allowed"] is False
    assert operator.stop() == 0
