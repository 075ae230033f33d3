"""`vectorizerctl plan`, `status` and `why` on a real API server, with no more rights than their page asks for, under
that name and as kubectl's plugin.

One operator, one node, one rolled-out cluster serve the module.
"""

import json
import os
import re
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from click.testing import CliRunner, Result
from qdrant_client import QdrantClient, models

from tests.e2e.harness import ROOT, Installation, Operator, is_ready
from tests.e2e.quickstart import NAME, cluster
from tests.kube.controlplane import CommandError, ControlPlane
from tests.kube.eventually import eventually
from tests.kube.kubelet import Kubelet
from vectorizer_operator.api import CLUSTER_LABEL
from vectorizer_operator.cli import ctl_main

NAMESPACE = "ctl-live"
READER = "reader"
MEMBER_KEY = "what the members of a cluster show each other"

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def live(
    control_plane: ControlPlane, kubelet: Kubelet, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """The quickstart, Ready, under a running operator; and a ServiceAccount with the documented rights."""
    control_plane.kubectl("create", "namespace", NAMESPACE)
    made = Installation(control_plane, NAMESPACE, tmp_path_factory.mktemp("live"))
    operator = Operator(made).start()
    page = (ROOT / "docs" / "reference" / "vectorizerctl.md").read_text()
    (role,) = re.findall(r"```yaml\n(apiVersion: rbac.*?)```", page, re.DOTALL)
    made.kubectl("apply", "-f", "-", stdin=role)
    made.kubectl("create", "serviceaccount", READER)
    made.kubectl(
        "create",
        "rolebinding",
        READER,
        "--clusterrole=vectorizerctl",
        f"--serviceaccount={NAMESPACE}:{READER}",
    )
    made.apply(cluster())
    eventually(lambda: is_ready(made.get("vzc", NAME)), seconds=120, why=operator.log)
    yield made
    operator.stop()
    made.remove_cluster_wide()
    control_plane.kubectl("delete", "clusterrole", "vectorizerctl", "--wait=false")
    control_plane.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture
def run(live: Installation, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`vectorizerctl` as the reader."""
    kubeconfig = live.control_plane.kubeconfig_for_service_account(NAMESPACE, READER)
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))

    def run(*arguments: str, stdin: object = None) -> Result:
        text = stdin if isinstance(stdin, str) else yaml.safe_dump(stdin)
        return CliRunner().invoke(ctl_main, [*arguments, "-n", NAMESPACE], input=text)

    return run


def test_what_is_there_already_changes_nothing(run: Run) -> None:
    result = run("plan", "-f", "-", stdin=cluster())
    assert (result.exit_code, result.output) == (0, f"{NAMESPACE}/{NAME}: nothing would change\n")


def test_what_plan_says_comes_true(live: Installation, run: Run) -> None:
    pod = live.get("pod", f"{NAME}-0")["metadata"]["uid"]
    quiet = {"podDisruptionBudget": {"enabled": False}, "service": {"annotations": {"a.example/b": "c"}}}
    result = run("plan", "-f", "-", stdin=cluster(**quiet))
    assert result.exit_code == 1
    assert f"  - delete PodDisruptionBudget {NAME}: the spec does not ask for it\n" in result.output
    assert f"  ~ change Service {NAME}: metadata.annotations.a.example/b: unset → c\n" in result.output
    assert result.output.endswith("  no pod restarts\n")
    live.apply(cluster(**quiet))
    eventually(lambda: run("plan", "-f", "-", stdin=cluster(**quiet)).exit_code == 0)
    eventually(lambda: is_ready(live.get("vzc", NAME)))
    assert live.get("pod", f"{NAME}-0")["metadata"]["uid"] == pod

    loud = {**quiet, "cluster": {"maxCacheMemory": "128Mi"}}
    result = run("plan", "-f", "-", stdin=cluster(**loud))
    assert result.exit_code == 1
    assert "  spec.cluster.maxCacheMemory: 256Mi → 128Mi\n" in result.output
    assert (
        f"  ! restart pod {NAME}-0: config.yml.cluster.max_cache_memory_bytes: 268435456 → " in result.output
    )
    live.apply(cluster(**loud))
    eventually(lambda: is_ready(live.get("vzc", NAME)), seconds=60)
    assert live.get("pod", f"{NAME}-0")["metadata"]["uid"] != pod


def test_a_cluster_that_is_not_there_yet_would_be_created(run: Run) -> None:
    fresh = {**cluster(), "metadata": {"name": "fresh"}}
    result = run("plan", "-f", "-", "-o", "json", stdin=fresh)
    assert result.exit_code == 1
    (seen,) = json.loads(result.stdout)
    assert (seen["namespace"], seen["name"], seen["new"]) == (NAMESPACE, "fresh", True)
    assert {child["verb"] for child in seen["objects"]} == {"create"}
    assert [(pod["verb"], pod["name"]) for pod in seen["pods"]] == [("start", "fresh-0")]


def test_an_object_in_the_way_is_foreseen_and_then_explained(live: Installation, run: Run) -> None:
    live.kubectl("create", "configmap", "taken-config")
    taken = {**cluster(), "metadata": {"name": "taken"}}
    foreseen = run("plan", "-f", "-", stdin=taken)
    assert foreseen.exit_code == 2
    assert (
        "would not be rolled out: ForeignObjectNotAdopted: ConfigMap taken-config exists" in foreseen.output
    )
    live.apply(taken)
    result = eventually(
        lambda: (said := run("why", "taken")).exit_code == 1 and "predicate" in said.output and said
    )
    assert f"{NAMESPACE}/taken: predicate ForeignObjectNotAdopted, for 0:00:" in result.output
    assert "  in:    Stalled=True, Ready=False\n" in result.output
    assert (
        "  means: An object of somebody else's that holds a child's name is left alone, and named.\n"
        in result.output
    )
    assert "  do:    Delete or rename the object that is in the way" in result.output
    live.kubectl("delete", "vzc", "taken")


def test_why_of_a_cluster_that_is_as_wished_says_so(live: Installation, run: Run) -> None:
    eventually(lambda: is_ready(live.get("vzc", NAME)), seconds=60)
    result = run("why", NAME)
    assert (result.exit_code, result.output) == (0, f"{NAMESPACE}/{NAME}: nothing is in the way\n")
    assert json.loads(run("why", NAME, "-o", "json").stdout) == []


def test_kubectl_get_shows_a_cluster_in_the_columns_of_its_schema(live: Installation) -> None:
    eventually(lambda: is_ready(live.get("vzc", NAME)), seconds=60)
    header, row = live.kubectl("get", "vzc", NAME).splitlines()
    assert header.split() == ["NAME", "READY", "REPLICAS", "CACHE", "VERSION", "AGE"]
    spec, status = (live.get("vzc", NAME)[part] for part in ("spec", "status"))
    *shown, age = row.split()
    assert shown == [NAME, "True", "1", spec["cluster"]["maxCacheMemory"], status["currentVersion"]]
    assert re.fullmatch(r"(\d+[smh])+", age)


def test_status_shows_conditions_and_pods_and_why_an_engine_was_not_asked(
    live: Installation, run: Run
) -> None:
    eventually(lambda: is_ready(live.get("vzc", NAME)), seconds=60)
    result = run("status", NAME)
    assert result.exit_code == 0
    assert f"{NAMESPACE}/{NAME}  http://{NAME}.{NAMESPACE}.svc:6333\n" in result.output
    assert re.search(r"Ready +True +PodsReady: 1 of 1 pods answer requests", result.output)
    # The API server of the tests has its pods at loopback addresses, to which it lets nobody through.
    assert f"  pod {NAME}-0: ready, " in result.output
    assert "the engine was not to be asked: address not allowed" in result.output


def test_kubectl_runs_each_command_as_its_plugin(live: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """kubectl finds `kubectl-vectorizer` on PATH, and passes on its output and its exit status."""
    programs = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    reader = live.control_plane.kubeconfig_for_service_account(NAMESPACE, READER)
    eventually(lambda: is_ready(live.get("vzc", NAME)), seconds=60)

    def plugin(*arguments: str, stdin: str = "") -> str:
        return live.control_plane.kubectl("vectorizer", *arguments, stdin=stdin, kubeconfig=reader)

    assert str(programs / "kubectl-vectorizer") in live.control_plane.kubectl("plugin", "list")
    wanted = live.get("vzc", NAME)
    assert plugin("validate", "-", stdin=json.dumps(wanted)).endswith(f"{NAME}: valid\n")
    assert plugin("status", NAME, "--namespace", NAMESPACE).startswith(f"{NAMESPACE}/{NAME}  http://")
    assert plugin("why", NAME, "-n", NAMESPACE) == f"{NAMESPACE}/{NAME}: nothing is in the way\n"
    unchanged = plugin("plan", "-f", "-", "-n", NAMESPACE, stdin=json.dumps(wanted))
    assert unchanged == f"{NAMESPACE}/{NAME}: nothing would change\n"
    wanted["spec"]["replicas"] = 0
    with pytest.raises(CommandError) as changes:
        plugin("plan", "-f", "-", "-n", NAMESPACE, stdin=json.dumps(wanted))
    assert changes.value.status == 1, changes.value


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """An engine with an API key at an address of this machine that the API server's proxy takes: not of loopback.

    It fails where there is none, instead of leaving out what no other test looks at.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing: it asks which address would
        address = probe.getsockname()[0]
    with socket.create_server((address, 0)) as free:
        port = free.getsockname()[1]
    config = {
        "server": {"host": address, "port": port},
        "storage": {"path": str(tmp_path / "data"), "object_store": {"url": f"file://{tmp_path}/store"}},
        "auth": {"api_key": "secret"},
        "cluster": {"enabled": True, "pod_name": "engine-by-hand", "internal_key": MEMBER_KEY},
    }
    (tmp_path / "config.yml").write_text(yaml.safe_dump(config))
    program = Path(sys.executable).with_name("vectorizer")
    process = subprocess.Popen(
        [program, "serve", "--config", str(tmp_path / "config.yml")], stderr=subprocess.DEVNULL
    )
    try:
        eventually(lambda: _told(address, port))
        yield address, port
    finally:
        process.terminate()
        process.wait(timeout=20)


def _told(address: str, port: int) -> bool:
    """Whether the engine heard that it serves, as the only member of its cluster."""
    topology = {"version": 3, "members": [{"name": "engine-by-hand", "address": f"{address}:{port}"}]}
    url = f"http://{address}:{port}/internal/topology"
    try:
        return httpx.put(url, json=topology, headers={"api-key": MEMBER_KEY}).status_code == 200
    except httpx.TransportError:
        return False


def test_status_shows_memory_and_collections_of_an_engine_with_a_key(
    live: Installation, run: Run, engine: tuple[str, int]
) -> None:
    """The pod is ours to make: the cluster is stopped, so the operator looks at no pod of that name."""
    address, port = engine
    live.kubectl("create", "secret", "generic", "key", "--from-literal=misspelt=secret")
    stopped = {
        **cluster(replicas=0, auth={"apiKeySecretRef": {"name": "key"}}),
        "metadata": {"name": "keyed"},
    }
    live.apply(stopped)
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "engine-by-hand", "labels": {CLUSTER_LABEL: "keyed"}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": "nowhere"},
            "containers": [
                {"name": "engine", "image": "engine:1", "ports": [{"name": "http", "containerPort": port}]}
            ],
        },
    }
    live.apply(pod)
    status = {
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
    }
    live.kubectl(
        "patch",
        "pod",
        "engine-by-hand",
        "--subresource=status",
        "--type=merge",
        "-p",
        json.dumps({"status": status}),
    )

    def shown() -> Any:
        return json.loads(run("status", "keyed", "-o", "json").stdout)["pods"][0]

    assert (
        "the API key is not to be had from Secret key: secrets" in shown()["trouble"]
    )  # no right to read it
    live.kubectl("create", "role", "keys", "--verb=get", "--resource=secrets", "--resource-name=key")
    live.kubectl("create", "rolebinding", "keys", "--role=keys", f"--serviceaccount={NAMESPACE}:{READER}")
    eventually(lambda: "it has no key api-key" in shown()["trouble"], why=lambda: str(shown()))
    live.kubectl("patch", "secret", "key", "-p", '{"stringData": {"api-key": "secret"}}')
    eventually(lambda: "memory" in shown(), why=lambda: str(shown()))
    seen = shown()
    assert seen["memory"]["ledger"]["limit_bytes"] > 0
    assert seen["collections"] == {"count": 0, "shown": {}}
    with warnings.catch_warnings(action="ignore"):  # that the key goes over plain HTTP, on this machine
        client = QdrantClient(f"http://{address}:{port}", api_key="secret")
    for name in ("docs", "notes 1"):
        client.create_collection(name, models.VectorParams(size=4, distance=models.Distance.DOT))
    # A collection is made before each of its shards is open; whoever asks for one waits.
    text = eventually(
        lambda: "12 served, 0 waited for" in (said := run("status", "keyed").output) and said,
        why=lambda: run("status", "keyed").output,
    )
    assert re.search(r"caches 0\.\d MiB of 1024\.0 MiB \(0%\)", text)
    assert "collections of all pods: 2\n      docs: green, 0 points, 0 segments\n      notes 1: green" in text
    assert "  served together by engine-by-hand (topology 3)\n" in text
    shards = "    shards: 12 served, 0 waited for, 0 leaving\n"  # a collection is created before it is opened
    eventually(lambda: shards in run("status", "keyed").output, why=lambda: run("status", "keyed").output)


