"""Keeps the pods of one cluster running as its objects want them, by the safety rules of the operator.

It is level-triggered, as the operator is: whenever something has changed, it looks at all pods and takes the next
step. Pods are started together, replaced one at a time, and where they share a store, drained before they end.

Not for what a pod is (`runner.py`) nor for which clusters there are (`supervisor.py`).
"""

import asyncio
import contextlib
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vectorizer_operator.api.constants import INTERNAL_KEY, PORT_NAME
from vectorizer_operator.engines import Engines
from vectorizer_operator.local.members import Membership, as_pod, publish
from vectorizer_operator.local.runner import Inputs, PodError, PodProcess
from vectorizer_operator.local.state import ClusterStatus, Desired, PodStatus, StateFolder, TopologyStatus
from vectorizer_operator.local.workload import Workload, claims, own_claims, workload
from vectorizer_operator.manifests import internal_secret_name
from vectorizer_operator.plan.pods import Pod
from vectorizer_operator.plan.predicates import one_pod_at_a_time, stuck_pod_is_replaced
from vectorizer_operator.plan.topology import look_again

RETRY_SECONDS = 10.0
"""A pod that could not even be prepared (a missing Secret, a full disk) is tried again after this."""


@dataclass(kw_only=True)
class _Pod:
    """A pod of a cluster: running, or not startable, and then `problem` says why. `changed` is when it was made, or its
    readiness changed last."""

    revision: str
    process: PodProcess | None = None
    problem: str = ""
    changed: datetime
    ready: bool = False
    end: asyncio.Task[None] | None = None


