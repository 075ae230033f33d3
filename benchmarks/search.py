"""Searches in process and over HTTP, what the cache limit and the storage cost, and peers in the same run.

    python benchmarks/search.py [VECTORS.npy] [--seconds 5] [--limits 64,1024] [--chroma PROGRAM]

VECTORS is a float matrix of shape [n, d]; without it, the real embeddings in examples/data. Some of them, taken out,
are the queries; all is compared by cosine, ten nearest. The query-result cache is off. Over HTTP, wrk sends the
queries in turn from one thread of this machine, so with few cores it takes some from the server, from each alike.

The peers are optional: Qdrant's own core in process (`pip install qdrant-edge-py`, into this environment), and
Chroma's server (`pip install chromadb` into one of its own; --chroma is its `chroma` program). So is wrk, without which
nothing is measured over HTTP. At the end stands each goal with what was measured; what a missing program keeps from
being measured is said there. The goals are for 68,431 real vectors of 384 dimensions: less data shows other figures.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import _chroma
import _wrk
import msgspec
import numpy as np
from _goals import Goals
from _machine import describe
from index import LIMIT, QDRANT_MISSING, ROOT, Measured, Timed, clock, load, measure_qdrant, report

sys.path.insert(0, str(ROOT))

from tests.engine.fixtures import EngineProcess, free_port, running_engine

from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.collection.batch import spread
from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.store import VectorStore
from vectorizer_engine.collection.types import CollectionParams, Distance
from vectorizer_engine.index.base import Offsets, Vectors
from vectorizer_engine.index.flat import FlatIndex, search_in_this_thread
from vectorizer_engine.index.quantized import DEFAULT_EF

MIB = 1024**2
UPSERT_POINTS = 500
BATCH_QUERIES = 100
CONNECTIONS = (1, 8)
COLLECTION = "/collections/bench"
SETTLED_SECONDS = 3.0
"""An engine that was green and changed nothing for so long has indexed what it is going to index."""
EFS = (16, 24, 32, 48, DEFAULT_EF, 96, 128, 192)
GOOD_RECALL = 0.975
"""What a search has to find to be compared with another's at all."""

CHROMA_MISSING = "needs --chroma PROGRAM: pip install chromadb, into an environment of its own"


class Setting:
    """The data of a run: what is stored, what is asked, and what exact search answers."""

    def __init__(self, path: Path, queries: int, seconds: float) -> None:
        self.vectors, self.queries = load(path, queries)
        self.seconds = seconds
        flat = FlatIndex(self.vectors, Distance.COSINE)
        self.exact: Timed = clock(lambda query: flat.search(query, LIMIT)[0].offsets, self.queries)

    def recall(self, answers: list[list[int]]) -> float:
        pairs = zip(answers, self.exact.answers, strict=True)
        return float(np.mean([np.isin(true, found).mean() for found, true in pairs]))


class InProcess(NamedTuple):
    """Our searches by ef, Qdrant's, and our index's own queries a second where all are asked at once."""

    ours: dict[int, Measured]
    qdrant: list[Measured]
    throughput: float


