"""Pods of the test server for the tests of the runner, and what may be asked of them."""

import asyncio
import json
import random
import urllib.request
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from vectorizer_operator.local.runner import Inputs, PodProcess

PORT = 8080
SERVER = Path(__file__).parents[2] / "kube" / "httpd.py"
DEADLINE = 20
"""Seconds after which something that should have happened has not; the machine may be busy."""


def loopback() -> str:
    """An address of its own for a pod of this run: other runs on this machine have others."""
    return f"127.{random.randint(1, 99)}.{random.randint(0, 255)}.{random.randint(1, 254)}"


def server(**changes: Any) -> dict[str, Any]:
    """A container with the test server, its data at /data, asked every tenth of a second."""
    return {
        "name": "server",
        "image": "example.com/server:1",
        # Its text, since a path is rewritten like any other where the repository lies below a mount path (/tmp).
        "command": ["python", "-I", "-S", "-c", SERVER.read_text()],
        "args": ["$(POD_IP)", "8080", "/data"],
        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "ports": [{"name": "http", "containerPort": PORT}],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 0.1},
        **changes,
    }


def pod(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "web-0",
            "namespace": "shop",
            "labels": {"app": "web"},
            "annotations": {"note": "hello"},
        },
        "spec": {
            "containers": list(containers) or [server()],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data-web-0"}}],
            "terminationGracePeriodSeconds": 5,
            **spec,
        },
    }


class Runner:
    """Starts pods in a folder of the test and stops them after it."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.data = folder / "claims" / "data-web-0"
        self.data.mkdir(parents=True)
        self._folder = folder
        self._stack = stack

    def pod(self, spec: dict[str, Any], **options: Any) -> PodProcess:
        options.setdefault("inputs", Inputs(claims={"data-web-0": self.data}))
        options.setdefault("address", loopback())
        options.setdefault("backoff_seconds", 0.1)
        return PodProcess(spec, folder=self._folder / "web-0", **options)

    async def start(self, spec: dict[str, Any] | None = None, **options: Any) -> PodProcess:
        started = self.pod(spec or pod(), **options)
        await started.start()
        self._stack.push_async_callback(started.stop, grace_seconds=0)
        return started

    async def ready(self, spec: dict[str, Any] | None = None, **options: Any) -> PodProcess:
        started = await self.start(spec, **options)
        await until(started, lambda state: state.ready)
        return started

    @property
    def starts(self) -> list[int]:
        """The process ids of all the times that the server was started."""
        return [int(line) for line in (self.data / "starts").read_text().split()]


async def until(started: PodProcess, condition: Callable[..., bool]) -> Any:
    try:
        async with asyncio.timeout(DEADLINE):
            return await started.wait(condition)
    except TimeoutError:
        log = started.log().read_text() if started.log().exists() else "no log"
        raise AssertionError(f"not so within {DEADLINE} s: {started.state}\n{log}") from None


async def get(started: PodProcess, path: str) -> str:
    def fetch() -> str:
        url = f"http://{started.address}:{started.state.ports['http']}/{path}"
        with urllib.request.urlopen(url, timeout=5) as response:
            return str(response.read().decode())

    return await asyncio.to_thread(fetch)


async def environment(started: PodProcess) -> dict[str, str]:
    return dict(json.loads(await get(started, "env")))


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


async def gone(pid: int) -> None:
    async with asyncio.timeout(DEADLINE):
        while alive(pid):
            await asyncio.sleep(0.01)
