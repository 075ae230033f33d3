"""The operator as a whole: which parts run when, on one event loop.

- On every replica, always: watches, the webhook, health and metrics.
- While the Lease is held: the queue's rounds, and looking after the webhook's certificate.

What must stay true: nothing writes without the Lease; a clean stop ends the rounds, then releases the Lease, then
goes on answering the webhook for a moment; any part that ends by itself ends the operator, since a replica that does
only half of its work is worse than one that is started again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import uuid
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from vectorizer_operator import __version__
from vectorizer_operator.controller import health
from vectorizer_operator.controller.lease import Lease
from vectorizer_operator.controller.metrics import Metrics
from vectorizer_operator.controller.queue import ReconcileQueue
from vectorizer_operator.controller.reconcile import Reconciler
from vectorizer_operator.controller.watches import ClusterKey, Watches
from vectorizer_operator.engines import Engines
from vectorizer_operator.kube.client import KubeClient
from vectorizer_operator.kube.connection import Connection
from vectorizer_operator.kube.errors import ApiError, NotFound
from vectorizer_operator.kube.resources import CLUSTERS
from vectorizer_operator.webhook import keeper, server
from vectorizer_operator.webhook.tls import ServerCertificate

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 3.0
"""How long a stopping replica still answers the webhook: until the API server no longer sends it reviews, as it learns
that the pod is leaving only a moment after the pod does."""

STUCK_AFTER = 120.0
"""Seconds. A round is some requests, each over after 15 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `vectorizer-operator run` was told."""

    namespaces: tuple[str, ...]
    operator_namespace: str
    default_image: str
    lease: str
    webhook_hosts: tuple[str, ...]
    webhook_port: int
    webhook_configuration: str
    webhook_secret: str
    webhook_certificate: Path | None
    health_port: int
    listen: str


async def operate(options: Options) -> None:
    """Run until SIGTERM or SIGINT. Raises what a part failed with, NoConnectionConfigured, or OSError for a port."""
    stop = asyncio.Event()
    _on_signals(stop)
    connection = await Connection.load(user_agent=f"vectorizer-operator/{__version__}")
    async with KubeClient(connection) as client:
        await _Operator(options, connection, client).run(stop)


class _Operator:
    def __init__(self, options: Options, connection: Connection, client: KubeClient) -> None:
        self._options = options
        self._client = client
        self._engines = Engines()
        self._metrics = Metrics()
        self._queue: ReconcileQueue[ClusterKey] = ReconcileQueue(on_failure=self._metrics.failed)
        self._watches = Watches(connection, namespaces=options.namespaces, changed=self._queue.add)
        self._lease = Lease(
            client,
            namespace=options.operator_namespace,
            name=options.lease,
            identity=f"{os.uname().nodename}_{uuid.uuid4().hex[:8]}",
        )
        self._certificate = ServerCertificate()
        self._certificate_written = asyncio.Event()
        self._kept = None
        self._source: keeper.CertificateSource
        if options.webhook_certificate:
            self._source = keeper.MountedCertificate(options.webhook_certificate)
        else:
            self._source = self._kept = keeper.KeptSecret(
                client,
                namespace=options.operator_namespace,
                secret=options.webhook_secret,
                configuration=options.webhook_configuration,
                hosts=options.webhook_hosts,
            )
        self._stopping = False
        self._register_gauges()

    async def run(self, stop: asyncio.Event) -> None:
        """Run every part until *stop* is set or one of them fails."""
        stop_watching = asyncio.Event()
        async with AsyncExitStack() as serving:
            await self._serve(serving)
            watching = asyncio.create_task(self._watch(stop, stop_watching), name="watches")
            parts = {
                watching,
                asyncio.create_task(stop.wait(), name="stop"),
                asyncio.create_task(self._lease.lead(self._work), name="leader election"),
                asyncio.create_task(
                    keeper.show(self._source, self._certificate, written=self._certificate_written),
                    name="webhook certificate",
                ),
            }
            ended, others = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            self._stopping = True
            for part in others - {watching}:
                part.cancel()
            await asyncio.wait(parts - {watching})
            if stop.is_set():
                await asyncio.sleep(DRAIN_SECONDS)
        stop_watching.set()  # last, as kopf waits for whatever else is still running
        await asyncio.wait({watching})
        for part in ended:
            part.result()
            if not stop.is_set():
                raise RuntimeError(f"{part.get_name()} ended by itself")

    async def _serve(self, serving: AsyncExitStack) -> None:
        options = self._options
        endpoints = health.application(metrics=self._metrics, alive=self._alive, ready=self._ready)
        runner = await server.serve(endpoints, host=options.listen, port=options.health_port)
        serving.push_async_callback(runner.cleanup)
        webhook = await server.serve(
            server.application(self._metrics.count_verdicts),
            host=options.listen,
            port=options.webhook_port,
            tls=self._certificate.context,
        )
        serving.push_async_callback(webhook.cleanup)
        logger.info(
            "vectorizer-operator %s looks after %s; webhook on port %d, health and metrics on port %d",
            __version__,
            ", ".join(options.namespaces) or "all namespaces",
            options.webhook_port,
            options.health_port,
        )

    async def _work(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._queue.run(self._reconciler.reconcile))
                if self._kept is not None:
                    group.create_task(
                        keeper.keep(self._kept, fence=self._lease.fence, written=self._certificate_written)
                    )
        finally:
            self._metrics.not_leading()
            await self._engines.close()

    @property
    def _reconciler(self) -> Reconciler:
        return Reconciler(
            self._client,
            self._engines,
            default_image=self._options.default_image,
            fence=self._lease.fence,
            metrics=self._metrics,
        )

    async def _watch(self, stop: asyncio.Event, stop_watching: asyncio.Event) -> None:
        await self._definition_installed()
        ended = await self._watches.start(stop=stop_watching)
        _on_signals(stop)  # kopf has put its own in their place
        await ended()

    async def _definition_installed(self) -> None:
        """Kopf looks once for what there is to watch: wait until there is."""
        namespace = next(iter(self._options.namespaces), None)
        pause = 0.5
        while True:
            try:
                await self._client.list(CLUSTERS, namespace=namespace)
            except NotFound:
                logger.warning("the CustomResourceDefinition of %s is not installed, waiting", CLUSTERS.kind)
            except ApiError as error:
                logger.warning("cannot list the clusters, trying again: %s", error)
            else:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5.0)

    def _alive(self) -> Iterator[str]:
        yield from self._watches.dead()
        if self._queue.longest_round > STUCK_AFTER:
            yield f"a round has been running for {self._queue.longest_round:.0f} s"

    def _ready(self) -> Iterator[str]:
        if self._stopping:
            yield "stopping"
        if not self._certificate.loaded.is_set():
            yield "the webhook has no certificate yet"
        if not self._watches.synced:
            yield "not every watch is open yet"

    def _register_gauges(self) -> None:
        gauge = self._metrics.gauge
        gauge("queue_depth", "Clusters that are due to be worked on.", lambda: self._queue.depth)
        gauge("leader", "1 on the replica that holds the Lease.", lambda: self._lease.still_held)
        gauge(
            "webhook_certificate_seconds_left",
            "Until the certificate that the webhook shows expires; 0 while there is none.",
            lambda: self._certificate.seconds_left or 0.0,
        )
        self._metrics.gauges(
            "watch_age_seconds", "Since each watch was last opened.", "path", self._watches.ages
        )


def _on_signals(stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