def test_a_cluster_that_is_not_there_is_named(run: Run) -> None:
    for command in ("status", "why"):
        result = run(command, "nobody")
        assert result.exit_code == 2
        assert 'vectorizerclusters.vectorizer.io "nobody" not found' in result.stderr


def test_what_cannot_be_answered_ends_with_2(
    live: Installation, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("plan", "-f", "nowhere.yaml").exit_code == 2
    broken = run("plan", "-f", "-", stdin=cluster(storage={"type": "memory"}))
    assert broken.exit_code == 2
    assert "CLUSTER_001" in broken.stderr
    assert run("plan", "-f", "-", stdin={"apiVersion": "v1", "kind": "Secret"}).exit_code == 2
    elsewhere = {**cluster(), "metadata": {"name": NAME, "namespace": "elsewhere"}}
    assert "is of the namespace elsewhere" in run("plan", "-f", "-", stdin=elsewhere).stderr
    assert "Expected object with name unheard-of" in run("why", NAME, "--context", "unheard-of").stderr
    nobody = live.control_plane.kubeconfig_for_service_account(NAMESPACE, "default")
    monkeypatch.setenv("KUBECONFIG", str(nobody))
    refused = run("plan", "-f", "-", stdin=cluster())
    assert refused.exit_code == 2
    assert "cannot get resource" in refused.stderr
    assert "docs/reference/vectorizerctl.md has a ClusterRole" in refused.stderr
