"""What the children are, where a golden file would not say why."""

from typing import Any

import pytest
import yaml

from vectorizer_engine.cluster.validator import validate_cluster_config
from vectorizer_engine.config import ServerConfig, parse_config
from vectorizer_operator.api import VectorizerCluster
from vectorizer_operator.capacity import IDLE_BYTES, pod_memory_bytes
from vectorizer_operator.manifests import child_refs, config_yaml, render, selector


def cluster(**spec: Any) -> VectorizerCluster:
    return VectorizerCluster.parse(
        {
            "apiVersion": "vectorizer.io/v1",
            "kind": "VectorizerCluster",
            "metadata": {"name": "demo", "namespace": "search", "uid": "u1"},
            "spec": spec,
        }
    )


def children(**spec: Any) -> dict[tuple[str, str], dict[str, Any]]:
    objects = render(cluster(**spec), default_image="engine:1")
    return {(child["kind"], child["metadata"]["name"]): child for child in objects}


def container(**spec: Any) -> dict[str, Any]:
    found: dict[str, Any] = children(**spec)["StatefulSet", "demo"]["spec"]["template"]["spec"]["containers"][
        0
    ]
    return found


def test_the_engine_takes_the_configuration_that_is_rendered_for_it() -> None:
    raw = yaml.safe_load(
        config_yaml(cluster(cluster={"maxCacheMemory": "256Mi", "cacheWarningThresholdPercent": 70}))
    )
    config = parse_config(raw)
    assert validate_cluster_config(raw) == []
    assert config.cluster.enabled
    assert config.cluster.max_cache_memory_bytes == 256 * 1024**2
    assert config.cluster.cache_warning_threshold == 70
    assert config.server.host == "0.0.0.0"
    assert str(config.storage.path) == "/var/lib/vectorizer"


def test_what_breaks_a_rule_is_passed_on_to_the_engine_as_it_was_written() -> None:
    broken = cluster(
        cluster={"maxCacheMemory": "lots", "enforceMmapStorage": False, "disableFileWatcher": False},
        storage={"type": "memory"},
        fileWatcher={"enabled": True},
    )
    found = {v.path: v.current_value for v in validate_cluster_config(yaml.safe_load(config_yaml(broken)))}
    assert found == {
        "storage.type": "memory",
        "cluster.enforce_mmap_storage": False,
        "file_watcher.enabled": True,
        "cluster.disable_file_watcher": False,
        "cluster.max_cache_memory_bytes": "lots",
    }


