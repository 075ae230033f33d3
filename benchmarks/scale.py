"""What several pods cost and what they are worth: searches routed to shards, pods that join and leave, one that dies.

    .venv/bin/python benchmarks/scale.py [VECTORS.npy] [--rows 6000] [--searches 600] [--seconds 6]

Real engines over one shared folder, on loopback. Printed are: the price of routing, which is the median of single
searches over 8 shards on 3 pods against 1 pod, in turns (goal: 1 ms more at most), and how long a page of 1,000 points
with their vectors takes; what clients see while 3 pods become
5 and 3 again (goals: nothing fails, p99 at most twice that of the quiet run); and how long it takes from a kill -9
until everything is served again, where the others are told at once: of shards that the pod alone had at hand (goal:
10 s), and of shards that others read along (goal: 2 s); what becomes of the index of a shard whose pod dies: it is
there at once, and was built once; and what the first search of a parked shard costs, which is fetched for it from the
store, against those that follow.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np
from _machine import describe

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.engine.distributed.load import Load, Outcome
from tests.engine.distributed.pods import Pods
from tests.engine.distributed.test_seeing import metrics
from tests.engine.fixtures import EngineProcess
from tests.kube.eventually import eventually

ROOT = Path(__file__).parents[1]
SHARDS = 8
BATCH = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("vectors", nargs="?", type=Path, default=ROOT / "examples/data/packages.f16.npy")
    parser.add_argument("--rows", type=int, default=6000, help="so many of the vectors")
    parser.add_argument("--searches", type=int, default=600, help="on each side, for the price of routing")
    parser.add_argument("--seconds", type=float, default=6.0, help="each time that clients are watched")
    options = parser.parse_args()
    vectors = np.load(options.vectors)[: options.rows].astype(np.float32)
    print(f"machine: {describe()}")
    print(f"data:    {len(vectors)} vectors of dimension {vectors.shape[1]}, {SHARDS} shards\n")
    with tempfile.TemporaryDirectory() as scratch:
        alone, three = Pods(Path(scratch) / "alone", 1), Pods(Path(scratch) / "three", 5)
        two = Pods(Path(scratch) / "two", 2)
        try:
            for pods, members in ((alone, (0,)), (three, (0, 1, 2))):
                start(pods, members, vectors)
            price_of_routing(alone[0], three.engines[:3], vectors, options.searches)
            long_scroll(alone[0], three[0])
            alone.close()
            scale(three, vectors.shape[1], options.seconds)
            take_over(three, vectors, copies=1)
            three.launch(2)
            three.publish(0, 1, 2)
            three.wait_until_moved(0, 1, 2)
            fill(three, vectors, copies=2)
            take_over(three, vectors, copies=2)
            three.close()
            take_over_index(two, vectors)
            two.close()
            parked(Path(scratch) / "parked", vectors)
        finally:
            for pods in (alone, three, two):
                pods.close()


def start(pods: Pods, members: Sequence[int], vectors: np.ndarray, *, shards: int = SHARDS) -> None:
    pods.launch(*members)
    pods.publish(*members)
    pods.wait_until_ready(*members)
    fill(pods, vectors, copies=1, shards=shards)


def fill(pods: Pods, vectors: np.ndarray, *, copies: int, shards: int = SHARDS) -> None:
    """Have the collection anew, and each of its shards on so many members."""
    with pods[0].http() as http:
        http.delete("/collections/docs").raise_for_status()
        params = {
            "vectors": {"size": vectors.shape[1], "distance": "Cosine"},
            "shard_number": shards,
            "replication_factor": copies,
        }
        http.put("/collections/docs", json=params).raise_for_status()
        for first in range(0, len(vectors), BATCH):
            points = [
                {"id": first + row, "vector": vector.tolist()}
                for row, vector in enumerate(vectors[first : first + BATCH])
            ]
            http.put("/collections/docs/points?wait=true", json={"points": points}).raise_for_status()


def price_of_routing(
    alone: EngineProcess, three: Sequence[EngineProcess], vectors: np.ndarray, searches: int
) -> None:
    """One client, one search at a time, in turns: what the machine does besides hits both."""
    chosen = random.Random(1)
    seconds: dict[str, list[float]] = {"1 pod": [], "3 pods": []}
    clients = [httpx.Client(base_url=engine.url) for engine in (alone, *three)]
    for number in range(searches + 50):
        query = {"query": vectors[chosen.randrange(len(vectors))].tolist(), "limit": 10}
        for side, client in (("1 pod", clients[0]), ("3 pods", chosen.choice(clients[1:]))):
            began = time.perf_counter()
            client.post("/collections/docs/points/query", json=query).raise_for_status()
            if number >= 50:
                seconds[side].append(time.perf_counter() - began)
    for client in clients:
        client.close()
    print(f"{'searches':12}{'p50 ms':>9}{'p99 ms':>9}")
    for side, taken in seconds.items():
        print(f"{side:12}{1000 * np.percentile(taken, 50):9.2f}{1000 * np.percentile(taken, 99):9.2f}")
    price = 1000 * (np.percentile(seconds["3 pods"], 50) - np.percentile(seconds["1 pod"], 50))
    print(f"price of routing: {price:.2f} ms at p50 (goal: at most 1)\n")


def long_scroll(alone: EngineProcess, one_of_three: EngineProcess) -> None:
    """More than comes along with an answer: the vectors are fetched on while it is sent."""
    body = {"limit": 1000, "with_vector": True, "with_payload": False}
    taken = {}
    for side, engine in (("1 pod", alone), ("3 pods", one_of_three)):
        with engine.http() as http:
            seconds = []
            for _ in range(5):
                began = time.perf_counter()
                answer = http.post("/collections/docs/points/scroll", json=body).raise_for_status()
                seconds.append(time.perf_counter() - began)
                assert len(answer.json()["result"]["points"]) == 1000
        taken[side] = float(np.median(seconds))
    print(
        "1,000 points with vectors: "
        + ", ".join(f"{side} {1000 * each:.0f} ms" for side, each in taken.items())
        + "\n"
    )


def scale(pods: Pods, dimension: int, seconds: float) -> None:
    with Load(pods.engines[:3], "docs", dimension=dimension) as load:
        print(
            f"{'pods':18}{'requests':>9}{'failed':>8}{'read p50':>10}{'p99':>8}{'write p50':>11}{'p99 ms':>8}"
        )
        time.sleep(1)
        load.settle()
        watch(load, "3, quiet", seconds)
        pods.launch(3, 4)
        load.settle()  # starting two processes takes processors, and is not what is asked for
        pods.publish(0, 1, 2, 3, 4)
        pods.wait_until_moved(0, 1, 2, 3, 4)
        pods.wait_until_ready()
        load.pods = pods.engines
        watch(load, "3 → 5", seconds)
        pods.publish(0, 1, 2, to=range(5))
        load.pods = pods.engines[:3]
        for number in (3, 4):
            pods[number].signal(signal.SIGTERM)
        watch(load, "5 → 3", seconds)
        for number in (3, 4):
            pods[number].wait(30)
        watch(load, "3, quiet", seconds)
    print()


def watch(load: Load, what: str, seconds: float) -> None:
    time.sleep(seconds)
    seen = load.settle()
    for failure in seen.failures[:3]:
        print(f"  failed: {failure}")
    reads, writes = [
        [1000 * Outcome.percentile(taken, each) for each in (50, 99)] for taken in (seen.reads, seen.writes)
    ]
    print(
        f"{what:18}{len(seen.reads) + len(seen.writes):9}{len(seen.failures):8}{reads[0]:10.1f}{reads[1]:8.1f}"
        f"{writes[0]:11.1f}{writes[1]:8.1f}"
    )


def take_over(pods: Pods, vectors: np.ndarray, *, copies: int) -> None:
    """The pod is gone; another topology is published at once, so what is measured is the engines' own part."""
    points = [{"id": number, "vector": vectors[number].tolist()} for number in range(100)]
    with pods[0].http() as http:
        eventually(lambda: all(in_order(engine) for engine in pods.engines[:3]), seconds=300)
        before = http.post("/collections/docs/points/count", json={}).json()["result"]["count"]
        pods[2].kill()
        began = time.perf_counter()
        pods.publish(0, 1)
        counted = http.post("/collections/docs/points/count", json={})
        read = time.perf_counter() - began
        written = http.put("/collections/docs/points?wait=true", json={"points": points})
        wrote = time.perf_counter() - began
    complete = counted.status_code == written.status_code == 200
    complete = complete and counted.json()["result"]["count"] == before
    print(
        f"after kill -9, {copies} at hand: read in full after {read:.2f} s, written after {wrote:.2f} s, "
        f"complete: {complete}"
    )


