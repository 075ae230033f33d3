"""What the children are, where a golden file would not say why."""

from typing import Any

import pytest
import yaml

from vectorizer_engine.cluster.validator import validate_cluster_config
from vectorizer_engine.config import ServerConfig, parse_config
from vectorizer_operator.api import VectorizerCluster
from vectorizer_operator.capacity import IDLE_BYTES, pod_memory_bytes
from vectorizer_operator.manifests import child_refs, config_yaml, render


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


def test_the_capacity_model_adds_what_the_engine_may_use() -> None:
    limit = 512 * 1024**2
    promised = (IDLE_BYTES + limit + ServerConfig().request_memory_bytes) * 1.05
    assert promised <= pod_memory_bytes(limit) < promised + 1024**2


def test_resources_that_are_written_win_and_the_rest_is_computed() -> None:
    resources = container(resources={"requests": {"cpu": 2}, "limits": {"nvidia.com/gpu": 1}})["resources"]
    assert resources["requests"] == {"cpu": "2", "memory": "1227Mi"}
    assert resources["limits"] == {"memory": "1227Mi", "nvidia.com/gpu": "1"}


def test_a_written_memory_limit_is_requested_too() -> None:
    resources = container(resources={"limits": {"memory": "3Gi"}})["resources"]
    assert resources["requests"]["memory"] == resources["limits"]["memory"] == "3Gi"


def test_the_api_key_comes_from_its_secret() -> None:
    [variable] = container(auth={"apiKeySecretRef": {"name": "keys"}})["env"]
    assert variable["name"] == "VECTORIZER__AUTH__API_KEY"
    assert variable["valueFrom"] == {"secretKeyRef": {"name": "keys", "key": "api-key"}}


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
