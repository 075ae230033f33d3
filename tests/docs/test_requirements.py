"""What the pages say that an installation needs is what it asks for."""

from pathlib import Path

import yaml

from vectorizer_engine.cluster.validator import MAX_CACHE_MEMORY_BYTES
from vectorizer_operator.capacity import pod_memory_bytes

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SETUP = (ROOT / "docs" / "users" / "CLUSTER_SETUP.md").read_text()
CHART = ROOT / "helm" / "vectorizer-operator"


def test_the_pages_name_the_oldest_kubernetes_that_the_chart_takes() -> None:
    oldest = yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"]
    version = oldest.removeprefix(">=").removesuffix(".0-0")
    assert f"| Kubernetes | {version} or newer," in SETUP
    assert f"Kubernetes {version} or newer" in README


def test_the_page_names_the_memory_that_the_greatest_limit_takes_with_and_without_a_store() -> None:
    alone, sharing = (
        pod_memory_bytes(MAX_CACHE_MEMORY_BYTES, shares_store=shares_store) // 1024**2
        for shares_store in (False, True)
    )
    assert f"1Gi, it is {alone} MiB, and {sharing} MiB where there is an object store" in SETUP


def test_the_page_names_what_the_operators_pods_request() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    requests = values["resources"]["requests"]
    assert values["replicas"] == 2
    memory = requests["memory"].removesuffix("Mi")
    assert f"{memory} MiB and {requests['cpu']} CPU for each of two pods" in SETUP
