"""How fast the operator acts, what it weighs, and what it writes while there is nothing to do.

    python benchmarks/operator_loop.py [--edits 50] [--clusters 100] [--idle 30]

A real API server and a real operator process under the chart's rights, on this machine; nothing runs the pods, so that
what is measured is the operator and the API server. Prints one JSON object:

- edit_to_child: from sending an edit of `maxCacheMemory` to the watch event of the ConfigMap, and of the StatefulSet,
  which is applied after it; each edit waits until the operator has nothing left to do. Goal: p99 of 100 ms.
- many_clusters: seconds from the first apply until every child of every cluster exists, and the operator's memory.
- idle: writes of the operator by resource while nothing happens. Goal: its Lease only.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _machine import describe
from tests.e2e.harness import Installation, Operator, eventually
from tests.e2e.quickstart import QUICKSTART
from tests.kube.controlplane import ControlPlane
from tests.operator.connections import connect

from vectorizer_operator.kube.client import KubeClient
from vectorizer_operator.kube.connection import Connection
from vectorizer_operator.kube.resources import CLUSTERS, CONFIG_MAPS, STATEFUL_SETS, Resource

GOAL_MS = 100.0
NAMESPACE = "benchmark"
ROUNDS = "vectorizer_operator_reconcile_duration_seconds_count"
ROUND_SECONDS = "vectorizer_operator_reconcile_duration_seconds_sum"
CPU = "process_cpu_seconds_total"
APPLIES_AT_ONCE = 8
QUIET_SECONDS = 0.7


class Follower:
    """When the watch of a resource last showed each object, by its name."""

    def __init__(self, connection: Connection, resource: Resource) -> None:
        self._connection = connection
        self._resource = resource
        self.seen: dict[str, float] = {}
        self.changed = asyncio.Event()

    async def follow(self, opened: asyncio.Event) -> None:
        url = self._connection.server + self._resource.path(namespace=NAMESPACE)
        async with (
            self._connection.session() as session,
            session.get(url, params={"watch": "true"}) as answer,
        ):
            opened.set()
            async for line in answer.content:
                event = json.loads(line)
                generation = event["object"]["metadata"].get("generation", 0)
                self.note(event["object"]["metadata"]["name"], generation)

    def note(self, name: str, generation: int) -> None:
        """A status alone (the same generation of a StatefulSet again) is no update."""
        if self._resource is STATEFUL_SETS:
            name = f"{name}@{generation}"
        if name not in self.seen or self._resource is not STATEFUL_SETS:
            self.seen[name] = time.perf_counter()
            self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(300):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


def cluster(name: str, cache: str = "256Mi") -> dict[str, Any]:
    spec = {**QUICKSTART["spec"], "cluster": {"maxCacheMemory": cache}}
    return {**QUICKSTART, "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}


def quantiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    at = {"p50_ms": 0.5, "p99_ms": 0.99}
    return {name: round(ordered[int(len(ordered) * part)] * 1e3, 1) for name, part in at.items()}


async def edits(client: KubeClient, connection: Connection, operator: Operator, count: int) -> dict[str, Any]:
    config_maps, stateful_sets = (Follower(connection, each) for each in (CONFIG_MAPS, STATEFUL_SETS))
    tasks = []
    for follower in (config_maps, stateful_sets):
        opened = asyncio.Event()
        tasks.append(asyncio.create_task(follower.follow(opened)))
        await opened.wait()
    await client.create(CLUSTERS, cluster("edited"))
    await stateful_sets.until(lambda: "edited@1" in stateful_sets.seen)
    to_config_map, to_stateful_set = [], []
    for number in range(count):
        await asyncio.to_thread(settle, operator)
        generation = number + 2
        patch = {"spec": {"cluster": {"maxCacheMemory": f"{100 + number}Mi"}}}
        config_maps.seen.clear()
        sent = time.perf_counter()
        await client.merge(CLUSTERS, "edited", patch, namespace=NAMESPACE)
        await config_maps.until(lambda: "edited-config" in config_maps.seen)
        await stateful_sets.until(lambda generation=generation: f"edited@{generation}" in stateful_sets.seen)
        to_config_map.append(config_maps.seen["edited-config"] - sent)
        to_stateful_set.append(stateful_sets.seen[f"edited@{generation}"] - sent)
    for task in tasks:
        task.cancel()
    return {
        "edits": count,
        "config_map": quantiles(to_config_map),
        "stateful_set": quantiles(to_stateful_set),
        "goal_met": quantiles(to_stateful_set)["p99_ms"] <= GOAL_MS,
    }


def settle(operator: Operator) -> None:
    """Wait until there has been no round for a while."""
    last, since = -1.0, time.monotonic()
    while time.monotonic() < since + QUIET_SECONDS:
        rounds = operator.metric(ROUNDS)
        if rounds != last or operator.metric("vectorizer_operator_queue_depth"):
            last, since = rounds, time.monotonic()
        time.sleep(0.05)


async def many(client: KubeClient, connection: Connection, count: int) -> float:
    """Seconds from the first apply until the last child, the StatefulSet, of every cluster is there."""
    stateful_sets = Follower(connection, STATEFUL_SETS)
    opened = asyncio.Event()
    task = asyncio.create_task(stateful_sets.follow(opened))
    await opened.wait()
    names = [f"many-{number}" for number in range(count)]
    slots = asyncio.Semaphore(APPLIES_AT_ONCE)

    async def apply(name: str) -> None:
        async with slots:
            await client.create(CLUSTERS, cluster(name))

    began = time.perf_counter()
    await asyncio.gather(*map(apply, names))
    await stateful_sets.until(lambda: all(f"{name}@1" in stateful_sets.seen for name in names))
    took = time.perf_counter() - began
    task.cancel()
    return took


async def measure(
    installation: Installation, operator: Operator, options: argparse.Namespace
) -> dict[str, Any]:
    connection = await connect(installation.control_plane)
    empty = operator.metric("process_resident_memory_bytes")
    async with KubeClient(connection) as client:
        edit_to_child = await edits(client, connection, operator, options.edits)
        await asyncio.to_thread(settle, operator)
        rounds, cpu = operator.metric(ROUNDS), operator.metric(CPU)
        seconds = await many(client, connection, options.clusters)
    cpu_until_applied = operator.metric(CPU) - cpu
    await asyncio.to_thread(settle, operator)
    rounds = operator.metric(ROUNDS) - rounds
    full = operator.metric("process_resident_memory_bytes")
    before = len(installation.control_plane.writes(installation.user))
    await asyncio.sleep(options.idle)
    writes = installation.control_plane.writes(installation.user)[before:]
    by_resource = Counter(event["objectRef"]["resource"] for event in writes)
    return {
        "edit_to_child": edit_to_child,
        "many_clusters": {
            "clusters": options.clusters,
            "seconds": round(seconds, 2),
            "operator_cpu_seconds": round(cpu_until_applied, 2),
            "rounds_each": round(rounds / options.clusters, 2),
            "rss_mib_without_clusters": round(empty / 2**20, 1),
            "rss_mib": round(full / 2**20, 1),
        },
        "mean_round_ms": round(1e3 * operator.metric(ROUND_SECONDS) / operator.metric(ROUNDS), 1),
        "idle": {
            "seconds": options.idle,
            "writes": dict(by_resource),
            "goal_met": set(by_resource) <= {"leases"},
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--edits", type=int, default=50, help="(default: %(default)s)")
    parser.add_argument("--clusters", type=int, default=100, help="(default: %(default)s)")
    parser.add_argument("--idle", type=float, default=30.0, help="seconds (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ControlPlane(Path(folder)) as control_plane:
        control_plane.kubectl("create", "namespace", NAMESPACE)
        installation = Installation(control_plane, NAMESPACE, Path(folder))
        operator = Operator(installation).start()
        eventually(lambda: operator.leads)
        measured = asyncio.run(measure(installation, operator, options))
        print(json.dumps({"machine": describe(), **measured}, indent=2))
        operator.stop()


if __name__ == "__main__":
    main()