class Served(NamedTuple):
    """Seconds until all was indexed, recall, loads by connections, and queries a second in batches."""

    ingested: float
    recall: float
    loads: dict[int, _wrk.Load]
    batched: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("vectors", nargs="?", type=Path, default=ROOT / "examples/data/packages.f16.npy")
    parser.add_argument("--seconds", type=float, default=5.0, help="of load for each row over HTTP")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument(
        "--limits", default="64,1024", help="cache limits in MiB; the last is used for the rest"
    )
    parser.add_argument(
        "--chroma",
        metavar="PROGRAM",
        default=shutil.which("chroma"),
        help="path of Chroma's command-line program",
    )
    options = parser.parse_args()
    search_in_this_thread()
    setting = Setting(options.vectors, options.queries, options.seconds)
    print(f"machine  {describe()}")
    print(f"data     {options.vectors.name}: {len(setting.vectors)} vectors of dimension", end=" ")
    print(f"{setting.vectors.shape[1]}, {options.queries} other queries; {options.seconds:g} s of load a row")
    limits = [int(limit) for limit in options.limits.split(",")]
    goals = Goals()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        process = in_process(folder / "process", setting)
        judge_in_process(goals, process)
        if not _wrk.is_there():
            goals.unmeasured("over HTTP, and against Chroma", _wrk.HOW_TO_GET_IT)
        else:
            served = over_http(folder, setting, limits)
            judge_over_http(goals, process, served)
            if options.chroma is None:
                goals.unmeasured("against Chroma", CHROMA_MISSING)
            else:
                against_chroma(folder / "chroma", setting, options.chroma, served[limits[-1]], goals)
            storages(folder, setting, limits[-1])
    goals.show()


def judge_in_process(goals: Goals, process: InProcess) -> None:
    """Against the fastest search of Qdrant's core that finds enough, ours that finds at least as much."""
    good = [each for each in process.qdrant if each.recall >= GOOD_RECALL]
    if not process.qdrant:
        goals.unmeasured("in process against Qdrant's core", QDRANT_MISSING)
        return
    for peer in sorted(good, key=lambda each: each.p50)[:1]:
        ours = [each for each in process.ours.values() if each.recall >= peer.recall]
        quickest = min((each.p50 for each in ours), default=float("inf"))
        what = f"in process against Qdrant's core ({peer.name}, {peer.recall:.3f})"
        goals.at_least(what, 1.2, peer.p50 / quickest, "×")


def judge_over_http(goals: Goals, process: InProcess, served: dict[int, Served]) -> None:
    smallest, largest = min(served), max(served)
    small, large = served[smallest], served[largest]
    goals.at_least(f"limit {smallest} MiB: recall@{LIMIT}", 0.97, small.recall)
    goals.at_most(
        f"limit {smallest} MiB against {largest}: p50, 1 connection",
        3,
        small.loads[1].p50 / large.loads[1].p50,
        "×",
    )
    above = large.loads[1].p50 - process.ours[DEFAULT_EF].p50
    goals.at_most("1 connection, p50 above the time in process", 0.3, above, "ms")
    goals.at_least(
        "batches against the index's own, on every core", 0.8, large.batched / process.throughput, "×"
    )


def in_process(folder: Path, setting: Setting) -> InProcess:
    """One thread, against Qdrant's core."""
    print(f"\nin process, 1 thread        recall@{LIMIT}  p50 ms  p99 ms  cpu ms  against exact")
    ours: dict[int, Measured] = {}
    with stored(folder, setting) as collection:
        for ef in EFS:

            def search(query: Vectors, ef: int = ef) -> Offsets:
                return np.array([hit.id for hit in collection.search(query, limit=LIMIT, ef=ef)[0]])

            ours[ef] = report(f"ours, ef {ef}", clock(search, setting.queries), setting.exact)
        segment = max((each for each, _ in collection._shard.view.segments()), key=lambda each: each.count)
        index = segment.index
        assert index is not None, "all is indexed"
        began = time.perf_counter()
        asked = 0
        while time.perf_counter() - began < setting.seconds:
            spread(lambda rows: index.search(rows, LIMIT, mask=None, ef=None), setting.queries)
            asked += len(setting.queries)
        throughput = asked / (time.perf_counter() - began)
    qdrant = measure_qdrant(folder, setting.vectors, setting.queries, setting.exact)
    return InProcess(ours, qdrant, throughput)


