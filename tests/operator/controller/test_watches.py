"""Whether a watch is alive, and which clusters its events name, on the real API server."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from tests.kube.controlplane import ControlPlane
from tests.operator.connections import connect
from vectorizer_operator.api import CLUSTER_LABEL
from vectorizer_operator.controller.watches import DEAD_AFTER, WATCHED, ClusterKey, Watches
from vectorizer_operator.kube.client import KubeClient
from vectorizer_operator.kube.resources import CONFIG_MAPS


class Events:
    """The clusters that events named, in their order."""

    def __init__(self) -> None:
        self.keys: list[ClusterKey] = []
        self._changed = asyncio.Event()

    def add(self, key: ClusterKey) -> None:
        self.keys.append(key)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def watching(control_plane: ControlPlane, namespace: str) -> AsyncIterator[tuple[Watches, Events]]:
    events = Events()
    watches = Watches(await connect(control_plane), namespaces=[namespace], changed=events.add)
    stop = asyncio.Event()
    ended = asyncio.create_task((await watches.start(stop=stop))())
    try:
        async with asyncio.timeout(20):
            while not watches.synced:
                await asyncio.sleep(0.02)
        yield watches, events
    finally:
        stop.set()
        await ended


@pytest.fixture
def definition(control_plane: ControlPlane) -> None:
    control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "crds")
    control_plane.kubectl("wait", "--for=condition=Established", "crd/vectorizerclusters.vectorizer.io")


@pytest.mark.usefixtures("definition")
async def test_an_event_of_a_child_names_its_cluster_and_one_of_others_nothing(
    control_plane: ControlPlane, namespace: str
) -> None:
    key = ClusterKey(namespace, "shop")
    async with (
        watching(control_plane, namespace) as (_, events),
        KubeClient(await connect(control_plane)) as client,
    ):
        metadata = {"name": "a", "namespace": namespace, "labels": {CLUSTER_LABEL: "shop"}}
        child = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
        await client.create(CONFIG_MAPS, {**child, "metadata": {"name": "other", "namespace": namespace}})
        await client.create(CONFIG_MAPS, child)
        await events.until(lambda: len(events.keys) >= 1)
        unlabelled = {"metadata": {"labels": {CLUSTER_LABEL: None}}}
        await client.merge(CONFIG_MAPS, "a", unlabelled, namespace=namespace)
        await events.until(lambda: len(events.keys) >= 2)
    assert set(events.keys) == {key}
    assert str(key) == f"{namespace}/shop"


@pytest.mark.usefixtures("definition")
async def test_each_watch_is_young_when_opened_and_dead_when_it_was_not_opened_for_too_long(
    control_plane: ControlPlane, namespace: str
) -> None:
    async with watching(control_plane, namespace) as (watches, _):
        ages = watches.ages()
        assert len(ages) == len(WATCHED)
        assert all(0 <= age < 20 for age in ages.values())
        assert list(watches.dead()) == []
        late = asyncio.get_running_loop().time() + DEAD_AFTER + 20
        watches._clock = lambda: late
        assert len(list(watches.dead())) == len(WATCHED)
        assert f"the watch of /api/v1/namespaces/{namespace}/pods is dead" in "".join(watches.dead())


async def test_a_watch_that_never_opened_is_dead_too(control_plane: ControlPlane) -> None:
    watches = Watches(await connect(control_plane), namespaces=[], changed=lambda key: None)
    assert not watches.synced
    started = asyncio.get_running_loop().time()
    watches._clock = lambda: started + DEAD_AFTER + 1
    assert len(list(watches.dead())) == len(WATCHED)