def test_every_child_is_owned_labelled_and_in_the_clusters_namespace() -> None:
    for child in children(podDisruptionBudget={"enabled": True}).values():
        metadata = child["metadata"]
        assert metadata["namespace"] == "search"
        assert metadata["labels"]["vectorizer.io/cluster"] == "demo"
        [owner] = metadata["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("VectorizerCluster", "u1", True)


def test_every_child_is_among_those_to_observe() -> None:
    names = set(children(podDisruptionBudget={"enabled": True}))
    assert names == {(ref.kind, ref.name) for ref in child_refs("demo")}


def test_children_of_a_cluster_without_uid_have_no_owner() -> None:
    objects = render(
        VectorizerCluster.parse({**cluster().model_dump(by_alias=True), "metadata": {"name": "demo"}}),
        default_image="engine:1",
    )
    assert not any("ownerReferences" in child["metadata"] for child in objects)


def test_the_pods_meet_the_restricted_pod_security_standard() -> None:
    pod = children()["StatefulSet", "demo"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    security = pod["containers"][0]["securityContext"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["readOnlyRootFilesystem"] is True
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert {tuple(volume)[1] for volume in pod["volumes"]} <= {"configMap", "emptyDir", "secret", "projected"}


def test_only_a_configuration_change_moves_the_configurations_hash() -> None:
    def template(**spec: Any) -> dict[str, Any]:
        found: dict[str, Any] = children(**spec)["StatefulSet", "demo"]["spec"]["template"]
        return found

    quiet = template(storage={"size": "99Gi"}, service={"type": "NodePort"}, networkPolicy={"enabled": False})
    assert quiet == template()
    changed = template(cluster={"maxCacheMemory": "512Mi"})
    assert changed["metadata"]["annotations"] != template()["metadata"]["annotations"]


@pytest.mark.parametrize(("limit", "memory"), [("64Mi", "219Mi"), ("256Mi", "420Mi"), ("1Gi", "1227Mi")])
def test_the_memory_limit_is_the_sum_that_the_engine_promises(limit: str, memory: str) -> None:
    resources = container(cluster={"maxCacheMemory": limit})["resources"]
    assert resources == {"requests": {"cpu": "250m", "memory": memory}, "limits": {"memory": memory}}


@pytest.mark.parametrize(("shares_store", "budgets"), [(False, 1), (True, 2)])
def test_the_capacity_model_adds_what_the_engine_may_use(shares_store: bool, budgets: int) -> None:
    limit = 512 * 1024**2
    promised = (IDLE_BYTES + limit + budgets * ServerConfig().request_memory_bytes) * 1.05
    assert promised <= pod_memory_bytes(limit, shares_store=shares_store) < promised + 1024**2


def test_pods_that_share_a_store_have_memory_for_what_they_ask_of_each_other() -> None:
    storage = {"objectStore": {"url": "s3://bucket/search"}}
    limits = container(storage=storage, cluster={"maxCacheMemory": "64Mi"})["resources"]["limits"]
    assert limits == {"memory": "286Mi"}


def test_resources_that_are_written_win_and_the_rest_is_computed() -> None:
    resources = container(resources={"requests": {"cpu": 2}, "limits": {"nvidia.com/gpu": 1}})["resources"]
    assert resources["requests"] == {"cpu": "2", "memory": "1227Mi"}
    assert resources["limits"] == {"memory": "1227Mi", "nvidia.com/gpu": "1"}


def test_a_written_memory_limit_is_requested_too() -> None:
    resources = container(resources={"limits": {"memory": "3Gi"}})["resources"]
    assert resources["requests"]["memory"] == resources["limits"]["memory"] == "3Gi"


def test_the_api_keys_come_from_their_secrets() -> None:
    reader = {"name": "keys", "key": "reader"}
    env = container(auth={"apiKeySecretRef": {"name": "keys"}, "readOnlyApiKeySecretRef": reader})["env"]
    assert {each["name"]: each["valueFrom"]["secretKeyRef"] for each in env} == {
        "VECTORIZER__AUTH__API_KEY": {"name": "keys", "key": "api-key"},
        "VECTORIZER__AUTH__READ_ONLY_API_KEY": reader,
    }
    assert [each["name"] for each in container(auth={"apiKeySecretRef": {"name": "keys"}})["env"]] == [
        "VECTORIZER__AUTH__API_KEY"
    ]


def test_a_cluster_without_image_remembers_the_one_it_was_made_with() -> None:
    annotations = children()["StatefulSet", "demo"]["metadata"]["annotations"]
    assert annotations["vectorizer.io/default-image"] == "engine:1"
    named = children(image="engine:9")["StatefulSet", "demo"]["metadata"]["annotations"]
    assert "vectorizer.io/default-image" not in named


def test_one_service_of_a_cluster_says_how_its_metrics_are_read() -> None:
    """A ServiceMonitor selects by it: each pod once, and with a key only where there is one."""

    def said(**spec: Any) -> list[str]:
        services = (child for (kind, _), child in children(**spec).items() if kind == "Service")
        labels = (service["metadata"]["labels"] for service in services)
        return [each["vectorizer.io/metrics"] for each in labels if "vectorizer.io/metrics" in each]

    assert said() == ["open"]
    assert said(auth={"apiKeySecretRef": {"name": "key"}}) == ["key"]


S3 = {"url": "s3://vectors/demo", "endpoint": "http://minio.storage.svc:9000", "region": "eu-central-1"}


def stored(store: dict[str, Any], **spec: Any) -> dict[tuple[str, str], dict[str, Any]]:
    return children(storage={"objectStore": store}, **spec)


def test_the_engine_is_told_where_its_object_store_is() -> None:
    config = parse_config(yaml.safe_load(config_yaml(cluster(storage={"objectStore": S3})))).storage
    assert config.object_store.model_dump() == {**S3, "max_copies_bytes": None}
    assert str(config.path) == "/var/lib/vectorizer"
    assert "object_store" not in config_yaml(cluster())


@pytest.mark.parametrize(
    ("url", "required"),
    [
        ("s3://vectors", {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}),
        ("gs://vectors", {"GOOGLE_SERVICE_ACCOUNT_KEY"}),
        ("az://vectors", {"AZURE_STORAGE_ACCOUNT_NAME"}),
    ],
)
def test_the_credentials_of_its_kind_come_from_the_secret(url: str, required: set[str]) -> None:
    env = container(storage={"objectStore": {"url": url, "secretRef": {"name": "keys"}}})["env"]
    references = {
        each["name"]: each["valueFrom"]["secretKeyRef"] for each in env if "VECTORIZER" not in each["name"]
    }
    assert {name for name, each in references.items() if not each.get("optional")} == required
    assert all((each["name"], each["key"]) == ("keys", name) for name, each in references.items())


def test_another_secret_rolls_the_pods_and_none_leaves_them_without_credentials() -> None:
    env = container(storage={"objectStore": S3})["env"]
    assert env == [
        {
            "name": "VECTORIZER__CLUSTER__POD_NAME",
            "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}},
        },
        {
            "name": "VECTORIZER__CLUSTER__INTERNAL_KEY",
            "valueFrom": {"secretKeyRef": {"name": "demo-internal", "key": "key"}},
        },
    ]
    one, other = (container(storage={"objectStore": {**S3, "secretRef": {"name": n}}}) for n in "ab")
    assert one != other


def ports(rule: dict[str, Any]) -> set[tuple[str, int | None]]:
    return {(each["protocol"], each.get("port")) for each in rule["ports"]}


def egress(store: dict[str, Any], **spec: Any) -> list[dict[str, Any]]:
    """The rules about the store. The last one is about the other pods."""
    *found, peers = stored(store, **spec)["NetworkPolicy", "demo"]["spec"]["egress"]
    assert peers == {
        "to": [{"podSelector": {"matchLabels": selector("demo")}}],
        "ports": [{"port": "http", "protocol": "TCP"}],
    }
    return found


def test_pods_reach_the_name_service_and_the_port_of_their_store() -> None:
    names, store = egress({"url": "s3://vectors", "secretRef": {"name": "keys"}})
    assert {("UDP", 53), ("TCP", 53)} <= ports(names)
    assert ports(store) == {("TCP", 443)}


def test_pods_reach_a_store_inside_of_kubernetes_whatever_port_is_behind_its_service() -> None:
    _, store, inside = egress({**S3, "secretRef": {"name": "keys"}})
    assert ports(store) == {("TCP", 9000)}
    assert (inside["to"], ports(inside)) == ([{"namespaceSelector": {}}], {("TCP", None)})


def test_pods_without_a_secret_reach_the_service_that_tells_who_they_are() -> None:
    *_, metadata = egress({"url": "gs://vectors"})
    assert metadata["to"] == [{"ipBlock": {"cidr": "169.254.0.0/16"}}]


def test_pods_reach_nothing_for_the_sake_of_a_mounted_folder() -> None:
    mounts = [{"name": "objects", "mountPath": "/objects"}]
    assert egress({"url": "file:///objects/demo"}, podTemplate={"volumeMounts": mounts}) == []
    assert "egress" not in children()["NetworkPolicy", "demo"]["spec"]
