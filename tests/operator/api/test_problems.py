"""What is said of a cluster that does not have the right shape."""

from typing import Any

import pytest

from vectorizer_operator.api.problems import structural_problems


def cluster(metadata: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "vectorizer.io/v1",
        "kind": "VectorizerCluster",
        "metadata": metadata or {"name": "demo"},
        "spec": spec,
    }


def problems(raw: dict[str, Any]) -> list[str]:
    return [str(problem) for problem in structural_problems(raw)]


def test_a_plain_cluster_has_none() -> None:
    assert problems(cluster(cluster={"maxCacheMemory": "256Mi"}, storage={"size": "2Gi"})) == []


def test_what_breaks_a_rule_is_no_problem_of_shape() -> None:
    assert problems(cluster(replicas=2, cluster={"maxCacheMemory": "lots"}, storage={"type": "memory"})) == []


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"storage": {"sise": "1Gi"}}, "spec.storage.sise: unknown field; did you mean size?"),
        ({"zzz": 1}, "spec.zzz: unknown field; known here: replicas, image, imagePullSecrets, cluster"),
        ({"auth": {"apiKeySecretRef": {"name": "a", "kye": 1}}}, "spec.auth.apiKeySecretRef.kye: unknown"),
        ({"replicas": "two"}, 'spec.replicas: expected a whole number, found "two"'),
        ({"replicas": True}, "spec.replicas: expected a whole number, found true"),
        ({"replicas": -1}, "spec.replicas: input should be greater than or equal to 0, found -1"),
        ({"paused": "no"}, 'spec.paused: expected true or false, found "no"'),
        ({"image": 7}, "spec.image: expected a text, found 7"),
        ({"storage": "mmap"}, 'spec.storage: expected a mapping, found "mmap"'),
        ({"podTemplate": {"env": {}}}, "spec.podTemplate.env: expected a list, found {}"),
        ({"podTemplate": {"env": ["A=1"]}}, 'spec.podTemplate.env[0]: expected a mapping, found "A=1"'),
        ({"storage": {"size": 1.5}}, "spec.storage.size: expected a whole number or a quantity such as 512Mi, found"),
        ({"storage": {"size": "lots"}}, 'spec.storage.size: expected a size above 0, such as 10Gi, found "lots"'),
        ({"storage": {"size": 0}}, "spec.storage.size: expected a size above 0, such as 10Gi, found 0"),
        ({"auth": {"apiKeySecretRef": {}}}, "spec.auth.apiKeySecretRef.name: required and not set"),
        ({"podTemplate": {"env": [{"value": "x"}]}}, "spec.podTemplate.env[0]: expected a mapping with a name,"),
        ({"podTemplate": {"env": [{"name": "A"}, {"name": "A"}]}}, "spec.podTemplate.env: expected each name once"),
        ({"podTemplate": {"env": [{"name": "A", 1: 2}]}}, "spec.podTemplate.env[0].1: a key has to be a text"),
        ({"service": {"type": "Ingress"}}, "spec.service.type: input should be 'ClusterIP', 'NodePort' or"),
        ({"resources": {"limits": {"memory": "much"}}}, "spec.resources.limits: expected quantities of 0 or more"),
        ({"resources": {"limits": {"memory": "-1"}}}, "spec.resources.limits: expected quantities of 0 or more"),
        (
            {"imagePullSecrets": [{"name": "key"}, {"name": "key"}]},
            "spec.imagePullSecrets: expected each name once",
        ),
        ({"podTemplate": {"labels": {"vectorizer.io/a": "b"}}}, "spec.podTemplate.labels: keys under vectorizer.io/"),
        ({"podTemplate": {"env": [{"name": "VECTORIZER__CLUSTER__ENABLED"}]}}, "spec.podTemplate.env: VECTORIZER__"),
        ({"podTemplate": {"volumes": [{"name": "data"}]}}, "spec.podTemplate.volumes: config, data, tenants, tmp are"),
    ],
)  # fmt: skip
def test_a_problem_names_the_place_the_value_and_what_was_expected(
    spec: dict[str, Any], expected: str
) -> None:
    [found] = problems(cluster(**spec))
    assert found.startswith(expected)


@pytest.mark.parametrize(
    "path",
    [
        "/tmp",
        "/etc/vectorizer",
        "/etc/vectorizer/config.yml",
        "/etc//vectorizer",
        "/x/../etc",
        "/x/./y",
        "/tmp/",
    ],
)
def test_nothing_is_mounted_over_the_operators_own_files(path: str) -> None:
    [found] = problems(cluster(podTemplate={"volumeMounts": [{"name": "x", "mountPath": path}]}))
    assert found.startswith("spec.podTemplate.volumeMounts: expected plain paths outside of")


@pytest.mark.parametrize("path", ["/models", "/etc/ssl/certs", "/tmpfiles", "/home/.cache"])
def test_other_mounts_are_allowed(path: str) -> None:
    assert problems(cluster(podTemplate={"volumeMounts": [{"name": "x", "mountPath": path}]})) == []


@pytest.mark.parametrize("name", ["1st", "Demo", "demo.search", "demo-", "a" * 53, ""])
def test_a_name_that_pods_and_services_cannot_have_is_a_problem(name: str) -> None:
    [found] = problems(cluster({"name": name}))
    assert found.startswith("metadata.name: it becomes the name of pods and Services")


def test_everything_that_is_wrong_is_said_at_once() -> None:
    raw = cluster(
        {}, replicas="x", storage={"size": "lots"}, podTemplate={"env": [{"name": "VECTORIZER__A"}]}
    )
    raw["metadata"] = {}
    places = [problem.path for problem in structural_problems(raw)]
    assert places == ["metadata.name", "spec.replicas", "spec.storage.size", "spec.podTemplate.env"]


@pytest.mark.parametrize(
    "spec",
    [
        {"cluster": None},
        {"image": None, "paused": None},
        {"storage": {"size": None, "storageClassName": None}},
        {"auth": {"apiKeySecretRef": None}},
        {"podTemplate": {"env": None, "labels": {"a": None}}},
        {"scheduling": {"tolerations": [{"key": None}]}},
    ],
)
def test_a_field_that_is_null_is_not_written(spec: dict[str, Any]) -> None:
    assert problems(cluster(**spec)) == []


def test_a_cluster_without_a_spec_is_a_problem() -> None:
    raw = cluster()
    del raw["spec"]
    assert problems(raw) == ["spec: required and not set"]


def test_the_status_is_the_operators_own_affair() -> None:
    assert problems({**cluster(), "status": {"anything": 1}}) == []


def test_a_long_value_is_shortened() -> None:
    [found] = problems(cluster(replicas="x" * 500))
    assert found.endswith("xxx…")
    assert len(found) < 150
