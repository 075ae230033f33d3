"""Runs a pod's containers as local processes, with the kubelet's rules for probes, restarts and the end.

    pod = PodProcess(
        {"metadata": {"name": "quickstart-0", "namespace": "default"}, "spec": {...}},
        address="127.20.0.1",
        folder=Path("…/quickstart-0"),
        inputs=Inputs(config_maps={"quickstart": {"config.yml": "…"}}, claims={"data-quickstart-0": Path("…")}),
    )
    await pod.start()
    await pod.wait(lambda state: state.ready)
    await pod.stop()

A container that ends is started again if its pod's restart policy says so, at once the first time and then after
a back-off that doubles; one whose startup or liveness probe fails too often is stopped first. Readiness follows
its probe. Each container is a process group; the group is killed when its first process ends, and that process
when the thread that called `start` ends (on Linux), so nothing is left running.

It knows no Kubernetes API: whoever calls it hands in the pod, its inputs and its address, and hears of changes by
`on_change`. Init containers and lifecycle hooks are refused, not ignored.
How a container becomes a command is `launch.py`'s subject, how it is kept running `container.py`'s.
"""

import asyncio
import errno
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vectorizer_operator.local.container import BACKOFF_SECONDS, ContainerProcess, ContainerState
from vectorizer_operator.local.launch import Inputs, PodError, launch

__all__ = ["BACKOFF_SECONDS", "ContainerState", "Inputs", "PodError", "PodProcess", "PodState", "free_port"]

Phase = Literal["Pending", "Running", "Succeeded", "Failed"]

_RESTARTS: Mapping[str, Callable[[int], bool]] = {
    "Always": lambda _: True,
    "OnFailure": lambda exit_code: exit_code != 0,
    "Never": lambda _: False,
}
"""Whether a container is started again after it ended with an exit code, by the pod's restart policy."""


@dataclass(frozen=True, kw_only=True)
class PodState:
    """A pod as seen now; `phase` has Kubernetes' meaning, `ports` leads from a declared port to the real one."""

    phase: Phase
    address: str
    ports: Mapping[str | int, int]
    containers: tuple[ContainerState, ...]

    @property
    def ready(self) -> bool:
        return bool(self.containers) and all(container.ready for container in self.containers)

    @property
    def restarts(self) -> int:
        return sum(container.restarts for container in self.containers)

    @property
    def pid(self) -> int | None:
        """The process of the first container, in our pods the engine's; None while it is not running."""
        return self.containers[0].pid if self.containers else None


class PodProcess:
    """A pod on this machine. It belongs to the event loop that starts it; `on_change` is called there."""

    def __init__(
        self,
        pod: Mapping[str, Any],
        *,
        address: str,
        folder: Path,
        inputs: Inputs | None = None,
        environment: Mapping[str, str] | None = None,
        ports_may_move: bool = False,
        backoff_seconds: float = BACKOFF_SECONDS,
        on_change: Callable[["PodProcess"], None] | None = None,
    ) -> None:
        """`pod` has a name, a namespace and a pod spec: a StatefulSet's template with its claims as volumes.

        `folder` is the pod's own, for its volumes and for `<container>.log`; `environment` is given to every
        container. With `ports_may_move` a declared port that is taken at `address` is replaced by the next free
        one; without, the process gets it and says itself that it is taken.
        """
        self.pod = pod
        self.address = address
        self.folder = folder
        self._inputs = inputs or Inputs()
        self._environment = environment or {}
        self._ports_may_move = ports_may_move
        self._backoff_seconds = backoff_seconds
        self._on_change = on_change
        self._ports: dict[str | int, int] = {}
        self._containers: list[ContainerProcess] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._waiting: list[tuple[Callable[[PodState], bool], asyncio.Future[PodState]]] = []

    @property
    def name(self) -> str:
        return str(self.pod["metadata"]["name"])

    @property
    def state(self) -> PodState:
        containers = tuple(container.state for container in self._containers)
        phase: Phase = "Pending"
        if self._tasks and all(task.done() for task in self._tasks):
            phase = "Failed" if any(container.exit_code for container in containers) else "Succeeded"
        elif any(container.pid or container.exit_code is not None for container in containers):
            phase = "Running"
        return PodState(phase=phase, address=self.address, ports=self._ports, containers=containers)

    def log(self, container: str | None = None) -> Path:
        """The file with the output of a container (of the first by default), over all its restarts."""
        return self.folder / f"{container or self.pod['spec']['containers'][0]['name']}.log"

    async def start(self) -> None:
        """Write the volumes and start the containers. Raises PodError or OSError, and then nothing was started."""
        spec = self.pod["spec"]
        if spec.get("initContainers"):
            raise PodError(f"pod {self.name}: initContainers cannot be run as local processes; remove them")
        if (policy := _policy(spec)) not in _RESTARTS:
            raise PodError(f"pod {self.name}: restartPolicy is {policy!r}; expected {', '.join(_RESTARTS)}")
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._containers = [self._prepare(container) for container in spec["containers"]]
        self._tasks = [asyncio.create_task(container.run()) for container in self._containers]
        for task in self._tasks:
            task.add_done_callback(lambda _: self._changed())

    async def wait(self, condition: Callable[[PodState], bool]) -> PodState:
        """Return the first state for which `condition` holds, this one included. Bound it by `asyncio.timeout`."""
        if condition(state := self.state):
            return state
        future: asyncio.Future[PodState] = asyncio.get_running_loop().create_future()
        waiting = condition, future
        self._waiting.append(waiting)
        try:
            return await future
        finally:
            self._waiting.remove(waiting)

    async def stop(self, *, grace_seconds: float | None = None) -> None:
        """SIGTERM, then SIGKILL after `grace_seconds` (the pod's own by default); returns when all has ended.

        May be called again, with fewer seconds, while an earlier call is still waiting.
        """
        for container in self._containers:
            container.stop(grace_seconds)
        await asyncio.gather(*self._tasks)

    def _prepare(self, spec: Mapping[str, Any]) -> ContainerProcess:
        prepared = launch(
            self.pod,
            spec,
            address=self.address,
            folder=self.folder,
            inputs=self._inputs,
            environment=self._environment,
            port=lambda wanted: free_port(self.address, wanted) if self._ports_may_move else wanted,
        )
        self._ports |= prepared.ports
        return ContainerProcess(
            spec,
            prepared,
            pod=self.name,
            address=self.address,
            log=self.log(spec["name"]),
            grace_seconds=self.pod["spec"].get("terminationGracePeriodSeconds", 30),
            backoff_seconds=self._backoff_seconds,
            restarts=_RESTARTS[_policy(self.pod["spec"])],
            on_change=self._changed,
        )

    def _changed(self) -> None:
        state = self.state
        for condition, future in self._waiting:
            if not future.done() and condition(state):
                future.set_result(state)
        if self._on_change:
            self._on_change(self)


def _policy(spec: Mapping[str, Any]) -> str:
    return str(spec.get("restartPolicy", "Always"))


def free_port(address: str, wanted: int) -> int:
    """`wanted`, or the next port above it that nobody listens on at `address`."""
    for port in range(wanted, 65536):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT is free
            try:
                probe.bind((address, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return port
    raise PodError(f"no port from {wanted} up is free at {address}")
