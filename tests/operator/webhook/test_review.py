"""What the webhook answers to an AdmissionReview, as a table."""

from typing import Any

import pytest

from vectorizer_operator.webhook.review import NotAReview, review, verdict

GOOD = {"cluster": {"maxCacheMemory": "256Mi"}, "storage": {"type": "mmap", "size": "2Gi"}}


def cluster(spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    meta = {"name": "shop", "namespace": "default", **metadata}
    return {"apiVersion": "vectorizer.io/v1", "kind": "VectorizerCluster", "metadata": meta, "spec": spec}


def admission(new: Any, old: Any = None, *, operation: str = "CREATE") -> dict[str, Any]:
    request = {"uid": "u-1", "operation": operation, "object": new, "oldObject": old}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


def respond(*args: Any, **kwargs: Any) -> dict[str, Any]:
    response: dict[str, Any] = review(admission(*args, **kwargs))["response"]
    return response


def test_a_cluster_that_keeps_the_rules_is_allowed_without_a_word() -> None:
    assert respond(cluster(GOOD)) == {"uid": "u-1", "allowed": True}


@pytest.mark.parametrize(
    ("spec", "code", "fix"),
    [
        ({"storage": {"type": "memory"}}, "CLUSTER_001", "set spec.storage.type to mmap"),
        (
            {"cluster": {"enforceMmapStorage": False}},
            "CLUSTER_001",
            "set spec.cluster.enforceMmapStorage to true",
        ),
        ({"fileWatcher": {"enabled": True}}, "CLUSTER_002", "set spec.fileWatcher.enabled to false"),
        (
            {"cluster": {"disableFileWatcher": False}},
            "CLUSTER_002",
            "set spec.cluster.disableFileWatcher to true",
        ),
        ({"cluster": {"maxCacheMemory": "2Gi"}}, "CLUSTER_003", "set spec.cluster.maxCacheMemory to a size"),
        ({"cluster": {"maxCacheMemory": 0}}, "CLUSTER_003", "set spec.cluster.maxCacheMemory to a size"),
        ({"cluster": {"maxCacheMemory": "lots"}}, "CLUSTER_003", "set spec.cluster.maxCacheMemory to a size"),
        ({"replicas": 2}, "CLUSTER_004", "set spec.replicas to 1"),
    ],
)
def test_a_broken_rule_is_refused_with_its_code_and_fix(spec: dict[str, Any], code: str, fix: str) -> None:
    new = cluster({**GOOD, **spec})
    response = respond(new)
    assert response["allowed"] is False
    assert response["status"]["code"] == 422
    assert code in response["status"]["message"]
    assert fix in response["status"]["message"]
    assert verdict({"response": response}, admission(new)) == (code,)


def test_every_violation_is_listed_not_only_the_first() -> None:
    new = cluster({"storage": {"type": "memory"}, "fileWatcher": {"enabled": True}, "replicas": 3})
    message = respond(new)["status"]["message"]
    assert message.startswith("3 cluster rules are broken:\n- CLUSTER_001")
    assert all(code in message for code in ("CLUSTER_001", "CLUSTER_002", "CLUSTER_004"))


def test_what_is_allowed_and_probably_not_wanted_is_a_warning() -> None:
    response = respond(cluster({**GOOD, "cluster": {"maxCacheMemory": "16Mi"}}))
    assert response["allowed"] is True
    assert response["warnings"] == [
        'spec.cluster.maxCacheMemory is "16Mi", under 64Mi: the caches will spend their time evicting'
    ]


def test_a_refusal_shows_the_warnings_too() -> None:
    response = respond(cluster({"cluster": {"maxCacheMemory": "16Mi"}, "replicas": 2}))
    assert (response["allowed"], len(response["warnings"])) == (False, 1)


def test_an_edit_that_breaks_a_rule_is_refused() -> None:
    response = respond(cluster({**GOOD, "replicas": 2}), cluster(GOOD), operation="UPDATE")
    assert response["allowed"] is False


def test_a_cluster_that_broke_a_rule_before_stays_labelable_and_says_what_it_breaks() -> None:
    old = cluster({**GOOD, "replicas": 2})
    new = cluster({**GOOD, "replicas": 2}, labels={"team": "search"})
    response = respond(new, old, operation="UPDATE")
    assert response["allowed"] is True
    assert "CLUSTER_004" in response["warnings"][0]
    assert verdict({"response": response}, admission(new, old)) == ("allowed",)


def test_a_deletion_is_allowed() -> None:
    assert respond(None, cluster({"replicas": 2}), operation="DELETE")["allowed"] is True


@pytest.mark.parametrize("spec", [None, "text", {"storage": "text"}, {"cluster": {"maxCacheMemory": [1]}}])
def test_what_the_schema_covers_does_not_break_the_webhook(spec: Any) -> None:
    assert respond(cluster(spec))["uid"] == "u-1"


@pytest.mark.parametrize("body", [{}, {"request": None}, {"request": {}}, {"request": "text"}])
def test_what_is_no_review_is_said_to_be_none(body: dict[str, Any]) -> None:
    with pytest.raises(NotAReview, match=r"expected an admission\.k8s\.io/v1 AdmissionReview"):
        review(body)
