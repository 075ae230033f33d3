"""A node for tests: runs the pods of a real control plane as local processes, at loopback addresses of their own.

    with Kubelet(control_plane, folder):
        control_plane.kubectl("apply", "-f", "deployment.yaml")
        control_plane.kubectl("wait", "--for=condition=Available", "deployment/web")

It is the scheduler too: it binds every pod whose nodeSelector fits to its one node, runs the containers with the
runner that `vectorizerctl local` uses, publishes their status, and ends them when the API says so (`podworker.py`).
`volumes.py` gives claims their folders, `serviceproxy.py` makes cluster IPs work.

What a pod finds by the network and the file system of a real node is said by environment instead: the engine's
address and data folder (see the runner's `launch.py`), and `KUBECONFIG` for a pod with an API token, in place of
the mounted token. Back-offs are short, 0.5 s doubling, so that a test sees several.
"""

import asyncio
import contextlib
import itertools
import logging
import ssl
import threading
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.kube.api import ENDING, GONE, Api, ApiError, Mirror, Object
from tests.kube.controlplane import ControlPlane
from tests.kube.podstatus import HOST_IP, now
from tests.kube.podworker import PodWorker
from tests.kube.serviceproxy import ServiceProxy
from tests.kube.volumes import Volumes

NODE = "test-node"
START_SECONDS = 30

logger = logging.getLogger(__name__)


class Kubelet:
    """The node; it works in a thread of its own inside `with`, and kills what it runs after it."""

    def __init__(self, control_plane: ControlPlane, folder: Path) -> None:
        self._control_plane = control_plane
        self._folder = folder
        self._addresses = (
            f"127.{control_plane.network}.{third}.{fourth}"
            for third, fourth in itertools.product(range(1, 128), range(1, 255))
        )
        self._workers: dict[str, PodWorker] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._problems: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, name="test-kubelet", daemon=True)
        self._up = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._up.wait(START_SECONDS):
            raise TimeoutError(f"the test node is not up after {START_SECONDS} s")
        self.check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(RuntimeError):  # it has ended by itself
            self._loop.call_soon_threadsafe(self._cancel)
        self._thread.join()
        self.check()

    def check(self) -> None:
        """Raise what went wrong in the node itself, as opposed to in its pods."""
        if self._problems:
            raise RuntimeError("the test node failed") from self._problems[0]

    def log(self, namespace: str, pod: str, container: str = "*") -> str:
        """The output of a container (of the pod's only one by default) over its restarts, also after its end."""
        files = list((self._folder / "pods").glob(f"{namespace}_{pod}_*/{container}.log"))
        if not files:
            raise LookupError(f"no container {container} of pod {namespace}/{pod} has run here")
        return max(files, key=lambda file: file.stat().st_mtime).read_text(errors="replace")

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001 - shown by check() in the test's own thread
            self._problems.append(error)
        finally:
            self._up.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        main = asyncio.current_task()
        assert main is not None
        self._cancel = main.cancel
        tls = ssl.create_default_context(cadata=self._control_plane.ca.decode())
        tls.load_cert_chain(*self._control_plane.administrator)
        async with Api(self._control_plane.url, tls) as self._api:
            await self._register()
            self._volumes = Volumes(self._api, self._folder / "volumes")
            self._proxy = ServiceProxy()
            self._pods = Mirror(self._api, "/api/v1/pods", self._pod_changed)
            self._services = Mirror(self._api, "/api/v1/services", lambda *_: self._route())
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._volumes.run())
                    group.create_task(self._proxy.run())
                    group.create_task(self._services.follow())
                    group.create_task(self._pods.follow())
                    self._up.set()
            finally:
                for worker in self._workers.values():
                    worker.end(0, removed=True)
                await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _register(self) -> None:
        names = {"kubernetes.io/hostname": NODE, "kubernetes.io/os": "linux"}
        node = await self._api.create("/api/v1/nodes", {"metadata": {"name": NODE, "labels": names}})
        self._labels = node["metadata"]["labels"]
        size = {"cpu": "64", "memory": "256Gi", "ephemeral-storage": "1Ti", "pods": "10000"}
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastTransitionTime": now()}
        address = {"type": "InternalIP", "address": HOST_IP}
        status = {"capacity": size, "allocatable": size, "conditions": [ready], "addresses": [address]}
        await self._api.patch(f"/api/v1/nodes/{NODE}/status", {"status": status})

    def _pod_changed(self, new: Object | None, old: Object | None) -> None:
        old_uid = old and old["metadata"]["uid"]
        if old_uid and (new is None or new["metadata"]["uid"] != old_uid) and old_uid in self._workers:
            self._workers[old_uid].end(0, removed=True)
        if new is not None:
            self._observe(new)
        self._route()

    def _observe(self, pod: Object) -> None:
        metadata, spec = pod["metadata"], pod["spec"]
        if not spec.get("nodeName"):
            if (spec.get("nodeSelector") or {}).items() <= self._labels.items():
                self._spawn(self._bind(metadata["namespace"], metadata["name"], metadata["uid"]))
            return
        uid = metadata["uid"]
        if uid not in self._workers:
            self._workers[uid] = PodWorker(
                pod,
                api=self._api,
                address=next(self._addresses),
                folder=self._folder / "pods" / f"{metadata['namespace']}_{metadata['name']}_{uid}",
                claim_folder=self._volumes.folder_of,
                api_server=(self._control_plane.url, self._control_plane.ca),
            )
            self._spawn(self._work(uid))
        if "deletionTimestamp" in metadata:
            self._workers[uid].end(metadata["deletionGracePeriodSeconds"])

    async def _work(self, uid: str) -> None:
        await self._workers[uid].run()
        del self._workers[uid]  # a failed one stays, or the next event would start the pod a second time

    async def _bind(self, namespace: str, name: str, uid: str) -> None:
        binding = {"metadata": {"name": name, "uid": uid}, "target": {"kind": "Node", "name": NODE}}
        try:
            await self._api.create(f"/api/v1/namespaces/{namespace}/pods/{name}/binding", binding)
        except ApiError as error:
            if error.status not in GONE | {ENDING}:  # 409 too: an event before this one had it bound
                raise

    def _route(self) -> None:
        self._proxy.changed(self._services.objects.values(), self._pods.objects.values())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()):
                logger.error("the test node failed at a pod", exc_info=error)
                self._problems.append(error)

        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(ended)
