"""A real Kubernetes control plane for tests: etcd, kube-apiserver and kube-controller-manager, RBAC on, no root.

    with ControlPlane(folder) as control_plane:
        control_plane.kubectl("apply", "-f", "-", stdin=manifest)

Everything lives in 127.N.0.0/16, of which a control plane claims one N for itself (Linux answers at every address
of 127/8), so that several can run on one machine with the usual ports:

    127.N.0.1                   etcd, kube-apiserver, kube-controller-manager
    127.N.1.0 - 127.N.127.255   pods, of the test kubelet (`kubelet.py`)
    127.N.128.0/17              Services (`--service-cluster-ip-range`)

**How the API server reaches a webhook.** By `clientConfig.service` it dials https://<clusterIP>:<port> itself and
checks the certificate for <service>.<namespace>.svc. No kube-proxy routes that address here, but it is one of
loopback: the test kubelet's `serviceproxy.py` listens there and passes connections on to the Service's ready pods,
and a test without pods may listen there itself. So what the chart ships is what is tested. Only ports from 1024 up
work without root. `clientConfig.url` works with any loopback address.

**What differs from a cluster**: EndpointSlices are never made, because the API server refuses loopback addresses in
them (their controllers are off); nodes are not watched for heartbeats; no scheduler runs.

Not for running pods: `kubelet.py`.
"""

import contextlib
import functools
import json
import os
import random
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.kube import binaries, pki
from vectorizer_operator.local.container import dying_with_parent

START_SECONDS = 120
"""A start takes about 12 s; this much is for a machine that does other things as well."""

TAIL_LINES = 25

ADMINISTRATOR = "test-admin"

_DISABLED_CONTROLLERS = (
    # The API server refuses loopback addresses, and pods here have no others.
    *("endpoints-controller", "endpointslice-controller", "endpointslice-mirroring-controller"),
    # Nobody renews the test node's lease.
    "node-lifecycle-controller",
)

_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "None", "verbs": ["get", "list", "watch"]}, {"level": "Metadata"}],
}


class ControlPlaneError(Exception):
    """The control plane did not come up; the message has the end of the log in question."""


class CommandError(Exception):
    """kubectl or helm ended with an error; the message is what it said, `status` how it ended."""

    def __init__(self, command: Sequence[str], status: int, output: str) -> None:
        super().__init__(f"{' '.join(command)} ended with {status}: {output.strip()}")
        self.status = status


