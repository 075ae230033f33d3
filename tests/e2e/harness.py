"""The operator as its chart deploys it, run as local processes that a test can stop, kill and ask.

Everything comes from the rendered chart: the rights, the arguments, the webhook's registration. What differs: the
processes look after one namespace only, since the control plane is shared, and the webhook's Service has a port that
needs no root. The first operator listens at that Service's cluster IP, which is a loopback address here.
"""

import asyncio
import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self

import aiohttp
import yaml

from tests.kube.controlplane import ControlPlane
from tests.kube.eventually import eventually
from tests.operator.connections import connect
from vectorizer_operator.kube.client import KubeClient
from vectorizer_operator.kube.resources import CHILDREN, CLAIMS, CLUSTERS, PODS
from vectorizer_operator.local.container import dying_with_parent

ROOT = Path(__file__).parents[2]
CRD = ROOT / "crds" / "vectorizerclusters.vectorizer.io.yaml"
CHART = ROOT / "helm" / "vectorizer-operator"
RELEASE = "test"
ACCOUNT = "test-vectorizer-operator"
WEBHOOK_PORT = 9443

Object = dict[str, Any]


class Installation:
    """The chart's objects, but for the Deployment, in *namespace*."""

    def __init__(self, control_plane: ControlPlane, namespace: str, folder: Path) -> None:
        self.control_plane = control_plane
        self.namespace = namespace
        self.folder = folder
        self.user = f"system:serviceaccount:{namespace}:{ACCOUNT}"
        control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRD))
        control_plane.kubectl("wait", "--for=condition=Established", f"crd/{CLUSTERS.plural}.vectorizer.io")
        rendered = control_plane.run("helm", "template", RELEASE, str(CHART), f"--namespace={namespace}")
        objects = [each for each in yaml.safe_load_all(rendered) if each]
        deployment = next(each for each in objects if each["kind"] == "Deployment")
        self.container = deployment["spec"]["template"]["spec"]["containers"][0]
        kinds = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "Service")
        self._rights = [each for each in objects if each["kind"] in kinds]
        self.webhook = next(each for each in objects if each["kind"] == "ValidatingWebhookConfiguration")
        for each in self._rights:
            if each["kind"] == "Service":
                each["spec"]["ports"][0]["port"] = WEBHOOK_PORT
                self._service = each["metadata"]["name"]
        hook = self.webhook["webhooks"][0]
        hook["clientConfig"]["service"]["port"] = WEBHOOK_PORT
        hook["namespaceSelector"] = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
        self.apply(*self._rights, self.webhook)
        self.kubeconfig = control_plane.kubeconfig_for_service_account(namespace, ACCOUNT)

    def apply(self, *objects: Object) -> None:
        """kubectl apply --server-side, as a user's GitOps tool would."""
        self.control_plane.kubectl(
            "apply", "--server-side", f"--namespace={self.namespace}", "-f", "-",
            stdin=yaml.safe_dump_all(objects),
        )  # fmt: skip

    def remove_cluster_wide(self) -> None:
        """What the namespace's deletion leaves behind."""
        objects = (*self._rights, self.webhook)
        names = [f"{each['kind'].lower()}/{each['metadata']['name']}" for each in objects]
        wide = [name for name in names if name.startswith(("cluster", "validating"))]
        self.control_plane.kubectl("delete", *wide, "--ignore-not-found", "--wait=false")

    @property
    def webhook_address(self) -> str:
        return self.kubectl("get", "service", self._service, "-o", "jsonpath={.spec.clusterIP}")

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.control_plane.kubectl(*arguments, f"--namespace={self.namespace}", stdin=stdin)

    def get(self, kind: str, name: str) -> Object:
        found: Object = json.loads(self.kubectl("get", kind, name, "-o", "json"))
        return found

    @property
    def webhook_secret(self) -> str:
        return self._argument("--webhook-secret")

    @property
    def webhook_host(self) -> str:
        return self._argument("--webhook-host")

    def _argument(self, option: str) -> str:
        arguments: list[str] = self.container["args"]
        return next(each.partition("=")[2] for each in arguments if each.startswith(f"{option}="))

    def webhook_down(self) -> None:
        """Take the webhook's registration away, as its users do when it is down and in their way."""
        self.control_plane.kubectl(
            "delete", "validatingwebhookconfiguration", self.webhook["metadata"]["name"]
        )

    def writes(self) -> list[Object]:
        """What the operator wrote so far, its Lease excepted, as audit events."""
        return [
            event
            for event in self.control_plane.writes(self.user)
            if event["objectRef"].get("resource") != "leases"
        ]


