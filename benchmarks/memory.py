"""What the process really holds under a cache limit: anonymous resident memory while clients read and write.

    .venv/bin/python benchmarks/memory.py [--vectors FILE.npy] [--limits 64,256,1024] [--seconds 6]

For each limit (in MiB) an engine of its own is started, its idle memory noted, the vectors loaded, and then ten
clients search and overwrite points. The goal: anonymous RSS never above idle + limit + request budget + 5 %, and
the ledger never above the limit. The data is `examples/data` unless a float16 or float32 array of shape
[n, d] is given; only an array larger than the limit puts it under real pressure, which the last column tells.
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

import httpx
import numpy as np
import numpy.typing as npt
import uvloop
from _machine import describe

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.engine.fixtures import EngineProcess, running_engine  # noqa: E402

CLIENTS = 10
BATCH = 250
MIB = 1024**2
TOLERANCE = 1.05
SAMPLE_SECONDS = 0.02

Array = npt.NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--vectors", type=Path, default=ROOT / "examples/data/packages.f16.npy")
    parser.add_argument("--limits", default="64,256,1024", help="cache limits in MiB")
    parser.add_argument("--seconds", type=float, default=6.0, help="of load for each limit, after loading")
    options = parser.parse_args()
    data = np.ascontiguousarray(np.load(options.vectors), dtype=np.float32)
    print(f"machine: {describe()}")
    print(
        f"data:    {options.vectors.name}: {len(data)} vectors of dimension {data.shape[1]}, "
        f"{data.nbytes / MIB:.0f} MiB"
    )
    print(f"load:    {CLIENTS} clients, one in five requests writes, {options.seconds:g} s after loading\n")
    print(
        f"{'limit MiB':>10}{'idle':>8}{'RSS peak':>10}{'allowed':>9}{'ledger peak':>13}"
        f"{'requests/s':>12}{'p99 ms':>8}{'errors':>8}  goal   forced evictions"
    )
    for limit in (int(limit) for limit in options.limits.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            uvloop.run(measure(Path(folder), data, limit, options.seconds))


async def measure(folder: Path, data: Array, limit: int, seconds: float) -> None:
    with running_engine(folder, {"cluster": {"max_cache_memory_bytes": limit * MIB}}) as engine:
        idle = anonymous(engine)
        peaks = [idle]
        sampling = asyncio.create_task(sample(engine, peaks))
        async with httpx.AsyncClient(base_url=engine.url, timeout=120) as http:
            await load(http, data)
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
    met = peak <= allowed and ledger <= limit * MIB and errors == 0
    print(
        f"{limit:10d}{idle / MIB:8.0f}{peak / MIB:10.0f}{allowed / MIB:9.0f}{ledger / MIB:13.1f}"
        f"{len(times) / elapsed:12.0f}{np.percentile(times, 99) * 1000:8.1f}{errors:8d}"
        f"  {'met' if met else 'MISSED':7}{forced:.0f}",
        flush=True,
    )


def anonymous(engine: EngineProcess) -> int:
    text = Path(f"/proc/{engine.pid}/status").read_text()
    return int(text.partition("RssAnon:")[2].split()[0]) * 1024


async def sample(engine: EngineProcess, peaks: list[int]) -> None:
    while True:
        peaks[0] = max(peaks[0], anonymous(engine))
        await asyncio.sleep(SAMPLE_SECONDS)


async def load(http: httpx.AsyncClient, data: Array) -> None:
    vectors = {"size": data.shape[1], "distance": "Cosine"}
    (await http.put("/collections/bench", json={"vectors": vectors})).raise_for_status()
    for start in range(0, len(data), BATCH):
        (await upsert(http, start, data[start : start + BATCH])).raise_for_status()


async def upsert(http: httpx.AsyncClient, start: int, rows: Array) -> httpx.Response:
    batch = {"ids": list(range(start, start + len(rows))), "vectors": rows.tolist()}
    return await http.put("/collections/bench/points?wait=true", json={"batch": batch})


async def client(http: httpx.AsyncClient, data: Array, seed: int, deadline: float) -> tuple[list[float], int]:
    """Seconds of each request, and how many failed."""
    random = np.random.default_rng(seed)
    times: list[float] = []
    errors = 0
    while (sent := time.perf_counter()) < deadline:
        chosen = int(random.integers(len(data) - 20))
        if random.random() < 0.2:
            answer = await upsert(http, chosen, data[chosen : chosen + 20])
        else:
            query: dict[str, Any] = {"query": data[chosen].tolist(), "limit": 10}
            answer = await http.post("/collections/bench/points/query", content=json.dumps(query).encode())
        times.append(time.perf_counter() - sent)
        errors += answer.status_code != 200
    return times, errors


async def forced_evictions(http: httpx.AsyncClient) -> float:
    metrics = (await http.get("/metrics")).text
    name = 'vectorizer_cluster_cache_watermarks_reached_total{watermark="forced"}'
    return float(metrics.partition(name)[2].split()[0])


if __name__ == "__main__":
    main()
