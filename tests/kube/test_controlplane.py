"""The control plane of the tests: real, with RBAC, and gone afterwards."""

import http.server
import json
import os
import signal
import ssl
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kube import pki
from tests.kube.controlplane import ADMINISTRATOR, CommandError, ControlPlane, ControlPlaneError
from tests.kube.eventually import eventually


def test_it_is_a_real_kubernetes_with_a_default_service_account(control_plane: ControlPlane) -> None:
    version = json.loads(control_plane.kubectl("version", "-o", "json"))
    assert version["serverVersion"]["gitVersion"] == version["clientVersion"]["gitVersion"]
    assert control_plane.kubectl("get", "--raw", "/readyz") == "ok"
    assert "default" in control_plane.kubectl("get", "serviceaccount", "--namespace=default")


def test_controllers_run(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.kubectl("create", "deployment", "web", "--image=example.com/web:1", f"-n{namespace}")
    control_plane.kubectl(
        "wait", "--for=jsonpath={.status.replicas}=1", "deployment/web", f"-n{namespace}", "--timeout=20s"
    )


def test_helm_works_against_it(control_plane: ControlPlane) -> None:
    assert json.loads(control_plane.run("helm", "list", "--all-namespaces", "-o", "json")) == []


def test_a_failed_command_raises_what_it_said(control_plane: ControlPlane) -> None:
    with pytest.raises(
        CommandError, match=r'^kubectl get pod none ended with 1: .*pods "none" not found$'
    ) as error:
        control_plane.kubectl("get", "pod", "none")
    assert error.value.status == 1


def test_a_service_account_may_do_what_rbac_gives_it_and_no_more(
    control_plane: ControlPlane, namespace: str
) -> None:
    control_plane.kubectl("create", "serviceaccount", "reader", f"-n{namespace}")
    control_plane.kubectl(
        "create", "role", "reader", "--verb=get,list", "--resource=configmaps", f"-n{namespace}"
    )
    control_plane.kubectl(
        "create",
        "rolebinding",
        "reader",
        "--role=reader",
        f"--serviceaccount={namespace}:reader",
        f"-n{namespace}",
    )
    reader = control_plane.kubeconfig_for_service_account(namespace, "reader")

    def as_reader(*arguments: str) -> str:
        return control_plane.kubectl(*arguments, kubeconfig=reader)

    assert "kube-root-ca.crt" in as_reader("get", "configmaps", f"-n{namespace}", "-o", "name")
    for refused in (
        ("create", "configmap", "x", f"-n{namespace}"),
        ("get", "secrets", f"-n{namespace}"),
        ("get", "configmaps", "-nkube-system"),
    ):
        with pytest.raises(CommandError, match=f'User "system:serviceaccount:{namespace}:reader" cannot'):
            as_reader(*refused)


def test_every_write_is_recorded_with_who_made_it(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.kubectl("create", "configmap", "noted", f"-n{namespace}")
    control_plane.kubectl("get", "configmap", "noted", f"-n{namespace}")
    [event] = [
        event
        for event in control_plane.writes(ADMINISTRATOR)
        if event["objectRef"].get("namespace") == namespace
    ]
    assert (event["verb"], event["objectRef"]["name"]) == ("create", "noted")
    users = {event["user"]["username"] for event in control_plane.writes()}
    assert ADMINISTRATOR in users and len(users) > 1


class Webhook(http.server.BaseHTTPRequestHandler):
    """Denies everything, and says by which host name it was called."""

    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status = {"message": f"denied by {self.headers['Host']}{self.path}"}
        response = {"uid": review["request"]["uid"], "allowed": False, "status": status}
        body = json.dumps({**review, "request": None, "response": response}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[Callable[[str, str], tuple[int, bytes]]]:
    """Starts the webhook at an address, with a certificate for a DNS name; gives its port and its CA."""
    servers = []

    def start(address: str, dns: str) -> tuple[int, bytes]:
        authority = pki.Authority("webhook")
        pair = authority.server("webhook", dns=[dns], addresses=[address])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*pair.write(tmp_path, "webhook"))
        server = http.server.ThreadingHTTPServer((address, 9443), Webhook)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server.server_port, authority.pair.certificate

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def webhook_configuration(namespace: str, client: dict[str, Any], ca: bytes) -> dict[str, Any]:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": namespace},
        "webhooks": [
            {
                "name": "deny.example.com",
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "failurePolicy": "Fail",
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "rules": [
                    {
                        "operations": ["CREATE"],
                        "apiGroups": [""],
                        "apiVersions": ["v1"],
                        "resources": ["secrets"],
                    }
                ],
                "clientConfig": {**client, "caBundle": pki.base64_text(ca)},
            }
        ],
    }


@pytest.mark.parametrize("by", ["url", "service"])
def test_a_webhook_is_reached_at_loopback_by_url_and_by_service(
    control_plane: ControlPlane, namespace: str, listen: Callable[[str, str], tuple[int, bytes]], by: str
) -> None:
    """By Service, the API server dials its cluster IP and expects a certificate for its DNS name."""
    dns = f"hook.{namespace}.svc"
    if by == "service":
        control_plane.kubectl("create", "service", "clusterip", "hook", "--tcp=9443", f"-n{namespace}")
        address = control_plane.kubectl(
            "get", "service", "hook", f"-n{namespace}", "-o", "jsonpath={.spec.clusterIP}"
        )
        assert address.startswith(f"127.{control_plane.network}.")
        client: dict[str, Any] = {
            "service": {"name": "hook", "namespace": namespace, "path": "/x", "port": 9443}
        }
        expected = f"denied by {dns}:9443/x"
    else:
        address = f"127.{control_plane.network}.0.9"
        client = {"url": f"https://{address}:9443/x"}
        expected = f"denied by {address}:9443/x"
    _, ca = listen(address, dns)
    configuration = json.dumps(webhook_configuration(namespace, client, ca))
    control_plane.kubectl("create", "-f", "-", stdin=configuration)
    messages: list[str] = []

    def denied() -> bool:
        try:
            control_plane.kubectl("create", "secret", "generic", "s", f"-n{namespace}", "--dry-run=server")
        except CommandError as error:
            messages.append(str(error))
            return expected in str(error)
        return False

    try:
        eventually(denied)
    finally:
        control_plane.kubectl("delete", "validatingwebhookconfiguration", namespace)


def test_two_control_planes_do_not_meet(control_plane: ControlPlane, tmp_path: Path) -> None:
    with ControlPlane(tmp_path) as other:
        assert other.network != control_plane.network
        other.kubectl("create", "namespace", "only-here")
        with pytest.raises(CommandError, match="not found"):
            control_plane.kubectl("get", "namespace", "only-here")
        pids = children_of(os.getpid(), str(tmp_path))
        assert len(pids) == 3
    assert not children_of(os.getpid(), str(tmp_path))


def test_a_start_that_fails_shows_the_end_of_the_log_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.kube.controlplane._AUDIT_POLICY", {"kind": "Nonsense"})
    control_plane = ControlPlane(tmp_path)
    with pytest.raises(
        ControlPlaneError, match=r"kube-apiserver ended with 1; the end of .*\n(.*\n)*.*Nonsense"
    ):
        control_plane.__enter__()
    assert not children_of(os.getpid(), str(tmp_path))


def test_nothing_is_left_running_when_the_tests_are_killed(tmp_path: Path) -> None:
    script = f"""
    from pathlib import Path
    from tests.kube.controlplane import ControlPlane

    with ControlPlane(Path({str(tmp_path)!r})):
        print("up", flush=True)
        input()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as tests:
        assert tests.stdout is not None
        assert tests.stdout.readline() == "up\n"
        pids = children_of(tests.pid, str(tmp_path))
        assert len(pids) == 3
        tests.send_signal(signal.SIGKILL)
    eventually(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in pids))


def children_of(parent: int, mentioning: str) -> list[int]:
    """The processes that `parent` started and whose command line mentions this."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            status = (process / "stat").read_text().rpartition(")")[2].split()
            command = (process / "cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(status[1]) == parent and mentioning in command:
            found.append(int(process.name))
    return found
