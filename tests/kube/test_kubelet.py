"""The test node: pods of the real controllers run as processes, and end, restart and fail as pods do."""

import json
import os
import signal
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.kube.controlplane import CommandError, ControlPlane
from tests.kube.eventually import eventually
from tests.kube.kubelet import Kubelet

SERVER = Path(__file__).with_name("httpd.py")
PORT = 8080


def template(**container: Any) -> dict[str, Any]:
    """A pod template with the small HTTP server, listening at the pod's address."""
    return {
        "metadata": {"labels": {"app": "web"}},
        "spec": {
            "terminationGracePeriodSeconds": 5,
            "containers": [
                {
                    "name": "server",
                    "image": "example.com/server:1",
                    "command": ["python", "-I", "-S", str(SERVER)],
                    "args": ["$(POD_IP)", str(PORT), "/data"],
                    "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                    "ports": [{"name": "http", "containerPort": PORT}],
                    "readinessProbe": {
                        "httpGet": {"path": "/readyz", "port": "http"},
                        "periodSeconds": 1,
                        "failureThreshold": 1,
                    },
                    **container,
                }
            ],
        },
    }


class Cluster:
    """A namespace of the control plane, spoken to by kubectl."""

    def __init__(self, control_plane: ControlPlane, namespace: str) -> None:
        self._control_plane = control_plane
        self.namespace = namespace

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self._control_plane.kubectl(f"--namespace={self.namespace}", *arguments, stdin=stdin)

    def apply(self, *objects: dict[str, Any]) -> None:
        self.kubectl(
            "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        )

    def get(self, *names: str) -> dict[str, Any]:
        return dict(json.loads(self.kubectl("get", *names, "-o", "json")))

    def pods(self) -> list[dict[str, Any]]:
        return list(self.get("pods", "--selector=app=web")["items"])

    def wait(self, what: str, *arguments: str) -> None:
        """`kubectl wait`; when it takes too long, say how the pods were."""
        try:
            self.kubectl("wait", "--timeout=30s", f"--for={what}", *arguments)
        except CommandError as error:
            raise AssertionError(f"{error}\n{self.kubectl('get', 'pods', '-o', 'yaml')}") from None

    def deploy(self, replicas: int = 1, **container: Any) -> None:
        pods = template(**container)
        pods["spec"]["containers"][0]["args"].pop()
        self.apply(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "web"},
                "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": pods},
            }
        )

    def stateful_set(self, replicas: int = 1, **container: Any) -> None:
        """One with a volume claim for each pod, at /data."""
        mounts = [{"name": "data", "mountPath": "/data"}]
        self.apply(
            {
                "apiVersion": "apps/v1",
                "kind": "StatefulSet",
                "metadata": {"name": "web"},
                "spec": {
                    "replicas": replicas,
                    "serviceName": "web",
                    "selector": {"matchLabels": {"app": "web"}},
                    "template": template(volumeMounts=mounts, **container),
                    "volumeClaimTemplates": [
                        {
                            "metadata": {"name": "data"},
                            "spec": {
                                "accessModes": ["ReadWriteOnce"],
                                "resources": {"requests": {"storage": "1Gi"}},
                            },
                        }
                    ],
                },
            }
        )
        eventually(lambda: len(self.pods()) == replicas)  # `kubectl wait` does not always wait for a creation
        self.wait("condition=Ready", *(f"pod/web-{ordinal}" for ordinal in range(replicas)))

    def volume(self, claim: str) -> Path:
        """The folder behind a claim."""
        volume = self.get(f"pvc/{claim}")["spec"]["volumeName"]
        return Path(self.get(f"pv/{volume}")["spec"]["hostPath"]["path"])


@pytest.fixture
def cluster(control_plane: ControlPlane, kubelet: Kubelet, namespace: str) -> Cluster:
    kubelet.check()
    return Cluster(control_plane, namespace)


def fetch(address: str, path: str = "", port: int = PORT) -> str:
    with urllib.request.urlopen(f"http://{address}:{port}/{path}", timeout=5) as response:
        return str(response.read().decode())