@contextmanager
def stored(folder: Path, setting: Setting) -> Iterator[Collection]:
    """A collection in this process that holds all vectors, indexed."""
    store = VectorStore.open(folder / "store", memory=CacheMemoryManager(1024 * MIB))
    dimension = setting.vectors.shape[1]
    collection = store.create_collection("bench", CollectionParams(dimension, Distance.COSINE))
    for start in range(0, len(setting.vectors), UPSERT_POINTS):
        rows = setting.vectors[start : start + UPSERT_POINTS]
        collection.upsert(range(start, start + len(rows)), rows, [None] * len(rows))
    settle(lambda: (info := collection.info()).status == "green" and (info.indexed_vectors, info.segments))
    yield collection
    store.close()


def over_http(folder: Path, setting: Setting, limits: list[int]) -> dict[int, Served]:
    """Latency, throughput and recall under each limit (in MiB)."""
    heading("over HTTP, under wrk")
    served: dict[int, Served] = {}
    for limit in limits:
        with engine(folder / f"limit-{limit}", limit) as server:
            ingested = ingest(server, setting)
            print(f"limit {limit} MiB: ingested and indexed in {ingested:.1f} s")
            loads: dict[int, _wrk.Load] = {}
            for connections in CONNECTIONS:
                loads[connections], recall = searches(
                    f"  {connections} connections", server, setting, connections
                )
            anonymous, used = memory(server)
            print(f"  anonymous RSS {anonymous / MIB:.0f} MiB, ledger {used / MIB:.1f} MiB")
            served[limit] = Served(ingested, recall, loads, batches(server, setting))
    return served


@contextmanager
def engine(folder: Path, limit: int, storage: str = "mmap") -> Iterator[EngineProcess]:
    config: dict[str, dict[str, Any]] = {
        "cluster": {"max_cache_memory_bytes": limit * MIB},
        "cache": {"query_results": False},
        "storage": {"type": storage},
    }
    with running_engine(folder, config) as server:
        yield server


def ingest(server: EngineProcess, setting: Setting) -> float:
    """Seconds until all vectors are stored and indexed."""
    began = time.perf_counter()
    with server.http() as http:
        vectors = {"size": setting.vectors.shape[1], "distance": "Cosine"}
        http.put(COLLECTION, json={"vectors": vectors}).raise_for_status()
        for start in range(0, len(setting.vectors), UPSERT_POINTS):
            rows = setting.vectors[start : start + UPSERT_POINTS]
            batch = {"ids": list(range(start, start + len(rows))), "vectors": rows.tolist()}
            body = msgspec.json.encode({"batch": batch})  # json takes ten times as long: 16 s for all
            http.put(f"{COLLECTION}/points?wait=true", content=body).raise_for_status()

        def look() -> object:
            info = http.get(COLLECTION).json()["result"]
            return info["status"] == "green" and (info["indexed_vectors_count"], info["segments_count"])

        return settle(look) - began


def settle(look: Callable[[], object]) -> float:
    """Wait until *look* gives the same for a while, and not False. Returns the moment from which on it did."""
    seen, since = look(), time.perf_counter()
    while not seen or time.perf_counter() < since + SETTLED_SECONDS:
        time.sleep(0.05)
        if (now := look()) != seen:
            seen, since = now, time.perf_counter()
    return since


def bodies(setting: Setting) -> list[bytes]:
    return [json.dumps({"query": query, "limit": LIMIT}).encode() for query in setting.queries.tolist()]


def searches(name: str, server: EngineProcess, setting: Setting, connections: int) -> tuple[_wrk.Load, float]:
    """The load, and the recall of the answers."""
    url = f"{server.url}{COLLECTION}/points/query"
    with server.http() as http:
        answers = [http.post(url, content=body).json()["result"]["points"] for body in bodies(setting)]
    load = under_load(url, bodies(setting), setting, connections)
    recall = setting.recall([[hit["id"] for hit in answer] for answer in answers])
    row(name, load, recall)
    return load, recall