def parked(folder: Path, vectors: np.ndarray, *, rounds: int = 10) -> None:
    """Two collections of one shard each, on a volume that holds one of them: each search of the other one opens it."""
    size = vectors.nbytes
    store = {"url": f"file://{folder}/store", "max_copies_bytes": int(2.2 * size)}
    pods = Pods(folder, 1, stores=[store])
    try:
        pods.launch()
        pods.publish(0)
        pods.wait_until_ready()
        with pods[0].http() as http:
            for name in ("docs", "other"):
                params = {"vectors": {"size": vectors.shape[1], "distance": "Cosine"}, "shard_number": 1}
                http.put(f"/collections/{name}", json=params).raise_for_status()
                for first in range(0, len(vectors), BATCH):
                    points = [
                        {"id": first + row, "vector": vector.tolist()}
                        for row, vector in enumerate(vectors[first : first + BATCH])
                    ]
                    http.put(
                        f"/collections/{name}/points?wait=true", json={"points": points}
                    ).raise_for_status()
                eventually(lambda name=name: green(pods[0], name), seconds=300)  # type: ignore[misc]
            cold: list[float] = []
            warm: list[float] = []
            for number in range(2 * rounds):
                name = ("docs", "other")[number % 2]
                eventually(lambda: metrics(pods[0])["vectorizer_shards_parked"] == 1, seconds=60)
                before = metrics(pods[0])["vectorizer_shards_opened_again_total"]
                for taken, row in ((cold, number), *((warm, 100 + each) for each in range(10))):
                    query = {"query": vectors[row].tolist(), "limit": 10}
                    began = time.perf_counter()
                    http.post(f"/collections/{name}/points/query", json=query).raise_for_status()
                    taken.append(time.perf_counter() - began)
                assert metrics(pods[0])["vectorizer_shards_opened_again_total"] == before + 1
        print(
            f"a parked shard of {size / 1e6:.1f} MB: first search {1000 * np.percentile(cold, 50):.1f} ms at p50, "
            f"{1000 * max(cold):.1f} at most; those that follow {1000 * np.percentile(warm, 50):.2f} ms"
        )
    finally:
        pods.close()