def pid_of(pod: dict[str, Any]) -> int:
    return int(fetch(pod["status"]["podIP"], "pid"))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_deployment_becomes_available_and_each_pod_answers_at_its_address(cluster: Cluster) -> None:
    cluster.deploy(replicas=2)
    cluster.wait("condition=Available", "deployment/web")
    cluster.wait("jsonpath={.status.readyReplicas}=2", "deployment/web")
    pods = cluster.pods()
    addresses = {pod["status"]["podIP"] for pod in pods}
    assert len(addresses) == 2
    for address in addresses:
        assert fetch(address, "hello") == ""
    status = pods[0]["status"]
    assert status["phase"] == "Running"
    assert {"Ready", "ContainersReady", "Initialized", "PodScheduled"} <= {
        condition["type"] for condition in status["conditions"] if condition["status"] == "True"
    }
    [container] = status["containerStatuses"]
    assert (container["ready"], container["restartCount"]) == (True, 0)
    assert "startedAt" in container["state"]["running"]


def test_a_deleted_deployment_leaves_no_pod_and_no_process(cluster: Cluster) -> None:
    cluster.deploy(replicas=2)
    cluster.wait("jsonpath={.status.readyReplicas}=2", "deployment/web")
    pids = [pid_of(pod) for pod in cluster.pods()]
    assert all(map(alive, pids))
    cluster.kubectl("delete", "deployment/web")
    cluster.wait("delete", "pod", "--selector=app=web")
    assert not any(map(alive, pids))


def test_a_changed_template_rolls_the_pods_of_a_deployment(cluster: Cluster) -> None:
    cluster.deploy()
    cluster.wait("condition=Available", "deployment/web")
    [before] = cluster.pods()
    cluster.kubectl("set", "env", "deployment/web", "GREETING=hello")
    cluster.kubectl("rollout", "status", "deployment/web", "--timeout=30s")
    eventually(lambda: len(cluster.pods()) == 1)
    [after] = cluster.pods()
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert json.loads(fetch(after["status"]["podIP"], "env"))["GREETING"] == "hello"


def test_a_stateful_pod_keeps_its_volume_over_a_restart_of_its_process_and_a_new_pod(
    cluster: Cluster,
) -> None:
    cluster.stateful_set(replicas=2)
    assert [pod["metadata"]["name"] for pod in cluster.pods()] == ["web-0", "web-1"]
    folder = cluster.volume("data-web-0")
    assert folder != cluster.volume("data-web-1")
    [first_pid] = (folder / "starts").read_text().split()

    os.kill(int(first_pid), signal.SIGKILL)
    cluster.wait("jsonpath={.status.containerStatuses[0].restartCount}=1", "pod/web-0")
    cluster.wait("condition=Ready", "pod/web-0")
    pod = cluster.get("pod/web-0")
    last = pod["status"]["containerStatuses"][0]["lastState"]["terminated"]
    assert (last["exitCode"], last["reason"]) == (137, "Error")

    cluster.kubectl("delete", "pod/web-0")
    eventually(
        lambda: (
            cluster.kubectl("get", "pod/web-0", "--ignore-not-found", "-o", "name")
            and cluster.get("pod/web-0")["metadata"]["uid"] != pod["metadata"]["uid"]
        )
    )
    cluster.wait("condition=Ready", "pod/web-0")
    again = cluster.get("pod/web-0")
    assert again["status"]["podIP"] != pod["status"]["podIP"]
    assert again["status"]["containerStatuses"][0]["restartCount"] == 0
    assert len((folder / "starts").read_text().split()) == 3


def test_readiness_follows_the_probe(cluster: Cluster) -> None:
    cluster.stateful_set()
    probe = cluster.volume("data-web-0") / "readyz"
    probe.write_text("503")
    cluster.wait("condition=Ready=False", "pod/web-0")
    probe.unlink()
    cluster.wait("condition=Ready", "pod/web-0")
    assert cluster.get("pod/web-0")["status"]["containerStatuses"][0]["restartCount"] == 0


def test_a_failing_liveness_probe_restarts_the_container(cluster: Cluster) -> None:
    probe = {"httpGet": {"path": "/livez", "port": "http"}, "periodSeconds": 1, "failureThreshold": 1}
    cluster.stateful_set(livenessProbe={**probe, "initialDelaySeconds": 1})
    (cluster.volume("data-web-0") / "livez").write_text("500")
    cluster.wait("jsonpath={.status.containerStatuses[0].restartCount}=1", "pod/web-0")