def batches(server: EngineProcess, setting: Setting) -> float:
    """Queries a second in batches from one connection."""
    queries = setting.queries.tolist()
    batched = [
        json.dumps({"searches": [{"query": query, "limit": LIMIT} for query in part]}).encode()
        for part in (
            queries[start : start + BATCH_QUERIES] for start in range(0, len(queries), BATCH_QUERIES)
        )
        if len(part) == BATCH_QUERIES
    ]
    load = under_load(f"{server.url}{COLLECTION}/points/query/batch", batched, setting, 1)
    queries_a_second = load.per_second * BATCH_QUERIES
    print(f"  batches of {BATCH_QUERIES}, 1 connection: {queries_a_second:.0f} queries/s")
    return queries_a_second


def under_load(url: str, sent: list[bytes], setting: Setting, connections: int) -> _wrk.Load:
    with tempfile.TemporaryDirectory() as folder:
        return _wrk.post(url, sent, folder=Path(folder), connections=connections, seconds=setting.seconds)


def memory(server: EngineProcess) -> tuple[int, int]:
    """Anonymous resident memory of the process, and what the ledger says it may use, in bytes."""
    with server.http() as http:
        used = http.get("/cluster/memory").json()["result"]["ledger"]["used_bytes"]
    return server.anonymous_bytes, used


def heading(what: str) -> None:
    print(f"\n{what:28}recall@{LIMIT}  p50 ms  p99 ms  searches/s  errors")


def row(name: str, load: _wrk.Load, recall: float) -> None:
    print(
        f"{name:28}{recall:9.4f}{load.p50:8.2f}{load.p99:8.2f}{load.per_second:12.0f}{load.errors:8d}",
        flush=True,
    )


def against_chroma(folder: Path, setting: Setting, program: str, ours: Served, goals: Goals) -> None:
    """Chroma's server on the same data: how long it takes the vectors, and its searches at our recall."""
    heading("Chroma, under wrk")
    sent = _chroma.bodies(setting.queries, LIMIT)
    with _chroma.running(folder, program, free_port()) as peer:
        ingested = peer.ingest(setting.vectors)
        print(f"ingested in {ingested:.1f} s")
        goals.at_most("ingest until indexed against Chroma", 0.6, ours.ingested / ingested, "×")
        for ef in _chroma.EFS:
            peer.use(ef)
            recall = setting.recall(peer.answers(sent))
            if recall >= ours.recall:
                break
        loads = {}
        for connections in CONNECTIONS:
            loads[connections] = under_load(peer.query_url, sent, setting, connections)
            row(f"  ef {ef}, {connections} connections", loads[connections], recall)
    most = max(CONNECTIONS)
    what = f"{most} connections against Chroma (recall {ours.recall:.3f} and {recall:.3f})"
    goals.at_least(what, 6, ours.loads[most].per_second / loads[most].per_second, "×")


def storages(folder: Path, setting: Setting, limit: int) -> None:
    """Memory-mapped files against vectors on the heap: warm, and with nothing of the files in memory."""
    heading("storage, 1 connection")
    for storage in ("mmap", "memory"):
        with engine(folder / storage, limit, storage) as server:
            ingest(server, setting)
            searches(f"{storage}, warm", server, setting, 1)
            server.stop()
            forget_pages(server.data)
            began = time.perf_counter()
            server.start()
            with server.http() as http:
                http.post(f"{COLLECTION}/points/query", content=bodies(setting)[0]).raise_for_status()
                first = time.perf_counter() - began
                times = []
                for body in bodies(setting)[1:101]:
                    sent = time.perf_counter()
                    http.post(f"{COLLECTION}/points/query", content=body).raise_for_status()
                    times.append(time.perf_counter() - sent)
            anonymous, _ = memory(server)
            print(
                f"{storage}, cold: first answer {first:.2f} s after the start, next 100 at p50 "
                f"{np.median(times) * 1e3:.2f} ms, p99 {np.quantile(times, 0.99) * 1e3:.1f} ms; "
                f"anonymous RSS {anonymous / MIB:.0f} MiB"
            )


def forget_pages(folder: Path) -> None:
    """Let the kernel drop what it keeps of the files below *folder*."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
