"""What several pods over an object store cost: how fast they take writes, and what they ask of the store.

    .venv/bin/python benchmarks/store.py [VECTORS.npy] [--seconds 6] [--rounds 2] [--searches 300]

Real engines, and a real S3 server (versitygw, `make kube` builds it) on loopback, over a folder of this disk. All of
them and the client share this machine's cores, where pods would have their own.

Writes: one client with 8 connections sends batches of 256 to three pods in turn, and to one pod on its own volume,
which is fsync'd (goal: at least half as many vectors a second). Then what the S3 server was asked, from its access log:
for those writes with all that the background made of them, scaled to a million; while nothing is asked (goal: nothing);
for each search; and when the pods come back with empty volumes. A put is also each part of an upload of more than 5 MB.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import orjson
from _goals import Goals
from _machine import describe

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.engine.distributed.pods import Pods
from tests.engine.fixtures import EngineProcess
from tests.engine.s3 import running_s3

from vectorizer_engine.storage.object_frame import Kind

ROOT = Path(__file__).parents[1]
WRITERS, BATCH = 8, 256
PODS = 3
LEAST_SHARE = 0.5
MILLION = 1_000_000
SETTLE_SECONDS = 3.0
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
KIND = 8
"""Where in a frame its kind is."""

KINDS = {
    "s3_PutObject": "put",
    "s3_CreateMultipartUpload": "put",
    "s3_UploadPart": "put",
    "s3_CompleteMultipartUpload": "put",
    "s3_GetObject": "get",
    "s3_ListObjectsV2": "list",
    "s3_DeleteObject": "delete",
    "s3_DeleteObjects": "delete",
}


class Asked(NamedTuple):
    """Requests by kind, and bytes of objects that went to the store and came from it."""

    requests: Counter[str]
    sent: float
    received: float


class Bill:
    """What the S3 server was asked since the last look."""

    def __init__(self, access_log: Path, pods: Pods) -> None:
        self._log = access_log
        self._pods = pods
        self._position = 0
        self._bytes = (0.0, 0.0)
        self.take()

    def take(self) -> Asked:
        with self._log.open() as log:
            log.seek(self._position)
            lines = log.read()
            self._position = log.tell()
        operations = re.findall(r" (s3_\w+) ", lines)
        before, self._bytes = self._bytes, self._measured()
        sent, received = (max(0.0, now - then) for now, then in zip(self._bytes, before, strict=True))
        return Asked(Counter(KINDS[each] for each in operations), sent, received)

    def forget_bytes(self) -> None:
        """The pods are new processes, which count from nothing."""
        self._bytes = (0.0, 0.0)

    def _measured(self) -> tuple[float, float]:
        texts = [httpx.get(pod.url + "/metrics").text for pod in self._pods.engines if pod.is_running]
        name = "vectorizer_object_store_bytes_total"
        return (
            sum(figure(text, f'{name}{{direction="sent"}}') for text in texts),
            sum(figure(text, f'{name}{{direction="received"}}') for text in texts),
        )


def figure(text: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found, f"there is no {name} in the metrics"
    return float(found[1])


def appends(pods: Pods) -> float:
    texts = [httpx.get(pod.url + "/metrics").text for pod in pods.engines]
    return sum(figure(text, "vectorizer_log_append_writes_count") for text in texts)


class Writers:
    """Sends batches with new ids, each connection's to one of *engines*."""

    def __init__(self, engines: Sequence[EngineProcess], vectors: np.ndarray) -> None:
        self._engines = engines
        starts = range(0, len(vectors) - BATCH, BATCH)
        # Encoded once: what is measured is not the client.
        self._rows = [orjson.dumps(vectors[each : each + BATCH].tolist()) for each in starts]
        self._next = 0
        self._lock = threading.Lock()
        self.written = 0

    def run(self, seconds: float) -> float:
        """Vectors a second."""
        before = self.written
        began = time.perf_counter()
        end = began + seconds
        threads = [threading.Thread(target=self._write, args=(each, end)) for each in range(WRITERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return (self.written - before) / (time.perf_counter() - began)

    def _write(self, number: int, end: float) -> None:
        engine = self._engines[number % len(self._engines)]
        with httpx.Client(base_url=engine.url, timeout=60) as http:
            while time.perf_counter() < end:
                with self._lock:
                    batch, self._next = self._next, self._next + 1
                ids = orjson.dumps(list(range(batch * BATCH, (batch + 1) * BATCH)))
                rows = self._rows[batch % len(self._rows)]
                body = b'{"batch":{"ids":%b,"vectors":%b}}' % (ids, rows)
                http.put("/collections/docs/points?wait=true", content=body).raise_for_status()
                with self._lock:
                    self.written += BATCH


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("vectors", nargs="?", type=Path, default=ROOT / "examples/data/packages.f16.npy")
    parser.add_argument("--seconds", type=float, default=6.0, help="of writing, each time")
    parser.add_argument("--rounds", type=int, default=2, help="so often each side writes")
    parser.add_argument("--searches", type=int, default=300)
    parser.add_argument("--idle", type=float, default=12.0, help="seconds without any request")
    options = parser.parse_args()
    vectors = np.load(options.vectors).astype(np.float32)
    print(f"machine: {describe()}")
    print(f"data:    {len(vectors)} vectors of dimension {vectors.shape[1]}, over and over with new ids\n")
    goals = Goals()
    with tempfile.TemporaryDirectory() as scratch, clusters(Path(scratch)) as (alone, pods, access_log):
        for engine in (alone, pods[0]):
            create(engine, vectors.shape[1])
        pods.wait_until_moved(*range(PODS))
        bill = Bill(access_log, pods)
        share, written = ingest(alone, pods, vectors, options.seconds, options.rounds)
        goals.at_least("ingest of 3 pods over S3, of 1 pod on its own volume", LEAST_SHARE, share)
        settle(pods, access_log)
        table_of(f"a million writes ({written:,} measured)", bill.take(), MILLION / written, header=True)
        frames = kinds_of_frames(Path(scratch) / "s3/bucket")
        goals.at_most("puts of records for each group commit", 1, frames[Kind.RECORDS] / appends(pods))
        time.sleep(options.idle)
        idle = bill.take()
        table_of(f"{options.idle:g} idle seconds", idle, 1)
        goals.at_most("requests while idle", 0, idle.requests.total())
        searches(pods, vectors, 1, bill, "a search after that pause")
        searches(pods, vectors, options.searches, bill, "a search among many")
        come_back(pods, vectors, bill)
    goals.show()


@contextlib.contextmanager
def clusters(scratch: Path) -> Iterator[tuple[EngineProcess, Pods, Path]]:
    """One engine on its own volume, three over S3, and the access log of that."""
    access_log = scratch / "access.log"
    alone = EngineProcess(scratch / "alone", covered=False)
    with running_s3(scratch / "s3", access_log=access_log) as s3:
        store = {
            "url": f"{s3.url}/bench",
            "endpoint": s3.settings["endpoint"],
            "region": s3.settings["region"],
        }
        pods = Pods(scratch / "pods", PODS, stores=[store] * PODS, environment=CREDENTIALS, covered=False)
        try:
            alone.start()
            pods.launch()
            pods.publish(*range(PODS))
            pods.wait_until_ready()
            yield alone, pods, access_log
        finally:
            alone.close()
            pods.close()


def create(engine: EngineProcess, dimension: int) -> None:
    with engine.http() as http:
        params = {"vectors": {"size": dimension, "distance": "Cosine"}}
        http.put("/collections/docs", json=params).raise_for_status()


def settle(pods: Pods, access_log: Path) -> None:
    """Wait until all is merged, indexed and put into the store. Seldom asked, as each answer asks the store, too."""
    before = -1
    while True:
        puts = access_log.read_text().count(" s3_PutObject ")
        with pods[0].http() as http:
            status = http.get("/collections/docs").raise_for_status().json()["result"]["status"]
        if status == "green" and puts == before:
            return
        before = puts
        time.sleep(SETTLE_SECONDS)


def ingest(
    alone: EngineProcess, pods: Pods, vectors: np.ndarray, seconds: float, rounds: int
) -> tuple[float, int]:
    """In turns. The share of the rates, and how many vectors the three pods took."""
    sides = {"1 pod, own volume": Writers([alone], vectors), "3 pods, S3": Writers(pods.engines, vectors)}
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, writers in sides.items():
            rates[side].append(writers.run(seconds))
    print(f"{WRITERS} writers, batches of {BATCH}{'vectors/s':>22}")
    for side, measured in rates.items():
        print(f"{side:40}{np.mean(measured):9,.0f}   ({', '.join(f'{each:,.0f}' for each in measured)})")
    print()
    one, three = (float(np.mean(measured)) for measured in rates.values())
    return three / one, sides["3 pods, S3"].written


def kinds_of_frames(bucket: Path) -> Counter[int]:
    """What lies in the logs. Frames that are no longer needed are deleted after ten minutes: none yet."""
    return Counter(path.read_bytes()[KIND] for path in bucket.glob("bench/collections/*/*/log/*"))


def table_of(what: str, asked: Asked, scale: float, *, header: bool = False) -> None:
    if header:
        print(
            f"{'asked of the store':44}{'put':>8}{'get':>8}{'list':>7}{'delete':>8}{'MB sent':>10}{'received':>10}"
        )
    counts = [asked.requests[kind] * scale for kind in ("put", "get", "list", "delete")]
    written = [f"{each:,.0f}" if scale >= 1 or each == int(each) else f"{each:.2f}" for each in counts]
    print(
        f"{what:44}{written[0]:>8}{written[1]:>8}{written[2]:>7}{written[3]:>8}"
        f"{asked.sent * scale / 1e6:10,.1f}{asked.received * scale / 1e6:10,.1f}"
    )


def searches(pods: Pods, vectors: np.ndarray, count: int, bill: Bill, what: str) -> None:
    chosen = random.Random(1)
    clients = [engine.http() for engine in pods.engines]
    for _ in range(count):
        query = {"query": vectors[chosen.randrange(len(vectors))].tolist(), "limit": 10}
        chosen.choice(clients).post("/collections/docs/points/query", json=query).raise_for_status()
    table_of(what, bill.take(), 1 / count)
    for client in clients:
        client.close()


def come_back(pods: Pods, vectors: np.ndarray, bill: Bill) -> None:
    """Everything is stopped, and starts with empty volumes."""
    for engine in pods.engines:
        engine.stop()
        shutil.rmtree(engine.data)
    bill.forget_bytes()
    bill.take()
    began = time.perf_counter()
    pods.launch()
    pods.publish(*range(PODS))
    pods.wait_until_ready()
    took = time.perf_counter() - began
    table_of(f"start of all with empty volumes, {took:.1f} s", bill.take(), 1)
    searches(pods, vectors, 1, bill, "the first search after that")


if __name__ == "__main__":
    main()