class ClusterWorker:
    """Brings one cluster's pods to what is desired, whenever that or they change."""

    def __init__(
        self, desired: Desired, folder: StateFolder, engines: Engines, on_change: Callable[[], None]
    ) -> None:
        self.desired = desired
        self._folder = folder
        self._engines = engines
        self._on_change = on_change
        self._pods: dict[str, _Pod] = {}
        self._observed = 0  # the generation that is being brought about
        self._settled = 0  # the newest generation whose pods all run
        self._revision = ""
        self._membership: Membership | None = None
        self._changed = asyncio.Event()

    def want(self, desired: Desired) -> None:
        if desired != self.desired:
            self.desired = desired
            self._changed.set()

    async def run(self) -> None:
        """Until the cluster is to be down and its pods have ended."""
        while self.desired.up:
            self._changed.clear()
            pause = await self._step(self.desired)
            self._on_change()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), pause)
        await self.stop()

    async def stop(self) -> None:
        for name in self._pods:
            self._end(name)
        await asyncio.gather(*(pod.end for pod in list(self._pods.values()) if pod.end))

    async def _step(self, desired: Desired) -> float | None:
        """Start what is missing, and end what may go.

        Returns after how many seconds to look again, None where nothing will change by itself.
        """
        wanted = workload(desired.objects, config_maps=desired.config_maps, secrets=desired.secrets)
        self._observed, self._revision = desired.generation, wanted.revision
        self._forget_problems(wanted)
        for name in sorted(wanted.pods.keys() - self._pods.keys()):
            await self._start(name, wanted, desired)
        pods = list(self._running())
        leaving = list(_leaving(pods, wanted))
        if wanted.shares_store and pods:
            key = desired.secrets.get(internal_secret_name(desired.name), {}).get(INTERNAL_KEY, "")
            # Where none is to be left, there is nobody to give shards to.
            names = [pod.name for pod in leaving if wanted.pods]
            self._membership = await publish(self._engines, pods, names, key=key)
        else:
            self._membership = None
        for pod in leaving:
            if self._may_go(pod, wanted):
                self._end(pod.name, *self._useless_claims(pod.name, wanted))
        as_wanted = all(pod.revision == wanted.revision and not pod.end for pod in self._pods.values())
        if as_wanted and self._pods.keys() == wanted.pods.keys():
            self._settled = desired.generation
        return min(self._pauses(pods), default=None)

    def _forget_problems(self, wanted: Workload) -> None:
        """Pods that could not be prepared, and are to be tried again or are not wanted any more."""
        for name, pod in list(self._pods.items()):
            late = (datetime.now(UTC) - pod.changed).total_seconds() >= RETRY_SECONDS
            if pod.problem and (late or pod.revision != wanted.revision or name not in wanted.pods):
                del self._pods[name]

    def _may_go(self, pod: Pod, wanted: Workload) -> bool:
        """Whether the shards of `pod`, if it serves any, are served by others."""
        if self._membership is None or not wanted.pods:
            return True
        replaced_because_down = pod.name in wanted.pods and not pod.ready
        return replaced_because_down or self._membership.may_go(pod.name)

    def _pauses(self, pods: Sequence[Pod]) -> Iterator[float]:
        if any(pod.problem for pod in self._pods.values()):
            yield RETRY_SECONDS
        if self._membership and self._membership.moving:
            yield from look_again(pods, now=datetime.now(UTC))

    def _running(self) -> Iterator[Pod]:
        for pod in self._pods.values():
            if pod.process is not None:
                yield as_pod(
                    pod.process, revision=pod.revision, changed=pod.changed, ending=pod.end is not None
                )

    def _useless_claims(self, name: str, wanted: Workload) -> list[Path]:
        """The folders of the claims that are to be deleted when the pod `name` has ended."""
        process = self._pods[name].process
        if process is None or name in wanted.pods or not wanted.claims_deleted_when_scaled:
            return []
        return [self._folder.data(self.desired.name) / claim for claim in own_claims(process.pod)]

    async def _start(self, name: str, wanted: Workload, desired: Desired) -> None:
        spec = wanted.pods[name]
        ordinal = int(spec["metadata"]["labels"]["apps.kubernetes.io/pod-index"])
        folder = self._folder.pods(desired.name) / name
        volumes = {claim: self._folder.data(desired.name) / claim for claim in claims(spec)}
        pod = _Pod(revision=wanted.revision, changed=datetime.now(UTC))
        process = PodProcess(
            spec,
            address=address(desired.number, ordinal),
            folder=folder,
            inputs=Inputs(config_maps=wanted.config_maps, secrets=desired.secrets, claims=volumes),
            ports_may_move=True,
            on_change=lambda process: self._seen(pod, process),
        )
        self._pods[name] = pod
        try:
            # A new pod has new volumes; only claims are kept.
            shutil.rmtree(folder / "volumes", ignore_errors=True)
            for volume in volumes.values():
                volume.mkdir(parents=True, exist_ok=True, mode=0o700)
            await process.start()
        except (PodError, OSError) as error:
            pod.problem = str(error)
        except Exception as error:  # noqa: BLE001 - a podTemplate may hold anything: it fails this pod alone
            pod.problem = f"pod {name} cannot be understood: {type(error).__name__}: {error}"
        else:
            pod.process = process

    def _seen(self, pod: _Pod, process: PodProcess) -> None:
        if process.state.ready != pod.ready:
            pod.ready, pod.changed = process.state.ready, datetime.now(UTC)
        self._changed.set()

    def _end(self, name: str, *folders: Path) -> None:
        """Begin to end a pod, and then delete `folders`. Nothing where it has begun to end."""
        pod = self._pods[name]
        if pod.end is None:
            pod.changed = datetime.now(UTC)
            pod.end = asyncio.create_task(self._ended(name, pod, folders))

    async def _ended(self, name: str, pod: _Pod, folders: Sequence[Path]) -> None:
        try:
            if pod.process is not None:
                await pod.process.stop()
            for folder in folders:
                shutil.rmtree(folder)
        finally:
            del self._pods[name]
            self._changed.set()

    def status(self) -> ClusterStatus:
        pods = [_pod_status(name, pod, self._revision) for name, pod in sorted(self._pods.items())]
        answering = [pod for pod in pods if pod.ready] or pods
        topology = self._membership and TopologyStatus(
            version=self._membership.version,
            members=list(self._membership.members),
            moving=list(self._membership.moving),
        )
        return ClusterStatus(
            name=self.desired.name,
            observed=self._observed,
            settled=self._settled,
            endpoint=next((f"http://{pod.address}" for pod in answering if pod.address), None),
            ready=self._settled == self.desired.generation
            and all(pod.ready for pod in pods)
            and not (topology and topology.moving),
            pods=pods,
            topology=topology,
        )


def _leaving(pods: Sequence[Pod], wanted: Workload) -> Iterator[Pod]:
    """Those that are not wanted, and the one that is to be replaced next."""
    staying = [pod for pod in pods if pod.name in wanted.pods]
    yield from (pod for pod in pods if pod not in staying and not pod.terminating)
    replaced = stuck_pod_is_replaced(staying, wanted.revision)
    if replaced is None and len(staying) == len(pods):
        replaced = one_pod_at_a_time(pods, wanted.revision, len(wanted.pods))
    if replaced is not None:
        yield replaced


def _pod_status(name: str, pod: _Pod, revision: str) -> PodStatus:
    current = pod.revision == revision
    if pod.process is None:
        return PodStatus(name=name, message=pod.problem, failing=current)
    state = pod.process.state
    port = state.ports.get(PORT_NAME)
    return PodStatus(
        name=name,
        address=f"{state.address}:{port}" if port else None,
        pid=state.pid,
        ready=state.ready,
        restarts=state.restarts,
        message=next((container.message for container in state.containers if container.message), ""),
        failing=current and any(container.waiting == "CrashLoopBackOff" for container in state.containers),
    )


def address(number: int, ordinal: int) -> str:
    """A loopback address of a pod's own, where the system has them (Linux); 127.0.0.1 where it does not (macOS)."""
    own = f"127.20.{number}.{ordinal + 1}"
    with socket.socket() as probe:
        try:
            probe.bind((own, 0))
        except OSError:
            return "127.0.0.1"
    return own