class Operator:
    """One operator process."""

    def __init__(
        self, installation: Installation, *, name: str = "operator", listen: str | None = None
    ) -> None:
        self._installation = installation
        self.address = listen or installation.webhook_address
        self._log = installation.folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *more: str, wait: bool = True) -> Self:
        """Start it with the chart's arguments and *more*, and wait until it is ready."""
        installation = self._installation
        program = Path(sys.executable).with_name(*installation.container["command"])
        arguments = [
            str(program),
            *installation.container["args"],
            f"--namespace={installation.namespace}",
            f"--listen={self.address}",
            *more,
        ]
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("KUBE")}
        own = {"KUBECONFIG": str(installation.kubeconfig), "POD_NAMESPACE": installation.namespace}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                dying_with_parent(arguments),
                env=inherited | own,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if wait:
            eventually(lambda: self.ask("/readyz") == "ok\n", why=self.log)
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def ask(self, path: str) -> str | None:
        """What a health endpoint answers, None while nobody does."""
        assert self._process is not None
        assert self._process.poll() is None, (
            f"the operator ended with {self._process.returncode}: {self.log()}"
        )
        try:
            with urllib.request.urlopen(f"http://{self.address}:8080{path}", timeout=5) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            return error.read().decode()
        except OSError:
            return None

    def metric(self, name: str) -> float:
        """The value of a metric, with its labels if it has any."""
        text = self.ask("/metrics") or ""
        value = next((line.split()[-1] for line in text.splitlines() if line.startswith(f"{name} ")), "0")
        return float(value)

    @property
    def leads(self) -> bool:
        return self.metric("vectorizer_operator_leader") == 1

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> int:
        if self._process is None:
            return 0
        process, self._process = self._process, None
        process.send_signal(number)
        return process.wait(timeout=20)

    def log(self) -> str:
        return self._log.read_text(errors="replace")


def at_rest(installation: Installation, *, seconds: float = 1.0) -> list[Object]:
    """What the operator wrote by the time that nobody has written anything in its namespace for *seconds*."""
    count, since = -1, time.monotonic()
    deadline = since + 60
    while time.monotonic() < since + seconds:
        assert time.monotonic() < deadline, "there is no end of writes"
        writes = [
            event
            for event in installation.control_plane.writes()
            if event["objectRef"].get("namespace") == installation.namespace
            and event["objectRef"].get("resource") != "leases"
        ]
        if len(writes) != count:
            count, since = len(writes), time.monotonic()
        time.sleep(0.1)
    return installation.writes()


class Recorder:
    """Every state of a cluster that a watch shows, from before it exists to after it is gone."""

    def __init__(self) -> None:
        self.states: list[Object] = []

    def ready(self) -> Object | None:
        """The newest state, if it says Ready for the newest generation."""
        return self.states[-1] if self.states and is_ready(self.states[-1]) else None


def is_ready(cluster: Object) -> bool:
    """As `kubectl wait` and kstatus read it: Ready is True, and about this generation."""
    condition = condition_of(cluster, "Ready")
    return (
        condition.get("status") == "True"
        and condition.get("observedGeneration") == cluster["metadata"]["generation"]
        and cluster["status"]["observedGeneration"] == cluster["metadata"]["generation"]
    )


def condition_of(cluster: Object, kind: str) -> Object:
    conditions = cluster.get("status", {}).get("conditions", [])
    return next((each for each in conditions if each["type"] == kind), {})


@asynccontextmanager
async def recording(control_plane: ControlPlane, namespace: str, name: str) -> AsyncIterator[Recorder]:
    """Watch the cluster *name* while the block runs."""
    recorder = Recorder()
    server = await connect(control_plane)

    async def watch() -> None:
        url = f"{server.server}{CLUSTERS.path(namespace=namespace)}"
        query = {"watch": "true", "fieldSelector": f"metadata.name={name}"}
        async with server.session() as session, session.get(url, params=query) as answer:
            opened.set()
            async for line in answer.content:
                event = json.loads(line)
                if event["type"] in ("ADDED", "MODIFIED"):
                    recorder.states.append(event["object"])

    opened = asyncio.Event()
    task = asyncio.create_task(watch())
    await asyncio.wait_for(opened.wait(), 10)
    try:
        yield recorder
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def comes_true(
    condition: Callable[[], Any], *, seconds: float = 30.0, why: Callable[[], str] = str
) -> Any:
    """`eventually` for a test whose own tasks have to go on meanwhile."""
    return await asyncio.to_thread(eventually, condition, seconds=seconds, why=why)


async def versions(client: KubeClient, namespace: str) -> dict[tuple[str, str], str]:
    """The resourceVersion of every object that the operator could have touched, by (kind, name)."""
    found: dict[tuple[str, str], str] = {}
    for resource in (CLUSTERS, *CHILDREN, PODS, CLAIMS):
        for each in await client.list(resource, namespace=namespace):
            found[resource.kind, each["metadata"]["name"]] = each["metadata"]["resourceVersion"]
    return found


async def post_review(operator: Operator, *, ca: bytes, host: str, review: Object) -> Object:
    """Ask one operator's webhook directly, as the API server does: by its address, expecting *host* there."""
    url = f"https://{operator.address}:{WEBHOOK_PORT}/validate"
    trust = ssl.create_default_context(cadata=ca.decode())
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, json=review, ssl=trust, server_hostname=host) as answer,
    ):
        body: Object = await answer.json()
        return body


def without_rules(schema: Any) -> Any:
    """A CustomResourceDefinition without its CEL rules."""
    if isinstance(schema, dict):
        return {
            key: without_rules(value) for key, value in schema.items() if key != "x-kubernetes-validations"
        }
    return [without_rules(value) for value in schema] if isinstance(schema, list) else schema
