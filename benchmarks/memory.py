"""What the process really holds under a cache limit: anonymous resident memory while clients read and write.

    .venv/bin/python benchmarks/memory.py [--vectors FILE.npy | --seeded N] [--limits 64,256,1024] [--seconds 6]

For each limit (in MiB) an engine of its own is started, its idle memory noted, the vectors loaded, and then ten
clients search and overwrite points. The goals, which are judged at the end:

    idle is at most 80 MiB
    anonymous RSS is never above idle + limit + request budget + 5 %
    the ledger is never above the limit
    no request fails

The data is `examples/data`, unless a float16 or float32 array of shape [n, d] is given, or N vectors of 384 dimensions
are to be made from seeds. Only data larger than the limit puts it under real pressure, which the column `forced` tells:
reservations that had to evict. A million seeded vectors take about 1.5 GB of disk, and as much more while segments are
merged.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import numpy.typing as npt
import uvloop
from _goals import Goals
from _machine import describe

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.engine.fixtures import EngineProcess, running_engine  # noqa: E402

CLIENTS = 10
BATCH = 250
SEEDED_DIMENSION = 384
MIB = 1024**2
IDLE_MIB = 80
TOLERANCE = 1.05
SAMPLE_SECONDS = 0.02

Array = npt.NDArray[np.float32]


class StoredVectors:
    """Those of a file, which stays mapped."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._rows = np.load(path, mmap_mode="r")
        self.count, self.dimension = self._rows.shape

    def batch(self, start: int) -> Array:
        """Up to `BATCH` rows, the first of which is *start*, a multiple of it."""
        return np.ascontiguousarray(self._rows[start : start + BATCH], dtype=np.float32)


class SeededVectors:
    """Any number of them, made when they are asked for, and the same each time."""

    def __init__(self, count: int) -> None:
        self.name = "seeded"
        self.count, self.dimension = count, SEEDED_DIMENSION

    def batch(self, start: int) -> Array:
        size = (min(BATCH, self.count - start), self.dimension)
        return np.random.default_rng(start).standard_normal(size, np.float32)


Vectors = StoredVectors | SeededVectors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    data_options = parser.add_mutually_exclusive_group()
    data_options.add_argument("--vectors", type=Path, default=ROOT / "examples/data/packages.f16.npy")
    data_options.add_argument("--seeded", type=int, metavar="N")
    parser.add_argument("--limits", default="64,256,1024", help="cache limits in MiB")
    parser.add_argument("--seconds", type=float, default=6.0, help="of load for each limit, after loading")
    options = parser.parse_args()
    data: Vectors = SeededVectors(options.seeded) if options.seeded else StoredVectors(options.vectors)
    print(f"machine: {describe()}")
    print(
        f"data:    {data.name}: {data.count} vectors of dimension {data.dimension}, "
        f"{4 * data.count * data.dimension / MIB:.0f} MiB"
    )
    print(f"load:    {CLIENTS} clients, one in five requests writes, {options.seconds:g} s after loading\n")
    print(
        f"{'limit MiB':>10}{'idle':>8}{'RSS peak':>10}{'allowed':>9}{'ledger peak':>13}"
        f"{'requests/s':>12}{'p99 ms':>8}{'errors':>8}{'forced':>8}{'loaded s':>10}"
    )
    goals = Goals()
    for limit in (int(limit) for limit in options.limits.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            uvloop.run(measure(Path(folder), data, limit, options.seconds, goals))
    goals.show()


async def measure(folder: Path, data: Vectors, limit: int, seconds: float, goals: Goals) -> None:
    with running_engine(folder, {"cluster": {"max_cache_memory_bytes": limit * MIB}}) as engine:
        idle = engine.anonymous_bytes
        peaks = [idle]
        sampling = asyncio.create_task(sample(engine, peaks))
        async with httpx.AsyncClient(base_url=engine.url, timeout=120) as http:
            began = time.perf_counter()
            await load(http, data)
            loaded = time.perf_counter() - began
            began = time.perf_counter()
            results = await asyncio.gather(
                *(client(http, data, seed, began + seconds) for seed in range(CLIENTS))
            )
            elapsed = time.perf_counter() - began
            memory = (await http.get("/cluster/memory")).json()["result"]
            forced = await forced_evictions(http)
        sampling.cancel()
    times = [each for took, _ in results for each in took]
    errors = sum(failed for _, failed in results)
    budget = memory["request_bodies"]["limit_bytes"]
    allowed = (idle + limit * MIB + budget) * TOLERANCE
    peak, ledger = max(peaks), memory["ledger"]["peak_bytes"]
    print(
        f"{limit:10d}{idle / MIB:8.0f}{peak / MIB:10.0f}{allowed / MIB:9.0f}{ledger / MIB:13.1f}"
        f"{len(times) / elapsed:12.0f}{np.percentile(times, 99) * 1000:8.1f}{errors:8d}"
        f"{forced:8.0f}{loaded:10.1f}",
        flush=True,
    )
    goals.at_most(f"limit {limit} MiB: idle", IDLE_MIB, idle / MIB, "MiB")
    goals.at_most(f"limit {limit} MiB: anonymous RSS", allowed / MIB, peak / MIB, "MiB")
    goals.at_most(f"limit {limit} MiB: ledger", limit, ledger / MIB, "MiB")
    goals.at_most(f"limit {limit} MiB: failed requests", 0, errors)


async def sample(engine: EngineProcess, peaks: list[int]) -> None:
    while True:
        peaks[0] = max(peaks[0], engine.anonymous_bytes)
        await asyncio.sleep(SAMPLE_SECONDS)


async def load(http: httpx.AsyncClient, data: Vectors) -> None:
    vectors = {"size": data.dimension, "distance": "Cosine"}
    (await http.put("/collections/bench", json={"vectors": vectors})).raise_for_status()
    for start in range(0, data.count, BATCH):
        (await upsert(http, start, data.batch(start))).raise_for_status()


async def upsert(http: httpx.AsyncClient, start: int, rows: Array) -> httpx.Response:
    batch = {"ids": list(range(start, start + len(rows))), "vectors": rows.tolist()}
    body = msgspec.json.encode({"batch": batch})
    return await http.put("/collections/bench/points?wait=true", content=body)


async def client(
    http: httpx.AsyncClient, data: Vectors, seed: int, deadline: float
) -> tuple[list[float], int]:
    """Seconds of each request, and how many failed."""
    random = np.random.default_rng(seed)
    times: list[float] = []
    errors = 0
    while (sent := time.perf_counter()) < deadline:
        start = int(random.integers(data.count // BATCH)) * BATCH
        if random.random() < 0.2:
            answer = await upsert(http, start, data.batch(start)[:20])
        else:
            query: dict[str, Any] = {"query": data.batch(start)[-1].tolist(), "limit": 10}
            answer = await http.post("/collections/bench/points/query", content=msgspec.json.encode(query))
        times.append(time.perf_counter() - sent)
        errors += answer.status_code != 200
    return times, errors


async def forced_evictions(http: httpx.AsyncClient) -> float:
    metrics = (await http.get("/metrics")).text
    name = 'vectorizer_cluster_cache_watermarks_reached_total{watermark="forced"}'
    return float(metrics.partition(name)[2].split()[0])


if __name__ == "__main__":
    main()
