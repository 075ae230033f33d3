"""What HTTP costs: the same searches in process and over HTTP on 1 and 8 connections, with recall beside speed.

    .venv/bin/python benchmarks/search_http.py [--vectors FILE.npy] [--seconds 5]

The query-result cache is off. The data is `examples/data` unless a float16 or float32 array of shape [n, d] is
given. The load generator is a bare asyncio client, so that it measures the engine and not a client library; it
runs on the same machine, so with few cores the two compete.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import uvloop
from _machine import describe

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.engine.fixtures import EngineProcess, running_engine  # noqa: E402

from vectorizer_engine.cache.memory_manager import CacheMemoryManager  # noqa: E402
from vectorizer_engine.collection.store import VectorStore  # noqa: E402
from vectorizer_engine.collection.types import CollectionParams, Distance  # noqa: E402

LIMIT = 10
QUERIES = 200
BATCH = 500
CONNECTIONS = (1, 8)

Array = npt.NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--vectors", type=Path, default=ROOT / "examples/data/packages.f16.npy")
    parser.add_argument("--seconds", type=float, default=5.0, help="of load for each row")
    options = parser.parse_args()
    data = np.ascontiguousarray(np.load(options.vectors), dtype=np.float32)
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(data), QUERIES, replace=False)
    queries = data[chosen] + rng.normal(scale=0.02, size=(QUERIES, data.shape[1])).astype(np.float32)
    truth = exact(data, queries)

    print(f"machine: {describe()}")
    print(
        f"data:    {options.vectors.name}: {len(data)} vectors of dimension {data.shape[1]}, cosine, top {LIMIT}"
    )
    print(f"load:    {options.seconds:g} s for each row, {QUERIES} different queries\n")
    print(f"{'':24}{'p50 ms':>9}{'p99 ms':>9}{'searches/s':>12}{'recall@10':>11}")
    with tempfile.TemporaryDirectory() as folder:
        in_process(Path(folder) / "store", data, queries, truth, options.seconds)
        with running_engine(Path(folder) / "engine", {"cache": {"query_results": False}}) as engine:
            load(engine, data)
            for connections in CONNECTIONS:
                over_http(engine, queries, truth, connections, options.seconds)


def exact(data: Array, queries: Array) -> npt.NDArray[np.int64]:
    """The nearest by numpy, shape [q, LIMIT]."""
    unit = data / np.linalg.norm(data, axis=1, keepdims=True)
    return np.argsort(-(queries @ unit.T), axis=1)[:, :LIMIT]


def report(
    name: str, seconds: list[float], elapsed: float, answers: dict[int, list[int]], truth: Any
) -> None:
    p50, p99 = np.percentile(np.array(seconds) * 1000, [50, 99])
    recall = np.mean([len(set(ids) & set(truth[i].tolist())) / LIMIT for i, ids in answers.items()])
    print(f"{name:24}{p50:9.3f}{p99:9.3f}{len(seconds) / elapsed:12.0f}{recall:11.3f}")


def in_process(folder: Path, data: Array, queries: Array, truth: Any, duration: float) -> None:
    store = VectorStore.open(folder, memory=CacheMemoryManager(1024**3))
    collection = store.create_collection("bench", CollectionParams(data.shape[1], Distance.COSINE))
    for start in range(0, len(data), BATCH):
        part = data[start : start + BATCH]
        collection.upsert(range(start, start + len(part)), part, [None] * len(part))
    seconds, answers = [], {}
    began = time.perf_counter()
    while (now := time.perf_counter()) - began < duration:
        i = len(seconds) % QUERIES
        [hits] = collection.search(queries[i : i + 1], limit=LIMIT)
        seconds.append(time.perf_counter() - now)
        answers[i] = [hit.id for hit in hits]
    report("in process, 1 thread", seconds, time.perf_counter() - began, answers, truth)
    store.close()


def load(engine: EngineProcess, data: Array) -> None:
    with engine.http() as http:
        http.put("/collections/bench", json={"vectors": {"size": data.shape[1], "distance": "Cosine"}})
        for start in range(0, len(data), BATCH):
            part = data[start : start + BATCH]
            batch = {"ids": list(range(start, start + len(part))), "vectors": part.tolist()}
            http.put("/collections/bench/points?wait=true", json={"batch": batch}).raise_for_status()


def over_http(engine: EngineProcess, queries: Array, truth: Any, connections: int, duration: float) -> None:
    bodies = [json.dumps({"query": query.tolist(), "limit": LIMIT}).encode() for query in queries]
    head = b"POST /collections/bench/points/query HTTP/1.1\r\nhost: bench\r\ncontent-length: %d\r\n\r\n"
    requests = [head % len(body) + body for body in bodies]
    seconds: list[float] = []
    answers: dict[int, list[int]] = {}

    async def connection(first: int, deadline: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", engine.port)
        i = first
        while (sent := time.perf_counter()) < deadline:
            i = (i + 1) % QUERIES
            writer.write(requests[i])
            headers = await reader.readuntil(b"\r\n\r\n")
            length = int(headers.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            seconds.append(time.perf_counter() - sent)
            if i not in answers:
                answers[i] = [hit["id"] for hit in json.loads(body)["result"]["points"]]
        writer.close()

    async def run() -> float:
        began = time.perf_counter()
        spread = QUERIES // connections
        await asyncio.gather(*(connection(n * spread, began + duration) for n in range(connections)))
        return time.perf_counter() - began

    elapsed = uvloop.run(run())
    name = f"HTTP, {connections} connection{'s' * (connections > 1)}"
    report(name, seconds, elapsed, answers, truth)


if __name__ == "__main__":
    main()
