"""What kube-proxy does, without routing rules: listens at each Service's cluster IP and passes connections on.

Cluster IPs here are loopback addresses (see `controlplane.py`), so a process may listen at them. A Service's port
is open while it has a ready pod that is not ending; each connection goes to a random one of them. TCP only, no
session affinity.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Iterable

from tests.kube.api import Object

logger = logging.getLogger(__name__)

Address = tuple[str, int]


class ServiceProxy:
    """Keeps the open ports as Services and pods say; call `changed` whenever one of them has changed."""

    def __init__(self) -> None:
        self._backends: dict[Address, list[Address]] = {}
        self._servers: dict[Address, asyncio.Server] = {}
        self._connections: set[asyncio.Task[None]] = set()
        self._wanted = asyncio.Event()

    def changed(self, services: Iterable[Object], pods: Iterable[Object]) -> None:
        ready = [pod for pod in pods if is_ready(pod) and "deletionTimestamp" not in pod["metadata"]]
        self._backends = {
            address: backends
            for service in services
            for address, backends in routes(service, ready).items()
            if backends
        }
        self._wanted.set()

    async def run(self) -> None:
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                for address in self._servers.keys() - self._backends.keys():
                    self._servers.pop(address).close()
                for address in self._backends.keys() - self._servers.keys():
                    await self._listen(address)
        finally:
            for server in self._servers.values():
                server.close()
            for connection in self._connections:
                connection.cancel()

    async def _listen(self, address: Address) -> None:
        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = asyncio.create_task(self._pass_on(address, reader, writer))
            self._connections.add(connection)
            connection.add_done_callback(self._connections.discard)

        try:
            self._servers[address] = await asyncio.start_server(accepted, *address)
        except OSError as error:  # a port below 1024 without root; whoever dials it finds it closed
            logger.warning("Service at %s:%s cannot be reached: %s", *address, error)

    async def _pass_on(
        self, address: Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError, IndexError):
            backend = random.choice(self._backends.get(address, []))
            back_reader, back_writer = await asyncio.open_connection(*backend)
            await asyncio.gather(_copy(reader, back_writer), _copy(back_reader, writer))
        writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


def routes(service: Object, pods: Iterable[Object]) -> dict[Address, list[Address]]:
    """Where each port of a Service leads, over those of `pods` that its selector takes."""
    spec = service["spec"]
    selector = (spec.get("selector") or {}).items()
    if not selector or spec.get("clusterIP") in (None, "", "None"):
        return {}
    selected = [
        pod
        for pod in pods
        if pod["metadata"]["namespace"] == service["metadata"]["namespace"]
        and selector <= (pod["metadata"].get("labels") or {}).items()
    ]
    return {
        (spec["clusterIP"], port["port"]): [
            (pod["status"]["podIP"], target)
            for pod in selected
            if (target := _target(port.get("targetPort", port["port"]), pod)) is not None
        ]
        for port in spec["ports"]
    }


def _target(port: int | str, pod: Object) -> int | None:
    """The number of a target port; a name may mean another one in each pod, or nothing."""
    if isinstance(port, int):
        return port
    declared = (port for container in pod["spec"]["containers"] for port in container.get("ports", ()))
    return next((known["containerPort"] for known in declared if known.get("name") == port), None)


def is_ready(pod: Object) -> bool:
    conditions = pod["status"].get("conditions") or ()
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
