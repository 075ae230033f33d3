"""Ten users read, write, delete and filter for hours under a cache limit of 64 MiB, and check what they read.

    .venv/bin/python benchmarks/soak.py [--hours 0.01] [--limit 64] [--think 0] [--report FOLDER]

Each user has points of its own, vectors of `examples/data`, and knows what they hold, so that every answer about them
can be checked. Memory is sampled all the while. The goals, and the exit status is 1 where one is missed:

    no request fails and no answer is wrong
    the ledger is never above the limit
    anonymous RSS is never above idle + limit + request budget + 5 %
    and does not grow: the median of the last third is at most 5 % above that of the third before (from 6 minutes on)

With --think each user rests between requests, which leaves the machine to others. Latencies are reported, not judged.

FOLDER gets memory.svg, a plot of memory over time, and samples.csv.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import numpy.typing as npt
import uvloop
from _machine import describe
from _plot import Line, plot

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.engine.fixtures import running_engine  # noqa: E402

USERS = 10
IDS_OF_A_USER = 4000
BATCH = 20
LONG_ANSWER = 1000
"""Hits, where a search asks for many: so the query-result cache reaches the limit within minutes."""
MIB = 1024**2
TOLERANCE = 1.05
PLATEAU_HOURS = 0.1
"""In less time the caches may still be filling."""

POINTS = "/collections/soak/points"

Array = npt.NDArray[np.float32]


class Sample(NamedTuple):
    """Memory at one moment: seconds since the start, the rest in bytes."""

    seconds: float
    ledger: int
    anonymous: int
    mapped: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--hours", type=float, default=0.01)
    parser.add_argument("--limit", type=int, default=64, help="cache limit in MiB")
    parser.add_argument("--think", type=float, default=0.0, help="seconds that a user rests between requests")
    parser.add_argument("--report", type=Path, help="folder for the plot and the samples")
    options = parser.parse_args()
    vectors = np.load(ROOT / "examples/data/packages.f16.npy").astype(np.float32)
    print(f"machine: {describe()}")
    print(
        f"load:    {USERS} users for {options.hours:g} h, cache limit {options.limit} MiB, {vectors.shape} vectors"
    )
    with tempfile.TemporaryDirectory() as folder:
        missed = uvloop.run(soak(Path(folder), vectors, options))
    for goal in missed:
        print(f"MISSED: {goal}")
    sys.exit(1 if missed else 0)


async def soak(folder: Path, vectors: Array, options: argparse.Namespace) -> list[str]:
    """Run, print what was seen, and return the goals that were missed."""
    hours, limit, report = options.hours, options.limit, options.report
    config = {"cluster": {"enabled": True, "max_cache_memory_bytes": limit * MIB}}
    with running_engine(folder, config) as engine:
        async with httpx.AsyncClient(base_url=engine.url, timeout=120) as http:
            parameters = {"size": vectors.shape[1], "distance": "Cosine"}
            (await http.put("/collections/soak", json={"vectors": parameters})).raise_for_status()
            samples = [await sample(http, 0.0)]
            idle = samples[0].anonymous
            users = [User(http, number, vectors) for number in range(USERS)]
            sampling = asyncio.create_task(keep_sampling(http, samples, every=min(10.0, hours * 36)))
            deadline = time.perf_counter() + hours * 3600
            await asyncio.gather(*(user.work_until(deadline, think=options.think) for user in users))
            sampling.cancel()
            memory = (await http.get("/cluster/memory")).json()["result"]
            info = (await http.get("/collections/soak")).json()["result"]
    allowed = int((idle + limit * MIB + memory["request_bodies"]["limit_bytes"]) * TOLERANCE)
    seconds = np.array([took for user in users for took in user.seconds])
    problems = [problem for user in users for problem in user.problems]
    peak = max(each.anonymous for each in samples)
    growth = plateau_growth(samples)
    print(
        f"requests {len(seconds)} ({len(seconds) / hours / 3600:.0f}/s), p50 {np.median(seconds) * 1000:.1f} ms, "
        f"p99 {np.percentile(seconds, 99) * 1000:.1f} ms, wrong or failed {len(problems)}\n"
        f"points {info['points_count']} in {info['segments_count']} segments\n"
        f"ledger peak {memory['ledger']['peak_bytes'] / MIB:.1f} MiB of {limit}, "
        f"evictions {sum(each['count'] for each in memory['ledger']['evictions'])}\n"
        f"anonymous RSS idle {idle / MIB:.0f}, peak {peak / MIB:.0f}, allowed {allowed / MIB:.0f} MiB; "
        f"last third against the one before {growth:+.1%} ({len(samples)} samples)"
    )
    if report is not None:
        write_report(report, samples, limit * MIB, allowed)
    missed = [f"{len(problems)} requests failed or were answered wrongly: {problems[:3]}"] if problems else []
    if memory["ledger"]["peak_bytes"] > limit * MIB or max(each.ledger for each in samples) > limit * MIB:
        missed.append("the ledger was above the limit")
    if peak > allowed:
        missed.append("anonymous RSS was above what is allowed")
    if hours >= PLATEAU_HOURS and growth > TOLERANCE - 1:
        missed.append("anonymous RSS grows")
    return missed


def plateau_growth(samples: list[Sample]) -> float:
    """By which part anonymous RSS is higher in the last third of the time than in the one before (medians)."""
    third = max(1, len(samples) // 3)
    figures = [each.anonymous for each in samples]
    return float(np.median(figures[-third:]) / np.median(figures[-2 * third : -third] or figures) - 1)


async def sample(http: httpx.AsyncClient, seconds: float) -> Sample:
    memory = (await http.get("/cluster/memory")).json()["result"]
    return Sample(
        seconds,
        ledger=memory["ledger"]["used_bytes"],
        anonymous=memory["anonymous_rss_bytes"],
        mapped=memory["reclaimable_mapped_bytes"],
    )


async def keep_sampling(http: httpx.AsyncClient, samples: list[Sample], *, every: float) -> None:
    began = time.perf_counter()
    while True:
        await asyncio.sleep(every)
        samples.append(await sample(http, time.perf_counter() - began))


def write_report(folder: Path, samples: list[Sample], limit: int, allowed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [",".join(Sample._fields), *(",".join(f"{value:.0f}" for value in each) for each in samples)]
    (folder / "samples.csv").write_text("\n".join(rows) + "\n")
    hours = [each.seconds / 3600 for each in samples]
    lines = [
        Line("allowed", "#c0392b", [allowed / MIB] * len(hours), dashed=True),
        Line("anonymous RSS", "#2c3e50", [each.anonymous / MIB for each in samples]),
        Line("cache limit", "#7f8c8d", [limit / MIB] * len(hours), dashed=True),
        Line("ledger", "#2980b9", [each.ledger / MIB for each in samples]),
    ]
    (folder / "memory.svg").write_text(plot("Memory under load (MiB, over hours)", hours, lines))
    print(f"report:  {folder}/memory.svg, {folder}/samples.csv")


class User:
    """One user, who does one thing after the other and knows what its points hold."""

    def __init__(self, http: httpx.AsyncClient, number: int, vectors: Array) -> None:
        self.seconds: list[float] = []
        self.problems: list[str] = []
        self._http = http
        self._number = number
        self._vectors = vectors
        self._random = np.random.default_rng(number)
        self._written: dict[int, int] = {}
        self._version = 0

    async def work_until(self, deadline: float, *, think: float) -> None:
        chores = [self.write, self.delete, self.read, self.search, self.search_own]
        weights = [0.2, 0.05, 0.15, 0.45, 0.15]
        while time.perf_counter() < deadline:
            await chores[self._random.choice(len(chores), p=weights)]()
            await asyncio.sleep(think)

    async def write(self) -> None:
        self._version += 1
        ids = self._some_ids()
        rows = self._vectors[[point % len(self._vectors) for point in ids]]
        payload = {"user": self._number, "version": self._version}
        batch = {"ids": ids, "vectors": rows.tolist(), "payloads": [payload] * len(ids)}
        if await self._send("PUT", POINTS, {"batch": batch}) is not None:
            self._written.update(dict.fromkeys(ids, self._version))

    async def delete(self) -> None:
        ids = self._some_ids()
        if await self._send("POST", f"{POINTS}/delete", {"points": ids}) is not None:
            for point in ids:
                self._written.pop(point, None)

    async def read(self) -> None:
        ids = self._some_ids()
        found = await self._send("POST", POINTS, {"ids": ids, "with_payload": True})
        if found is not None:
            versions = {record["id"]: record["payload"]["version"] for record in found}
            self._check(versions, {point: self._written[point] for point in ids if point in self._written})

    async def search(self) -> None:
        limit = LONG_ANSWER if self._random.random() < 0.3 else 10
        query = {"query": self._some_vector(), "limit": limit}
        found = await self._send("POST", f"{POINTS}/query", query)
        if found is not None:
            scores = [hit["score"] for hit in found["points"]]
            self._check(scores, sorted(scores, reverse=True))

    async def search_own(self) -> None:
        own = {"must": [{"key": "user", "match": {"value": self._number}}]}
        query = {"query": self._some_vector(), "limit": 10, "filter": own, "with_payload": True}
        found = await self._send("POST", f"{POINTS}/query", query)
        if found is not None:
            versions = {hit["id"]: hit["payload"]["version"] for hit in found["points"]}
            self._check(versions, {point: self._written.get(point) for point in versions})
            self._check(len(versions), min(10, len(self._written)))

    def _some_ids(self) -> list[int]:
        first = int(self._random.integers(IDS_OF_A_USER - BATCH))
        return [self._number * IDS_OF_A_USER + first + step for step in range(BATCH)]

    def _some_vector(self) -> list[float]:
        chosen = self._vectors[self._random.integers(len(self._vectors))]
        noise = self._random.standard_normal(len(chosen)).astype(np.float32)
        vector: list[float] = (chosen + 0.01 * noise).tolist()
        return vector

    def _check(self, found: Any, expected: Any) -> None:
        if found != expected:
            self.problems.append(f"user {self._number}: found {found}, expected {expected}")

    async def _send(self, method: str, path: str, body: Any) -> Any:
        """The result, None where the request failed."""
        sent = time.perf_counter()
        try:
            answer = await self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            self.problems.append(f"{method} {path}: {error!r}")
            return None
        self.seconds.append(time.perf_counter() - sent)
        if answer.status_code != 200:
            self.problems.append(f"{method} {path}: {answer.status_code} {answer.text}")
            return None
        return answer.json()["result"]


if __name__ == "__main__":
    main()
