"""What a write costs where collections live in an object store, against a log of files in the same run.

    .venv/bin/python benchmarks/object_log.py [--seconds 3] [--writers 8] [--batch 256]

Writers send batches of random vectors (d = 384) to a group commit, as a shard's writers do, and nothing is made of
them. Three logs: files on this disk, a shared store in a folder of this disk, a shared store on a real S3 server
(versitygw, on loopback, over a folder of this disk; `make kube` builds it). Then each log is opened and replayed.
In a folder a put costs one fsync of a file and one of a folder. versitygw leaves the fsync to the kernel, as real S3
answers from other machines: so its latency is that of the protocol, and a cloud's own latency comes on top.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _machine import describe

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.engine.s3 import running_s3
from tests.engine.stores import FaultyStore

from vectorizer_engine.storage.commit import GroupCommit
from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.folder_store import FolderStore
from vectorizer_engine.storage.garbage import Garbage
from vectorizer_engine.storage.log import FileLog, Log
from vectorizer_engine.storage.object_log import ObjectLog
from vectorizer_engine.storage.object_store import ObjectStore

DIMENSION = 384
GOAL = 0.5


class Batch:
    """A write of so many bytes, which becomes visible nowhere."""

    reads = False

    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self._data = data

    def prepare(self) -> bytes:
        return self._data

    def apply(self, number: int) -> None:
        pass

    def abandon(self) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args()
    print(f"machine: {describe()}")
    print(f"data:    random vectors, d = {DIMENSION}; {options.seconds:g} s each\n")
    print(
        f"{'log':8}{'writers':>8}{'batch':>7}{'vectors/s':>11}{'p50 ms':>9}{'p99 ms':>9}{'writes/put':>12}"
        f"{'requests/put':>14}{'replay s':>10}{'MB':>7}"
    )
    with tempfile.TemporaryDirectory() as scratch, running_s3(Path(scratch) / "s3") as s3:
        for writers, batch in ((1, 1), (options.writers, 1), (options.writers, options.batch)):
            rates = {}
            for name in ("files", "folder", "s3"):
                folder = Path(scratch) / f"{name}-{writers}-{batch}"
                folder.mkdir()
                if name == "files":
                    rates[name] = measure(name, files_log(folder), None, writers, batch, options.seconds)
                else:
                    store: ObjectStore = s3.store(folder.name)
                    if name == "folder":
                        store = FolderStore(folder, files=Files())
                    counted = FaultyStore(store)
                    ObjectLog.create(counted, "shard")
                    rates[name] = measure(name, shared_log(counted), counted, writers, batch, options.seconds)
    ratio = rates["s3"] / rates["files"]
    print(
        f"\ngoal: S3 at least {GOAL:g} × files with {options.writers} writers of {options.batch}: {ratio:.2f}, "
        f"{'met' if ratio >= GOAL else 'MISSED'}"
    )


def files_log(folder: Path) -> Callable[[], Log]:
    return lambda: FileLog(folder, first=1, files=Files())


def shared_log(store: ObjectStore) -> Callable[[], Log]:
    return lambda: ObjectLog(store, "shard", garbage=Garbage(store))


def measure(
    name: str,
    open_log: Callable[[], Log],
    store: FaultyStore | None,
    writers: int,
    batch: int,
    seconds: float,
) -> float:
    """Print one row; vectors acknowledged a second."""
    data = np.random.default_rng(1).standard_normal((batch, DIMENSION)).astype(np.float32).tobytes()
    puts = 0

    def count(_writes: int, _seconds: float) -> None:
        nonlocal puts
        puts += 1

    commit = GroupCommit(open_log(), observe=count)
    if store is not None:
        store.calls.clear()
    took: list[list[float]] = [[] for _ in range(writers)]
    end = time.perf_counter() + seconds

    def write(into: list[float]) -> None:
        while (began := time.perf_counter()) < end:
            commit.submit(Batch(data), wait=True)
            into.append(time.perf_counter() - began)

    began = time.perf_counter()
    threads = [threading.Thread(target=write, args=(each,)) for each in took]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - began
    requests = f"{len(store.calls) / puts:.2f}" if store is not None else "-"
    commit.close()
    times = np.array([each for one in took for each in one]) * 1000
    began = time.perf_counter()
    replayed = sum(1 for _ in open_log().replay(after=0))
    replay = time.perf_counter() - began
    assert replayed == len(times), "all that was acknowledged is there"
    rate = len(times) * batch / elapsed
    print(
        f"{name:8}{writers:8}{batch:7}{rate:11,.0f}{np.percentile(times, 50):9.2f}{np.percentile(times, 99):9.2f}"
        f"{len(times) / puts:12.1f}{requests:>14}{replay:10.2f}{replayed * len(data) / 1e6:7.0f}"
    )
    return rate


if __name__ == "__main__":
    main()
