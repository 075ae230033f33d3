"""SIGTERM while the background merges and indexes: the engine ends in time, and what was loaded is all there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np

from tests.engine.fixtures import EngineProcess
from vectorizer_engine.collection.environment import ShardLimits
from vectorizer_engine.collection.merge_policy import FANOUT

COUNT = ShardLimits().head_points + 500
DIMENSION = 48


def info(http: httpx.Client) -> dict[str, object]:
    result: dict[str, object] = http.get("/collections/docs").json()["result"]
    return result


def reserved_for_indexes(http: httpx.Client) -> int:
    """Bytes; from the beginning of a build on."""
    nbytes: int = http.get("/cluster/memory").json()["result"]["ledger"]["by_cache"]["hnsw"]
    return nbytes


def test_a_stop_while_segments_are_indexed_comes_in_time_and_loses_nothing(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox" / "docs"
    inbox.mkdir(parents=True)
    rows = np.random.default_rng(1).standard_normal((COUNT, DIMENSION)).astype(np.float16)
    np.save(inbox / "rows.npy", rows)
    watched = {"file_watcher": {"enabled": True, "paths": [str(inbox.parent)]}}
    engine = EngineProcess(tmp_path, watched)
    try:
        with engine.start().http() as http:
            vectors = {"size": DIMENSION, "distance": "Dot"}
            http.put("/collections/docs", json={"vectors": vectors}).raise_for_status()
            engine.wait_until(lambda: info(http)["points_count"] == COUNT, "loaded")
            # What was sealed while it was loaded is indexed once nothing more comes.
            engine.wait_until(lambda: reserved_for_indexes(http) > 0, "indexing")
        assert engine.stop() == 0

        with engine.start().http() as http:
            found = info(http)
            assert found["points_count"] == COUNT
            assert found["status"] in ("green", "yellow")
            query = {"query": rows[-1].tolist(), "limit": 1, "params": {"exact": True}}
            [best] = http.post("/collections/docs/points/query", json=query).json()["result"]["points"]
            assert best["id"] == COUNT - 1
    finally:
        engine.close()


MERGED = 1100
"""Points of a head, so of each of the segments that are merged: more than are copied at once."""

WRITTEN = (FANOUT + 1) * MERGED
"""As many as it takes to merge, and a head more, which is what has the one before it sealed."""

# An engine with smaller heads, which gets a SIGTERM when a merge has copied its first points. The merge waits for the
# stop that follows, or it could be quicker than that.
STOPPED_IN_A_MERGE = f"""
import functools, os, signal, sys
from vectorizer_engine import cli
from vectorizer_engine.collection import store
from vectorizer_engine.collection.compaction import Compaction

store.ShardLimits = functools.partial(store.ShardLimits, head_points={MERGED})
batches = Compaction._batches

def stopped(self, view):
    for batch in batches(self, view):
        yield batch
        if len(view.parts) > 1 and not self._maintenance.stopping.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
            self._maintenance.stopping.wait()

Compaction._batches = stopped
del sys.argv[0]
cli.main()
"""


def segment_files(engine: EngineProcess) -> int:
    return len(list(engine.data.rglob("vectors.f32")))


def test_a_stop_in_the_middle_of_a_merge_comes_in_time_and_loses_nothing(tmp_path: Path) -> None:
    stopped = EngineProcess(tmp_path, run_by=(sys.executable, "-c", STOPPED_IN_A_MERGE))
    try:
        with stopped.start().http() as http:
            http.put("/collections/docs", json={"vectors": {"size": 2, "distance": "Dot"}}).raise_for_status()
            for first in range(0, WRITTEN, MERGED):
                ids = [*range(first, first + MERGED)]
                batch = {"ids": ids, "vectors": [[number, 1] for number in ids]}
                http.put("/collections/docs/points", json={"batch": batch}).raise_for_status()
        assert stopped.wait() == 0
    finally:
        stopped.close()
    assert segment_files(stopped) == FANOUT

    engine = EngineProcess(tmp_path)
    try:
        with engine.start().http() as http:
            assert info(http)["points_count"] == WRITTEN
            engine.wait_until(lambda: info(http)["status"] == "green", "merged")
            assert info(http)["segments_count"] == 1
            assert info(http)["points_count"] == WRITTEN
            query = {"query": [1, 0], "limit": 1, "params": {"exact": True}}
            [best] = http.post("/collections/docs/points/query", json=query).json()["result"]["points"]
            assert best["id"] == WRITTEN - 1
        assert segment_files(engine) == 1
    finally:
        engine.close()


# The interpreter takes a second to end, so that the thread comes back to it meanwhile.
BUILDING = """
import threading, time
import numpy as np
from vectorizer_engine.api.server import end_threads
from vectorizer_engine.index.native import faiss

class Lingering:
    def __del__(self, sleep=time.sleep):
        sleep(1)

lingering = Lingering()
began = threading.Event()

def build():
    index = faiss.IndexHNSWFlat(16, 16)
    rows = np.random.default_rng(1).standard_normal((20_000, 16), dtype=np.float32)
    began.set()
    while True:
        index.add(rows)

threading.Thread(target=build, name="merge", daemon=True).start()
began.wait()
end_threads(7)
"""


def test_a_build_that_cannot_be_broken_off_ends_with_the_process_which_does_not_abort() -> None:
    ended = subprocess.run([sys.executable, "-c", BUILDING], capture_output=True, text=True, timeout=60)

    assert ended.returncode == 7, ended.stderr
    assert "thread merge does not end: leaving it" in ended.stderr