class ControlPlane:
    """A control plane in a folder; running inside `with`, and gone after it whatever happens (see module)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._guard, self.network = _claim_network()
        self.address = f"127.{self.network}.0.1"
        self.url = f"https://{self.address}:6443"
        self.kubeconfig = folder / "admin.kubeconfig"
        self._authority = pki.Authority("test-kubernetes")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._writes: list[dict[str, Any]] = []
        self._audited = 0  # bytes of the audit log that they were read from

    @property
    def ca(self) -> bytes:
        """The certificate, PEM, that signed the API server's."""
        return self._authority.pair.certificate

    @property
    def administrator(self) -> tuple[Path, Path]:
        """The files with the administrator's client certificate and key."""
        return self.folder / "pki" / "admin.crt", self.folder / "pki" / "admin.key"

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill the processes, last started first. Nothing is asked to finish: nobody will read what it writes."""
        for process in reversed(self._processes.values()):
            process.kill()
            process.wait()
        self._processes.clear()
        self._guard.close()

    def kill(self, program: str) -> None:
        """Let one program crash: etcd, kube-apiserver or kube-controller-manager."""
        self._processes[program].kill()
        self._processes[program].wait()

    def start_again(self, program: str) -> None:
        """Start a program that was killed, as it was. Does not wait until it is up."""
        self._run_in_background(program, self._processes[program].args)

    def kubectl(self, *arguments: str, stdin: str | None = None, kubeconfig: Path | None = None) -> str:
        """What `kubectl` prints, as administrator or as `kubeconfig` says. Raises CommandError."""
        return self.run("kubectl", *arguments, stdin=stdin, kubeconfig=kubeconfig)

    def dry_run(self, objects: str) -> list[str]:
        """What the API server would do with each of *objects* (YAML), in words.

        Raises CommandError where it would refuse one, or does not know a field.
        """
        strict = ("--dry-run=server", "--server-side", "--force-conflicts", "--validate=strict")
        return self.kubectl("apply", *strict, "-f", "-", stdin=objects).splitlines()

    def run(
        self, tool: str, *arguments: str, stdin: str | None = None, kubeconfig: Path | None = None
    ) -> str:
        """What `tool` (kubectl or helm) prints on standard output. Raises CommandError with its standard error."""
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        command = [str(binaries.find(tool)), *arguments]
        done = subprocess.run(
            command,
            env={
                **os.environ,
                "HOME": str(home),
                "KUBECONFIG": str(kubeconfig or self.kubeconfig),
                "GOGC": "off",  # it ends in a moment: a quarter less work
            },
            input=stdin or "",
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise CommandError([tool, *arguments], done.returncode, done.stderr)
        return done.stdout

    def request(self, method: str, path: str) -> Any:
        """What the API server answers the administrator, or None where nothing is: a twentieth of kubectl's work."""
        asked = urllib.request.Request(self.url + path, method=method)
        try:
            with urllib.request.urlopen(asked, context=self._tls, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.status != 404:
                raise
            return None

    def kubeconfig_for_service_account(self, namespace: str, name: str) -> Path:
        """A kubeconfig with a token of this ServiceAccount, for a day; it can do what RBAC lets that account do."""
        token = self.kubectl("create", "token", name, f"--namespace={namespace}", "--duration=24h").strip()
        path = self.folder / f"{namespace}.{name}.kubeconfig"
        return pki.write_kubeconfig(path, server=self.url, ca=self.ca, user={"token": token})

    def writes(self, user: str | None = None) -> list[dict[str, Any]]:
        """Every create, update, patch and delete so far, by anybody or by `user`, as audit.k8s.io/v1 Events.

        A request is in it before it is answered. ServiceAccounts are `system:serviceaccount:<namespace>:<name>`.
        """
        with (self.folder / "audit.log").open("rb") as log:
            log.seek(self._audited)
            for line in log:
                if line.endswith(b"\n"):
                    self._audited += len(line)
                    self._writes.append(json.loads(line))
        return [event for event in self._writes if user is None or event["user"]["username"] == user]

    def _start(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        files = self._write_files()
        etcd = f"http://{self.address}:2379"
        peer = f"http://{self.address}:2380"
        self._spawn(
            "etcd",
            "--name=test",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=test={peer}",
            "--log-level=warn",
            "--unsafe-no-fsync",
        )
        self._spawn(
            "kube-apiserver",
            f"--etcd-servers={etcd}",
            f"--bind-address={self.address}",
            "--secure-port=6443",
            # It must not be of loopback, and with the reconciler off nobody uses it.
            "--advertise-address=192.0.2.1",
            "--endpoint-reconciler-type=none",
            f"--service-cluster-ip-range={self._services}",
            f"--tls-cert-file={files['apiserver.crt']}",
            f"--tls-private-key-file={files['apiserver.key']}",
            f"--client-ca-file={files['ca.crt']}",
            "--authorization-mode=Node,RBAC",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={files['accounts.pub']}",
            f"--service-account-signing-key-file={files['accounts.key']}",
            f"--audit-policy-file={files['audit-policy.json']}",
            f"--audit-log-path={self.folder / 'audit.log'}",
        )
        self._await("kube-apiserver", "/readyz", deadline)
        self._spawn(
            "kube-controller-manager",
            f"--kubeconfig={files['manager.kubeconfig']}",
            f"--authentication-kubeconfig={files['manager.kubeconfig']}",
            f"--authorization-kubeconfig={files['manager.kubeconfig']}",
            f"--bind-address={self.address}",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            # By default it waits for itself: 20 requests a second, all controllers together.
            "--kube-api-qps=1000",
            "--kube-api-burst=2000",
            f"--service-account-private-key-file={files['accounts.key']}",
            f"--root-ca-file={files['ca.crt']}",
            f"--controllers={','.join(['*', *(f'-{name}' for name in _DISABLED_CONTROLLERS)])}",
        )
        self._await("kube-controller-manager", "/api/v1/namespaces/default/serviceaccounts/default", deadline)

    @property
    def _services(self) -> str:
        return f"127.{self.network}.128.0/17"

    def _write_files(self) -> Mapping[str, Path]:
        """Certificates, keys and configurations, by file name."""
        folder = self.folder / "pki"
        folder.mkdir()
        authority = self._authority
        service = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        addresses = [self.address, f"127.{self.network}.128.1"]
        authority.pair.write(folder, "ca")
        authority.server("kube-apiserver", dns=service, addresses=addresses).write(folder, "apiserver")
        accounts = ec.generate_private_key(ec.SECP256R1())
        (folder / "accounts.key").write_bytes(pki.private_key_pem(accounts))
        (folder / "accounts.pub").write_bytes(
            accounts.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        (folder / "audit-policy.json").write_text(json.dumps(_AUDIT_POLICY))
        manager = authority.client("system:kube-controller-manager")
        administrator = authority.client(ADMINISTRATOR, "system:masters")
        administrator.write(folder, "admin")  # for our own waiting
        self._write_kubeconfig(folder / "manager.kubeconfig", manager)
        self._write_kubeconfig(self.kubeconfig, administrator)
        return {path.name: path for path in folder.iterdir()}

    def _write_kubeconfig(self, path: Path, pair: pki.KeyPair) -> None:
        credentials = {
            "client-certificate-data": pki.base64_text(pair.certificate),
            "client-key-data": pki.base64_text(pair.key),
        }
        pki.write_kubeconfig(path, server=self.url, ca=self.ca, user=credentials)

    def _spawn(self, name: str, *arguments: str) -> None:
        self._run_in_background(name, dying_with_parent([str(binaries.find(name)), *arguments]))

    def _run_in_background(self, name: str, command: Any) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command,
                env={**os.environ, "GOGC": "400"},  # a seventh less work, for 100 MiB more of memory
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,  # an interrupt from the keyboard is for pytest, which then stops them
            )

    @functools.cached_property
    def _tls(self) -> ssl.SSLContext:
        """The administrator's, made once their certificate is written."""
        tls = ssl.create_default_context(cadata=self.ca.decode())
        tls.load_cert_chain(*self.administrator)
        return tls

    def _await(self, name: str, path: str, deadline: float) -> None:
        """Ask for `path` until it is there; `name` is whose log to show if that does not come."""
        while True:
            for process_name, process in self._processes.items():
                if process.poll() is not None:
                    raise ControlPlaneError(self._failure(process_name, f"ended with {process.returncode}"))
            try:
                with urllib.request.urlopen(self.url + path, context=self._tls, timeout=5):
                    return
            except OSError as error:  # refused, 401 to 503: all mean not yet
                if time.monotonic() > deadline:
                    problem = f"did not bring {path} within {START_SECONDS} s ({error})"
                    raise ControlPlaneError(self._failure(name, problem)) from error
            time.sleep(0.05)

    def _failure(self, name: str, problem: str) -> str:
        log = self.folder / f"{name}.log"
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-TAIL_LINES:])
        return f"{name} {problem}; the end of {log}:\n{tail}"


def _claim_network() -> tuple[socket.socket, int]:
    """Claim an N of 127.N.0.0/16: it is ours as long as the returned socket is open."""
    candidates = random.sample(range(100, 127), k=27)
    for network in candidates:
        with contextlib.suppress(OSError):
            return socket.create_server((f"127.{network}.0.1", 6442)), network
    raise ControlPlaneError(
        "port 6442 cannot be had at any of 127.100.0.1 to 127.126.0.1: the tests' Kubernetes needs Linux, "
        "which answers at all of 127/8, and not more than 27 control planes at once"
    )
