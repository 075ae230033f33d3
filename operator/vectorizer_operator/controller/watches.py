"""Kopf's watches, of which each event does one thing: it says which cluster to look at.

Kopf lists and watches, reconnects, and signs in again; it gets no finalizer, annotation or Kubernetes Event to write,
as it only has `on.event` handlers. A watch is known to be alive by its requests: the server ends each one after
`SERVER_TIMEOUT`, so one that was not opened again for clearly longer is dead, whatever else seems fine.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import aiohttp
import kopf

from vectorizer_operator.api import CLUSTER_LABEL
from vectorizer_operator.kube.connection import Connection
from vectorizer_operator.kube.resources import CHILDREN, CLAIMS, CLUSTERS, PODS, Resource

SERVER_TIMEOUT = 270
CLIENT_TIMEOUT = 300
DEAD_AFTER = 330.0
"""Seconds since a watch was last opened: the longest that one lasts, and time to reconnect."""

WATCHED = (CLUSTERS, *CHILDREN, PODS, CLAIMS)


class ClusterKey(NamedTuple):
    """Which cluster to work on."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Watches:
    """Watches of all clusters and their children, in *namespaces* or, if there are none, everywhere."""

    def __init__(
        self, connection: Connection, *, namespaces: Collection[str], changed: Callable[[ClusterKey], None]
    ) -> None:
        self._connection = connection
        self._namespaces = namespaces
        self._changed = changed
        self._clock = asyncio.get_running_loop().time
        places = namespaces or (None,)
        started = self._clock()
        self._opened = {
            resource.path(namespace=namespace): started
            for resource, namespace in itertools.product(WATCHED, places)
        }
        self._never_opened = set(self._opened)
        self._identities: dict[ClusterKey, tuple[str, int, bool]] = {}

    async def start(self, *, stop: asyncio.Event) -> Callable[[], Any]:
        """Start to watch. Returns what to await until *stop* is set; it raises if kopf cannot go on.

        Kopf takes over the signal handlers, and when it ends it cancels every task that was started after it.
        """
        ours = asyncio.all_tasks()
        tasks = await kopf.spawn_tasks(
            registry=self._registry(),
            settings=_settings(),
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            stop_flag=stop,
            standalone=True,
        )

        async def ended() -> None:
            await kopf.run_tasks(tasks, ignored=ours)

        return ended

    @property
    def synced(self) -> bool:
        """Whether every watch has been open once."""
        return not self._never_opened

    def ages(self) -> Mapping[str, float]:
        """Seconds since each watch was last opened, by its path in the API."""
        now = self._clock()
        return {path: now - opened for path, opened in self._opened.items()}

    def dead(self) -> Iterator[str]:
        """What to say about each watch that is dead."""
        for path, age in self.ages().items():
            if age > DEAD_AFTER:
                yield f"the watch of {path} is dead: it was last opened {age:.0f} s ago"

    def _is_news(self, key: ClusterKey, metadata: Mapping[str, Any], *, deleted: bool) -> bool:
        """Whether an event of a cluster is about more than its status, which only we write."""
        identity = (metadata["uid"], metadata["generation"], "deletionTimestamp" in metadata)
        if deleted:
            self._identities.pop(key, None)
            return True
        known = self._identities.get(key)
        self._identities[key] = identity
        return identity != known

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry)
        async def login(**_: Any) -> kopf.AiohttpSession:
            session = self._connection.session(self._trace())
            return kopf.AiohttpSession(server=self._connection.server, aiohttp_session=session)

        async def cluster_changed(event: Mapping[str, Any], **_: Any) -> None:
            metadata = event["object"]["metadata"]
            key = ClusterKey(metadata["namespace"], metadata["name"])
            if self._is_news(key, metadata, deleted=event["type"] == "DELETED"):
                self._changed(key)

        async def child_changed(namespace: str, labels: Mapping[str, str], **_: Any) -> None:
            # A child that lost its label left the watch, whose last event still shows it.
            if CLUSTER_LABEL in labels:
                self._changed(ClusterKey(namespace, labels[CLUSTER_LABEL]))

        for resource in WATCHED:
            handler: Any = cluster_changed if resource is CLUSTERS else child_changed
            kopf.on.event(*_selector(resource), registry=registry)(handler)
        return registry

    def _trace(self) -> aiohttp.TraceConfig:
        async def answered(
            session: aiohttp.ClientSession, context: SimpleNamespace, answer: aiohttp.TraceRequestEndParams
        ) -> None:
            path = answer.url.path
            if answer.response.status == 200 and answer.url.query.get("watch") and path in self._opened:
                self._opened[path] = self._clock()
                self._never_opened.discard(path)

        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(answered)
        return trace


class _Backoffs:
    """Seconds between attempts, without an end: an API server that is down long is no reason to give up."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((0.1, 0.2, 0.5, 1.0, 2.0), itertools.repeat(3.0))


class _NoDiffs(kopf.DiffBaseStorage):
    """Kopf copies every object of every event several times, to tell handlers that we do not have what changed."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        raise AssertionError("only handlers that we do not have would store anything")


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.watching.server_timeout = SERVER_TIMEOUT
    settings.watching.client_timeout = CLIENT_TIMEOUT
    settings.watching.connect_timeout = 5
    settings.networking.request_timeout = 15
    settings.networking.error_backoffs = _Backoffs()
    settings.queueing.worker_limit = 64
    settings.queueing.idle_timeout = 1.0
    settings.posting.enabled = False
    settings.posting.loggers = False
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.persistence.diffbase_storage = _NoDiffs()
    settings.process.ultimate_exiting_timeout = None
    for resource in WATCHED:
        if resource is not CLUSTERS:
            settings.watching.label_selectors[_selector(resource)] = CLUSTER_LABEL
    return settings


def _selector(resource: Resource) -> tuple[str, str, str]:
    group, _, version = resource.api_version.rpartition("/")
    return group, version, resource.plural
