"""One pod of the test node, from its binding to its deletion. Not for the node itself: `kubelet.py`."""

import asyncio
import base64
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.engine.children import UNCOVERED
from tests.kube import pki
from tests.kube.api import ENDING, GONE, Api, ApiError, Object
from tests.kube.podstatus import pod_status, waiting_status
from vectorizer_operator.local.runner import Inputs, PodError, PodProcess

BACKOFF_SECONDS = 0.5
RETRY_SECONDS = 0.5
"""A pod that cannot be prepared yet (a ConfigMap is missing, a claim not bound) is tried again after this."""


class PodWorker:
    """Runs a pod's containers and keeps its status until `end` is called; then removes it from the API."""

    def __init__(
        self,
        pod: Object,
        *,
        api: Api,
        address: str,
        folder: Path,
        claim_folder: Callable[[str, str], Path | None],
        api_server: tuple[str, bytes],
    ) -> None:
        """`claim_folder` finds a bound claim by namespace and name; `api_server` is its URL and its CA (PEM)."""
        self.pod = pod
        self._api = api
        self._address = address
        self._folder = folder
        self._claim_folder = claim_folder
        self._api_server = api_server
        metadata = pod["metadata"]
        self._namespace, self._name, self._uid = (metadata[key] for key in ("namespace", "name", "uid"))
        self._process: PodProcess | None = None
        self._published: Object = {}
        self._wake = asyncio.Event()
        self._grace_seconds: float | None = None  # set once the pod is to end
        self._removed = False
        self._stopping: list[asyncio.Task[None]] = []

    def end(self, grace_seconds: float, *, removed: bool = False) -> None:
        """Stop within `grace_seconds`, which a later call may shorten; `removed`: the API has forgotten the pod."""
        self._removed = self._removed or removed
        if self._grace_seconds is None or grace_seconds < self._grace_seconds:
            self._grace_seconds = grace_seconds
            self._wake.set()
            if self._process:
                stop = self._process.stop(grace_seconds=grace_seconds)
                self._stopping.append(asyncio.create_task(stop))

    async def run(self) -> None:
        try:
            self._process = await self._start()
            while self._grace_seconds is None and self._process:
                self._wake.clear()
                await self._publish(pod_status(self.pod, self._process.state))
                await self._wake.wait()
            if self._process:
                await self._process.stop(grace_seconds=self._grace_seconds)
                await asyncio.gather(*self._stopping)
                await self._publish(pod_status(self.pod, self._process.state))
            if not self._removed:
                await self._api.delete(self._path, gracePeriodSeconds=0, preconditions={"uid": self._uid})
        except BaseException:
            if self._process:
                await self._process.stop(grace_seconds=0)
            raise

    @property
    def _path(self) -> str:
        return f"/api/v1/namespaces/{self._namespace}/pods/{self._name}"

    async def _start(self) -> PodProcess | None:
        """The pod, started as soon as all it needs is there; None when it is to end before."""
        while self._grace_seconds is None:
            try:
                process = await self._prepare()
                await process.start()
            except (PodError, OSError, ApiError) as error:
                if isinstance(error, ApiError) and error.status not in GONE | {ENDING}:
                    raise
                reason = "CreateContainerConfigError"
                await self._publish(
                    waiting_status(self.pod, address=self._address, reason=reason, message=str(error))
                )
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), RETRY_SECONDS)
            else:
                return process
        return None

    async def _prepare(self) -> PodProcess:
        pod, wants_token = _without_token(self.pod)
        # What pods do is covered by the tests of engine and operator, without a node between.
        environment = dict(UNCOVERED)
        if wants_token:
            environment["KUBECONFIG"] = str(await self._kubeconfig())
        return PodProcess(
            pod,
            address=self._address,
            folder=self._folder,
            inputs=await self._inputs(pod),
            environment=environment,
            backoff_seconds=BACKOFF_SECONDS,
            on_change=lambda _: self._wake.set(),
        )

    async def _inputs(self, pod: Object) -> Inputs:
        config_maps: dict[str, dict[str, str | bytes]] = {}
        secrets: dict[str, dict[str, str | bytes]] = {}
        claims: dict[str, Path] = {}
        for kind, name in set(_references(pod)):
            if kind == "claim":
                if folder := self._claim_folder(self._namespace, name):
                    claims[name] = folder
            elif (found := await self._find(kind, name)) is not None:
                binary = found.get("data" if kind == "secrets" else "binaryData") or {}
                text = {} if kind == "secrets" else found.get("data") or {}
                contents = {**text, **{key: base64.b64decode(value) for key, value in binary.items()}}
                (secrets if kind == "secrets" else config_maps)[name] = contents
        return Inputs(config_maps=config_maps, secrets=secrets, claims=claims)

    async def _find(self, kind: str, name: str) -> Object | None:
        try:
            return await self._api.get(f"/api/v1/namespaces/{self._namespace}/{kind}/{name}")
        except ApiError as error:
            if error.status != 404:
                raise
            return None

    async def _kubeconfig(self) -> Path:
        """A kubeconfig with a token of the pod's ServiceAccount, which ends with the pod as a mounted one does."""
        account = self.pod["spec"]["serviceAccountName"]
        bound = {"apiVersion": "v1", "kind": "Pod", "name": self._name, "uid": self._uid}
        answer = await self._api.create(
            f"/api/v1/namespaces/{self._namespace}/serviceaccounts/{account}/token",
            {"spec": {"expirationSeconds": 24 * 3600, "boundObjectRef": bound}},
        )
        self._folder.mkdir(parents=True, exist_ok=True)
        server, ca = self._api_server
        user = {"token": answer["status"]["token"]}
        return pki.write_kubeconfig(self._folder / "kubeconfig", server=server, ca=ca, user=user)

    async def _publish(self, status: Object) -> None:
        if status == self._published or self._removed:
            return
        try:
            patch = {"metadata": {"uid": self._uid}, "status": status}
            self.pod = await self._api.patch(f"{self._path}/status", patch)
        except ApiError as error:
            if error.status not in GONE:  # the event of that is on its way
                raise
        self._published = status