def test_a_crashing_container_is_seen_in_back_off_and_with_its_log(
    cluster: Cluster, kubelet: Kubelet
) -> None:
    cluster.deploy(command=["python", "-c", "raise SystemExit('no way')"])
    path = "jsonpath={.items[0].status.containerStatuses[0].state.waiting.reason}"
    eventually(lambda: cluster.kubectl("get", "pods", "-o", path) == "CrashLoopBackOff")
    [pod] = cluster.pods()
    assert "no way\n" in kubelet.log(cluster.namespace, pod["metadata"]["name"])
    with pytest.raises(LookupError, match="no container \\* of pod nowhere/none has run here"):
        kubelet.log("nowhere", "none")


def test_config_maps_and_secrets_are_waited_for_and_then_given(cluster: Cluster) -> None:
    pods = template(
        args=["$(POD_IP)", str(PORT)],
        env=[
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "k"}}},
            {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "config", "key": "colour"}}},
            {"name": "CONFIG", "value": "/etc/config/file.yml"},
            {"name": "PROJECTED", "value": "/etc/projected/renamed"},
        ],
        volumeMounts=[
            {"name": "config", "mountPath": "/etc/config"},
            {"name": "projected", "mountPath": "/etc/projected"},
            {"name": "keys", "mountPath": "/etc/keys"},
        ],
    )
    pods["spec"]["volumes"] = [
        {"name": "config", "configMap": {"name": "config"}},
        {"name": "keys", "secret": {"secretName": "keys"}},
        {
            "name": "projected",
            "projected": {
                "sources": [{"secret": {"name": "more", "items": [{"key": "m", "path": "renamed"}]}}]
            },
        },
    ]
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": pods["spec"]})
    cluster.wait(
        "jsonpath={.status.containerStatuses[0].state.waiting.reason}=CreateContainerConfigError", "pod/web"
    )
    message = cluster.get("pod/web")["status"]["containerStatuses"][0]["state"]["waiting"]["message"]
    assert message == "pod web, container server: needs the config map 'config': not found"

    data = {"file.yml": "a: 1", "colour": "red"}
    cluster.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "config"}, "data": data},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"k": "secret"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "more"}, "stringData": {"m": "and more"}},
    )
    cluster.wait("condition=Ready", "pod/web")
    address = cluster.get("pod/web")["status"]["podIP"]
    env = json.loads(fetch(address, "env"))
    assert (env["KEY"], env["COLOUR"]) == ("secret", "red")
    assert fetch(address, f"files?{env['CONFIG']}") == "a: 1"
    assert fetch(address, f"files?{env['PROJECTED']}") == "and more"


def test_a_pod_that_never_started_can_be_deleted(cluster: Cluster) -> None:
    cluster.deploy(env=[{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "none", "key": "k"}}}])
    eventually(cluster.pods)
    cluster.kubectl("delete", "deployment/web")
    cluster.wait("delete", "pod", "--selector=app=web")


def test_a_namespace_deleted_while_its_pods_start_takes_them_along(
    cluster: Cluster, kubelet: Kubelet
) -> None:
    cluster.deploy(replicas=5)
    cluster.kubectl("delete", "namespace", cluster.namespace, "--wait=false")
    eventually(
        lambda: not cluster.kubectl("get", "namespace", cluster.namespace, "--ignore-not-found"), seconds=60
    )
    kubelet.check()


def test_a_pod_that_fits_no_node_stays_pending(cluster: Cluster) -> None:
    pods = template()
    pods["spec"]["nodeSelector"] = {"disk": "gold"}
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": pods["spec"]})
    cluster.deploy()
    cluster.wait("condition=Available", "deployment/web")  # what was created later runs
    pod = cluster.get("pod/web")
    assert pod["status"]["phase"] == "Pending"
    assert "nodeName" not in pod["spec"]


