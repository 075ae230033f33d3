"""A thousand collections in one engine: what they cost while nothing is done with them, and after kill -9."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.engine.api.test_service import parse
from tests.engine.fixtures import EngineProcess, StartEngine

COLLECTIONS = 1000
MIB = 1024**2

THREADS = 4
"""Those of the background, and one that answers: each starts when it has something to do."""

DESCRIPTORS = 8
"""Connections, and the files of the one collection that has a point."""

MEMORY = 20 * MIB
"""13 when this was written."""


class Costs:
    """What an engine holds at one moment."""

    def __init__(self, engine: EngineProcess, http: httpx.Client) -> None:
        status = Path(f"/proc/{engine.pid}/status").read_text()
        metrics = parse(http.get("/metrics").raise_for_status().text)
        self.anonymous = engine.anonymous_bytes
        self.threads = int(status.partition("Threads:")[2].split()[0])
        self.descriptors = len(list(Path(f"/proc/{engine.pid}/fd").iterdir()))
        self.collections = metrics["vectorizer_collections"]
        self.points = metrics["vectorizer_points"]


def test_a_thousand_collections_survive_kill_9_and_cost_no_thread_no_file_and_little_memory(
    make_engine: StartEngine,
) -> None:
    engine = make_engine({"cluster": {"max_cache_memory_bytes": 64 * MIB}})
    vectors = {"vectors": {"size": 2, "distance": "Dot"}}
    with engine.start().http() as http:
        idle = Costs(engine, http)
        for number in range(COLLECTIONS):
            http.put(f"/collections/c{number}", json=vectors).raise_for_status()
        points = {"points": [{"id": 1, "vector": [1, 2]}]}
        http.put("/collections/c500/points?wait=true", json=points).raise_for_status()
        made = Costs(engine, http)
    engine.kill()
    with engine.start().http() as http:
        listed = {each["name"] for each in http.get("/collections").json()["result"]["collections"]}
        again = Costs(engine, http)
    assert listed == {f"c{number}" for number in range(COLLECTIONS)}
    for found in (made, again):
        assert (found.collections, found.points) == (COLLECTIONS, 1)
        assert found.threads <= idle.threads + THREADS
        assert found.descriptors <= idle.descriptors + DESCRIPTORS
        assert found.anonymous <= idle.anonymous + MEMORY
