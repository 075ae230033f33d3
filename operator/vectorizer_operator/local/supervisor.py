"""The background process behind `vectorizerctl local`: keeps the pods of every cluster that is up running.

    python -m vectorizer_operator.local.supervisor DIR LOCK

It is level-triggered, as the operator is: woken by a byte in the state folder's pipe, it reads what is to run, and
a worker a cluster brings the pods there, one at a time where they are replaced. It publishes what it sees in
`status.json`. When no cluster is up any more it ends; its pods end with it, however it ends (`container.py`).

`local up` starts it with a file descriptor LOCK that holds the folder's supervisor lock. Not for rules and
rendering: what it reads has passed both.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vectorizer_operator.local.runner import Inputs, PodError, PodProcess
from vectorizer_operator.local.state import ClusterStatus, Desired, PodStatus, StateFolder, Status
from vectorizer_operator.local.workload import Workload, claims, own_claims, workload

RETRY_SECONDS = 10.0
"""A pod that could not even be prepared (a missing Secret, a full disk) is tried again after this."""


@dataclass(kw_only=True)
class _Pod:
    """A pod of a cluster: running, or not startable, and then `problem` says why."""

    revision: str
    process: PodProcess | None = None
    problem: str = ""


class ClusterWorker:
    """Brings one cluster's pods to what is desired, whenever that changes."""

    def __init__(self, desired: Desired, folder: StateFolder, on_change: Callable[[], None]) -> None:
        self.desired = desired
        self._folder = folder
        self._on_change = on_change
        self._pods: dict[str, _Pod] = {}
        self._observed = 0  # the generation that is being brought about
        self._settled = 0  # the newest generation whose pods all run
        self._revision = ""
        self._changed = asyncio.Event()

    def want(self, desired: Desired) -> None:
        if desired != self.desired:
            self.desired = desired
            self._changed.set()

    async def run(self) -> None:
        """Until the cluster is to be down and its pods have ended."""
        while self.desired.up:
            self._changed.clear()
            await self._settle(self.desired)
            failed = any(pod.problem for pod in self._pods.values())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), RETRY_SECONDS if failed else None)
        await self.stop()

    async def stop(self) -> None:
        await asyncio.gather(*(self._end(name) for name in list(self._pods)))

    async def _settle(self, desired: Desired) -> None:
        wanted = workload(desired.objects, config_maps=desired.config_maps, secrets=desired.secrets)
        self._observed, self._revision = desired.generation, wanted.revision
        for name in sorted(set(self._pods) - set(wanted.pods), reverse=True):
            pod = self._pods[name].process
            await self._end(name)
            if pod and wanted.claims_deleted_when_scaled:
                for claim in own_claims(pod.pod):
                    shutil.rmtree(self._folder.data(desired.name) / claim)
        outdated = [
            name for name, pod in self._pods.items() if pod.problem or pod.revision != wanted.revision
        ]
        for name in sorted(set(wanted.pods) - set(self._pods)):
            await self._start(name, wanted, desired)
        for name in sorted(outdated, reverse=True):  # as a StatefulSet rolls: from the highest, one at a time
            await self._end(name)
            started = await self._start(name, wanted, desired)
            if started is None or not await self._ready_or_superseded(started):
                return
        self._settled = desired.generation
        self._on_change()

    async def _ready_or_superseded(self, pod: PodProcess) -> bool:
        """True when `pod` is ready; False when there is something newer to do than to wait for it."""
        ready = asyncio.create_task(pod.wait(lambda state: state.ready))
        changed = asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait([ready, changed], return_when=asyncio.FIRST_COMPLETED)
            return ready.done()
        finally:
            ready.cancel()
            changed.cancel()

    async def _start(self, name: str, wanted: Workload, desired: Desired) -> PodProcess | None:
        pod = wanted.pods[name]
        ordinal = int(pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"])
        folder = self._folder.pods(desired.name) / name
        volumes = {claim: self._folder.data(desired.name) / claim for claim in claims(pod)}
        process = PodProcess(
            pod,
            address=address(desired.number, ordinal),
            folder=folder,
            inputs=Inputs(config_maps=wanted.config_maps, secrets=desired.secrets, claims=volumes),
            ports_may_move=True,
            on_change=lambda _: self._on_change(),
        )
        try:
            # A new pod has new volumes; only claims are kept.
            shutil.rmtree(folder / "volumes", ignore_errors=True)
            for volume in volumes.values():
                volume.mkdir(parents=True, exist_ok=True, mode=0o700)
            await process.start()
        except (PodError, OSError) as error:
            self._pods[name] = _Pod(revision=wanted.revision, problem=str(error))
        except Exception as error:  # noqa: BLE001 - a podTemplate may hold anything: it fails this pod alone
            problem = f"pod {name} cannot be understood: {type(error).__name__}: {error}"
            self._pods[name] = _Pod(revision=wanted.revision, problem=problem)
        else:
            self._pods[name] = _Pod(revision=wanted.revision, process=process)
        self._on_change()
        return self._pods[name].process

    async def _end(self, name: str) -> None:
        if process := self._pods[name].process:
            await process.stop()
        del self._pods[name]
        self._on_change()

    def status(self) -> ClusterStatus:
        pods = [_pod_status(name, pod, self._revision) for name, pod in sorted(self._pods.items())]
        return ClusterStatus(
            name=self.desired.name,
            observed=self._observed,
            settled=self._settled,
            endpoint=next((f"http://{pod.address}" for pod in pods if pod.address), None),
            ready=self._settled == self.desired.generation and all(pod.ready for pod in pods),
            pods=pods,
        )


def _pod_status(name: str, pod: _Pod, revision: str) -> PodStatus:
    current = pod.revision == revision
    if pod.process is None:
        return PodStatus(name=name, message=pod.problem, failing=current)
    state = pod.process.state
    port = state.ports.get("http")
    return PodStatus(
        name=name,
        address=f"{state.address}:{port}" if port else None,
        pid=state.pid,
        ready=state.ready,
        restarts=state.restarts,
        message=next((container.message for container in state.containers if container.message), ""),
        failing=current and any(container.waiting == "CrashLoopBackOff" for container in state.containers),
    )


class Supervisor:
    """Holds a worker for each cluster that is up, and the folder's status."""

    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder
        self._woken = asyncio.Event()
        self._stopping = False
        self._dirty = asyncio.Event()
        self._seen: dict[str, int] = {}
        self._workers: dict[str, ClusterWorker] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Until no cluster is up, or a signal asks for the end; what is to run then stays written down."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop)
        pipe = _open_pipe(self._folder.wake_pipe)
        loop.add_reader(pipe, self._wake, pipe)
        publisher = asyncio.create_task(self._publish())
        try:
            while not self._stopping and not self._nothing_left():
                self._follow(self._folder.desired())
                await self._woken.wait()
                self._woken.clear()
        finally:
            publisher.cancel()
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            await asyncio.gather(*(worker.stop() for worker in self._workers.values()))

    def _follow(self, desired: Mapping[str, Desired]) -> None:
        for name in [name for name, task in self._tasks.items() if task.done()]:
            self._tasks.pop(name).result()
            del self._workers[name]
        for name, cluster in desired.items():
            if name in self._workers:
                self._workers[name].want(cluster)
            elif cluster.up:
                worker = ClusterWorker(cluster, self._folder, self._dirty.set)
                self._workers[name] = worker
                self._tasks[name] = asyncio.create_task(worker.run(), name=name)
                self._tasks[name].add_done_callback(lambda _: self._woken.set())
        self._seen = {name: cluster.generation for name, cluster in desired.items()}
        self._dirty.set()

    def _nothing_left(self) -> bool:
        """Whether no cluster is up. Then the folder's lock is kept until this process is gone, like the supervisor's:
        an `up` waits that long and starts another, and who waits for the end does not see it half done."""
        if not all(task.done() for task in self._tasks.values()):
            return False
        lock = self._folder.lock()
        if any(cluster.up for cluster in self._folder.desired().values()):
            os.close(lock)
            return False
        self._folder.write_status(Status())
        return True

    async def _publish(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            clusters = [self._workers[name].status() for name in sorted(self._workers)]
            try:
                self._folder.write_status(Status(clusters=clusters, seen=self._seen))
            except OSError as error:
                if not self._folder.path.is_dir():  # somebody deleted it all: then nothing is to run
                    self._stop()
                    return
                sys.stderr.write(
                    f"cannot write the status, trying again: {error}\n"
                )  # a full disk, for example
                await asyncio.sleep(1)
                self._dirty.set()

    def _wake(self, pipe: int) -> None:
        os.read(pipe, 4096)
        self._woken.set()

    def _stop(self) -> None:
        self._stopping = True
        self._woken.set()


def address(number: int, ordinal: int) -> str:
    """A loopback address of a pod's own, where the system has them (Linux); 127.0.0.1 where it does not (macOS)."""
    own = f"127.20.{number}.{ordinal + 1}"
    with socket.socket() as probe:
        try:
            probe.bind((own, 0))
        except OSError:
            return "127.0.0.1"
    return own


def _open_pipe(path: Path) -> int:
    """Open for reading and writing, so that the pipe never ends when a writer does."""
    path.unlink(missing_ok=True)
    os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK)


def main() -> None:
    folder, lock = Path(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(lock, False)  # held by this process alone, and until its end
    asyncio.run(Supervisor(StateFolder(folder)).run())


if __name__ == "__main__":
    main()