def test_a_grace_period_is_kept_and_a_forced_deletion_ends_it(cluster: Cluster) -> None:
    cluster.stateful_set()
    folder = cluster.volume("data-web-0")
    (folder / "ignore-sigterm").touch()
    os.kill(pid_of(cluster.get("pod/web-0")), signal.SIGKILL)  # the new process ignores SIGTERM
    cluster.wait("jsonpath={.status.containerStatuses[0].restartCount}=1", "pod/web-0")
    cluster.wait("condition=Ready", "pod/web-0")
    pid = pid_of(cluster.get("pod/web-0"))
    cluster.kubectl("scale", "statefulset/web", "--replicas=0")
    cluster.wait("jsonpath={.metadata.deletionTimestamp}", "pod/web-0")
    cluster.kubectl("delete", "pod/web-0", "--grace-period=300", "--wait=false")
    assert alive(pid)
    cluster.kubectl("delete", "pod/web-0", "--grace-period=0", "--force")
    eventually(lambda: not alive(pid))


def test_a_service_leads_to_its_ready_pods_only(cluster: Cluster) -> None:
    cluster.stateful_set(replicas=2)
    cluster.kubectl("create", "service", "clusterip", "web", f"--tcp=9000:{PORT}")
    cluster.kubectl("set", "selector", "service/web", "app=web")
    address = cluster.get("service/web")["spec"]["clusterIP"]
    first, second = (pid_of(pod) for pod in cluster.pods())

    def answering() -> set[int]:
        try:
            return {int(fetch(address, "pid", 9000)) for _ in range(20)}
        except OSError:
            return set()

    eventually(lambda: answering() == {first, second})
    (cluster.volume("data-web-0") / "readyz").write_text("503")
    eventually(lambda: answering() == {second})
    (cluster.volume("data-web-1") / "readyz").write_text("503")
    eventually(lambda: answering() == set())
    (cluster.volume("data-web-0") / "readyz").unlink()
    eventually(lambda: answering() == {first})


def test_a_claim_grows_with_its_request_and_its_folder_goes_with_it(cluster: Cluster) -> None:
    cluster.stateful_set()
    folder = cluster.volume("data-web-0")
    grow = {"spec": {"resources": {"requests": {"storage": "2Gi"}}}}
    cluster.kubectl("patch", "pvc/data-web-0", "-p", json.dumps(grow))
    cluster.wait("jsonpath={.status.capacity.storage}=2Gi", "pvc/data-web-0")
    volume = cluster.get("pvc/data-web-0")["spec"]["volumeName"]
    assert cluster.get(f"pv/{volume}")["spec"]["capacity"]["storage"] == "2Gi"

    cluster.kubectl("delete", "statefulset/web")
    cluster.wait("delete", "pod/web-0")
    assert (folder / "starts").exists(), "a claim outlives its pods"
    cluster.kubectl("delete", "pvc/data-web-0")
    cluster.wait("delete", f"pv/{volume}")
    eventually(lambda: not folder.exists())


def test_a_pod_speaks_to_the_api_server_as_its_service_account(
    cluster: Cluster, control_plane: ControlPlane
) -> None:
    cluster.kubectl("create", "serviceaccount", "web")
    pods = template(args=["$(POD_IP)", str(PORT)])
    pods["spec"]["serviceAccountName"] = "web"
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": pods["spec"]})
    cluster.wait("condition=Ready", "pod/web")
    kubeconfig = Path(json.loads(fetch(cluster.get("pod/web")["status"]["podIP"], "env"))["KUBECONFIG"])
    who = json.loads(control_plane.kubectl("auth", "whoami", "-o", "json", kubeconfig=kubeconfig))["status"]
    assert who["userInfo"]["username"] == f"system:serviceaccount:{cluster.namespace}:web"
    assert who["userInfo"]["extra"]["authentication.kubernetes.io/pod-name"] == ["web"]


def test_a_pod_without_a_token_has_no_kubeconfig(cluster: Cluster) -> None:
    pods = template(args=["$(POD_IP)", str(PORT)])
    pods["spec"]["automountServiceAccountToken"] = False
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": pods["spec"]})
    cluster.wait("condition=Ready", "pod/web")
    assert "KUBECONFIG" not in json.loads(fetch(cluster.get("pod/web")["status"]["podIP"], "env"))