def green(engine: EngineProcess, name: str) -> bool:
    return engine.client().get_collection(name).status == "green"


def in_order(engine: EngineProcess) -> bool:
    """Whether nothing is sealed, merged or indexed, and what is read along is up to date."""
    seen = metrics(engine)
    return (
        engine.client().get_collection("docs").status == "green"
        and seen["vectorizer_shards_read"] == seen["vectorizer_shards_to_read"]
        and seen["vectorizer_reader_lag_frames"] == 0
    )


def take_over_index(pods: Pods, vectors: np.ndarray) -> None:
    """One shard with all vectors, on a pod that is killed; the other has nothing of it on its volume."""
    start(pods, (0,), vectors, shards=1)
    written = time.perf_counter()
    eventually(lambda: layouts(pods[0]) == {"hnsw-sq8"}, seconds=300)
    built = time.perf_counter() - written
    objects = pods.folder / "store/collections"
    eventually(lambda: list(objects.glob("*/*/segments/*/index.*")), seconds=300)
    put = time.perf_counter() - written
    pods.launch(1)
    pods[0].kill()
    began = time.perf_counter()
    pods.publish(1)
    with pods[1].http() as http:
        query = {"query": vectors[0].tolist(), "limit": 10}
        http.post("/collections/docs/points/query", json=query).raise_for_status()
    found = time.perf_counter() - began
    print(
        f"an index of {len(vectors)} vectors: there {built:.1f} s after the last write, in the store after "
        f"{put:.1f} s; after kill -9 the first search is answered after {found:.2f} s, by {', '.join(layouts(pods[1]))}"
    )


def layouts(engine: EngineProcess) -> set[str]:
    with engine.http() as http:
        result = http.get("/collections/docs").raise_for_status().json()["result"]
    return {each["layout"] for each in result["layouts"]}


if __name__ == "__main__":
    main()