def _references(pod: Object) -> Iterator[tuple[str, str]]:
    """The kind (as in the API's paths; "claim") and name of all that the pod reads from its namespace."""
    for volume in pod["spec"].get("volumes") or ():
        if "configMap" in volume:
            yield "configmaps", volume["configMap"]["name"]
        elif "secret" in volume:
            yield "secrets", volume["secret"]["secretName"]
        elif "projected" in volume:
            yield from (("secrets", source["secret"]["name"]) for source in volume["projected"]["sources"])
        elif "persistentVolumeClaim" in volume:
            yield "claim", volume["persistentVolumeClaim"]["claimName"]
    for container in pod["spec"]["containers"]:
        for variable in container.get("env") or ():
            source = variable.get("valueFrom") or {}
            if "configMapKeyRef" in source:
                yield "configmaps", source["configMapKeyRef"]["name"]
            elif "secretKeyRef" in source:
                yield "secrets", source["secretKeyRef"]["name"]


def _without_token(pod: Object) -> tuple[Object, bool]:
    """The pod without the volume that admission adds for API access, and whether it had one."""
    spec = pod["spec"]
    tokens = {
        volume["name"]
        for volume in spec.get("volumes") or ()
        if any("serviceAccountToken" in source for source in volume.get("projected", {}).get("sources", ()))
    }
    stripped = {
        **spec,
        "volumes": [volume for volume in spec.get("volumes") or () if volume["name"] not in tokens],
        "containers": [
            {
                **container,
                "volumeMounts": [
                    mount for mount in container.get("volumeMounts") or () if mount["name"] not in tokens
                ],
            }
            for container in spec["containers"]
        ],
    }
    return {**pod, "spec": stripped}, bool(tokens)
