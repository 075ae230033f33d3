"""kill -9 before an index that was built has its name: of the payloads, and of the vectors. It is built again."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from tests.engine.fixtures import EngineProcess

COUNT = 6000
"""One head, so one segment, of which an index is worth its while."""

DIMENSION = 32
BATCH = 2000
COLLECTION = "/collections/docs"

ROWS = np.random.default_rng(1).standard_normal((COUNT, DIMENSION)).astype(np.float16).astype(np.float32)

# An engine that is killed when an index is written, and has no name yet; of which kind, its first argument says.
KILLED_BY_AN_INDEX = """
import os, signal, sys
from vectorizer_engine import cli
from vectorizer_engine.storage.files import Files

rename, suffix = Files.rename, sys.argv.pop(1)

def killed(self, source, target):
    if target.suffix == suffix:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(self, source, target)

Files.rename = killed
del sys.argv[0]
cli.main()
"""


def info(http: httpx.Client) -> dict[str, Any]:
    result: dict[str, Any] = http.get(COLLECTION).raise_for_status().json()["result"]
    return result


def load(http: httpx.Client) -> None:
    vectors = {"size": DIMENSION, "distance": "Dot"}
    http.put(COLLECTION, json={"vectors": vectors}).raise_for_status()
    for start in range(0, COUNT, BATCH):
        ids = [*range(start, start + BATCH)]
        batch = {
            "ids": ids,
            "vectors": ROWS[ids].tolist(),
            "payloads": [{"n": number} for number in ids],
        }
        http.put(f"{COLLECTION}/points", json={"batch": batch}).raise_for_status()


def count_below(http: httpx.Client, number: int) -> int:
    body = {"filter": {"must": [{"key": "n", "range": {"lt": number}}]}}
    count: int = http.post(f"{COLLECTION}/points/count", json=body).json()["result"]["count"]
    return count


def nearest(http: httpx.Client, row: int) -> list[int]:
    query = {"query": ROWS[row].tolist(), "limit": 1}
    found = http.post(f"{COLLECTION}/points/query", json=query).raise_for_status().json()["result"]["points"]
    return [hit["id"] for hit in found]


def check(http: httpx.Client) -> None:
    """Everything is there, and answers are right, whether there is an index again or not."""
    assert info(http)["points_count"] == COUNT
    assert info(http)["status"] != "red"
    assert count_below(http, 4000) == 4000
    assert [nearest(http, row) for row in range(0, COUNT, 1000)] == [[row] for row in range(0, COUNT, 1000)]


def killed_by(tmp_path: Path, suffix: str) -> EngineProcess:
    return EngineProcess(tmp_path, run_by=(sys.executable, "-c", KILLED_BY_AN_INDEX, suffix))


def test_a_kill_while_an_index_of_vectors_is_built_loses_nothing_and_it_is_built_again(
    tmp_path: Path,
) -> None:
    engine = killed_by(tmp_path, ".hnsw-sq8")
    try:
        with engine.start().http() as http:
            load(http)
        assert engine.wait() == -signal.SIGKILL
        assert list(engine.data.rglob("index.hnsw-sq8.unfinished"))

        engine = EngineProcess(tmp_path)
        with engine.start().http() as http:
            check(http)
            engine.wait_until(lambda: info(http)["indexed_vectors_count"] == COUNT, "indexed")
            check(http)
        assert not list(engine.data.rglob("*.unfinished"))
    finally:
        engine.close()


def test_a_kill_while_an_index_of_payloads_is_built_loses_nothing_and_it_is_built_again(
    tmp_path: Path,
) -> None:
    engine = killed_by(tmp_path, ".payload-index")
    try:
        with engine.start().http() as http:
            load(http)
            engine.wait_until(lambda: bool(info(http)["layouts"]), "sealed")
            with suppress(httpx.TransportError):  # the end may come before the answer
                http.put(f"{COLLECTION}/index", json={"field_name": "n", "field_schema": "integer"})
            assert engine.wait() == -signal.SIGKILL
        assert list(engine.data.rglob("*.payload-index.part"))

        engine = EngineProcess(tmp_path)
        with engine.start().http() as http:
            check(http)
            engine.wait_until(lambda: info(http)["payload_schema"]["n"]["points"] == COUNT, "indexed")
            check(http)
        assert not list(engine.data.rglob("*.part"))
    finally:
        engine.close()
