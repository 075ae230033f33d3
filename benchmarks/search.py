"""Searches in process and over HTTP, what the cache limit and the storage cost, and peers in the same run.

    python benchmarks/search.py [VECTORS.npy] [--seconds 5] [--limits 64,1024] [--chroma PROGRAM]

VECTORS is a float matrix of shape [n, d]; without it, the real embeddings in examples/data. Some of them, taken out,
are the queries; all is compared by cosine, ten nearest. The query-result cache is off. Over HTTP, wrk sends the
queries in turn from one thread of this machine, so with few cores it takes some from the server, from each alike.

The peers are optional: Qdrant's own core in process (`pip install qdrant-edge-py`, into this environment), and
Chroma's server (`pip install chromadb` into one of its own; --chroma is its `chroma` program).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import _wrk
import httpx
import numpy as np
from _machine import describe
from index import LIMIT, ROOT, Timed, clock, load, measure_qdrant, report

sys.path.insert(0, str(ROOT))

from tests.engine.fixtures import EngineProcess, free_port, running_engine

from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.store import VectorStore
from vectorizer_engine.collection.types import CollectionParams, Distance
from vectorizer_engine.index.base import Offsets, Vectors
from vectorizer_engine.index.flat import FlatIndex, search_in_this_thread

MIB = 1024**2
UPSERT_POINTS = 500
BATCH_QUERIES = 100
CONNECTIONS = (1, 8)
COLLECTION = "/collections/bench"
SETTLED_SECONDS = 3.0
"""An engine that was green and changed nothing for so long has indexed what it is going to index."""
CHROMA_EF = 100
"""With which Chroma's recall on the Debian descriptions is about ours."""


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
    parser.add_argument("--chroma", metavar="PROGRAM", help="path of Chroma's command-line program")
    options = parser.parse_args()
    _wrk.require()
    search_in_this_thread()
    setting = Setting(options.vectors, options.queries, options.seconds)
    print(f"machine  {describe()}")
    print(f"data     {options.vectors.name}: {len(setting.vectors)} vectors of dimension", end=" ")
    print(f"{setting.vectors.shape[1]}, {options.queries} other queries; {options.seconds:g} s of load a row")
    limits = [int(limit) for limit in options.limits.split(",")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        batch = in_process(folder / "process", setting)
        over_http(folder, setting, limits, batch)
        if options.chroma:
            chroma(folder / "chroma", setting, options.chroma)
        storages(folder, setting, limits[-1])


def in_process(folder: Path, setting: Setting) -> float:
    """One thread, against Qdrant's core. Returns queries a second where all are asked at once."""
    print(f"\nin process, 1 thread        recall@{LIMIT}  p50 ms  p99 ms  cpu ms  against exact")
    with stored(folder, setting) as collection:
        for ef in (48, 64, 96):

            def search(query: Vectors, ef: int = ef) -> Offsets:
                return np.array([hit.id for hit in collection.search(query, limit=LIMIT, ef=ef)[0]])

            report(f"ours, ef {ef}", clock(search, setting.queries), setting.exact)
        began = time.perf_counter()
        asked = 0
        while time.perf_counter() - began < setting.seconds:
            collection.search(setting.queries, limit=LIMIT)
            asked += len(setting.queries)
        throughput = asked / (time.perf_counter() - began)
    measure_qdrant(folder, setting.vectors, setting.queries, setting.exact)
    return throughput


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


def over_http(folder: Path, setting: Setting, limits: list[int], in_process: float) -> None:
    """Latency, throughput and recall under each limit; the last one also with all queries in batches."""
    heading("over HTTP, under wrk")
    for limit in limits:
        with engine(folder / f"limit-{limit}", limit) as server:
            print(f"limit {limit} MiB: ingested and indexed in {ingest(server, setting):.1f} s")
            for connections in CONNECTIONS:
                searches(f"  {connections} connections", server, setting, connections)
            anonymous, used = memory(server)
            print(f"  anonymous RSS {anonymous / MIB:.0f} MiB, ledger {used / MIB:.1f} MiB")
            if limit == limits[-1]:
                batches(server, setting, in_process)


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
            http.put(f"{COLLECTION}/points?wait=true", json={"batch": batch}).raise_for_status()

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


def searches(name: str, server: EngineProcess, setting: Setting, connections: int) -> _wrk.Load:
    url = f"{server.url}{COLLECTION}/points/query"
    with server.http() as http:
        answers = [http.post(url, content=body).json()["result"]["points"] for body in bodies(setting)]
    load = under_load(url, bodies(setting), setting, connections)
    row(name, load, setting.recall([[hit["id"] for hit in answer] for answer in answers]))
    return load


def batches(server: EngineProcess, setting: Setting, in_process: float) -> None:
    """Queries a second in batches from one connection, against all at once in process."""
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
    print(
        f"  batches of {BATCH_QUERIES}, 1 connection: {queries_a_second:.0f} queries/s, in process "
        f"{in_process:.0f} queries/s: {queries_a_second / in_process:.2f} ×"
    )


def under_load(url: str, sent: list[bytes], setting: Setting, connections: int) -> _wrk.Load:
    with tempfile.TemporaryDirectory() as folder:
        return _wrk.post(url, sent, folder=Path(folder), connections=connections, seconds=setting.seconds)


def memory(server: EngineProcess) -> tuple[int, int]:
    """Anonymous resident memory of the process, and what the ledger says it may use, in bytes."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    with server.http() as http:
        used = http.get("/cluster/memory").json()["result"]["ledger"]["used_bytes"]
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024, used


def heading(what: str) -> None:
    print(f"\n{what:28}recall@{LIMIT}  p50 ms  p99 ms  searches/s  errors")


def row(name: str, load: _wrk.Load, recall: float) -> None:
    print(
        f"{name:28}{recall:9.4f}{load.p50:8.2f}{load.p99:8.2f}{load.per_second:12.0f}{load.errors:8d}",
        flush=True,
    )


def chroma(folder: Path, setting: Setting, program: str) -> None:
    """Chroma's server on the same data: how long it takes the vectors, and its searches at our recall."""
    heading("Chroma, under wrk")
    port = free_port()
    command = [program, "run", "--path", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            root = f"http://127.0.0.1:{port}/api/v2"
            wait_for(f"{root}/heartbeat", process)
            with httpx.Client(timeout=300) as http:
                chroma_searches(http, f"{root}/tenants/default_tenant/databases/default_database", setting)
        finally:
            process.terminate()


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            httpx.get(url, timeout=5).raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.05)
        else:
            return
    sys.exit(f"Chroma ended with status {process.returncode} before it answered")


def chroma_searches(http: httpx.Client, database: str, setting: Setting) -> None:
    hnsw = {"space": "cosine", "ef_search": CHROMA_EF, "ef_construction": 100, "max_neighbors": 16}
    created = http.post(
        f"{database}/collections", json={"name": "bench", "configuration": {"hnsw": hnsw}}
    ).raise_for_status()
    collection = f"{database}/collections/{created.json()['id']}"
    began = time.perf_counter()
    for start in range(0, len(setting.vectors), UPSERT_POINTS):
        rows = setting.vectors[start : start + UPSERT_POINTS]
        ids = [str(offset) for offset in range(start, start + len(rows))]
        http.post(f"{collection}/add", json={"ids": ids, "embeddings": rows.tolist()}).raise_for_status()
    print(f"ef {CHROMA_EF}: ingested in {time.perf_counter() - began:.1f} s")
    sent = [
        json.dumps({"query_embeddings": [query], "n_results": LIMIT, "include": ["distances"]}).encode()
        for query in setting.queries.tolist()
    ]
    answers = [
        http.post(f"{collection}/query", content=body).raise_for_status().json()["ids"] for body in sent
    ]
    recall = setting.recall([[int(name) for name in names] for [names] in answers])
    for connections in CONNECTIONS:
        row(
            f"  {connections} connections",
            under_load(f"{collection}/query", sent, setting, connections),
            recall,
        )


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
