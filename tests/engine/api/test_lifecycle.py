"""Stopping, dying and coming back: what was acknowledged is there, what was in flight is answered."""

from __future__ import annotations

import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from qdrant_client import models

from tests.engine.fixtures import EngineProcess, StartEngine

VECTORS = {"size": 8, "distance": "Dot"}


def point(number: int, version: int = 0) -> dict[str, Any]:
    return {"id": number, "vector": [float(number)] + [1.0] * 7, "payload": {"version": version}}


def test_everything_acknowledged_survives_sigkill(make_engine: StartEngine) -> None:
    engine = make_engine().start()
    with engine.http() as http:
        http.put("/collections/kept", json={"vectors": VECTORS})
        http.put("/collections/gone", json={"vectors": VECTORS})
        http.put("/collections/kept/points", json={"points": [point(i) for i in range(300)]})
        http.post("/collections/kept/points/delete", json={"points": [5]})
        http.post("/collections/kept/points/payload", json={"payload": {"version": 2}, "points": [6]})
        assert http.delete("/collections/gone").json()["result"] is True
    engine.kill()

    client = engine.start().client()

    assert [collection.name for collection in client.get_collections().collections] == ["kept"]
    records, _ = client.scroll("kept", limit=1000, with_vectors=True)
    assert {record.id: (record.vector, record.payload) for record in records} == {
        i: (point(i)["vector"], {"version": 2 if i == 6 else 0}) for i in range(300) if i != 5
    }
    [best, _] = client.query_points("kept", query=[1.0] + [0.0] * 7, limit=2).points
    assert best.id == 299


def test_a_normal_stop_exits_with_0_and_keeps_everything(make_engine: StartEngine) -> None:
    engine = make_engine().start()
    client = engine.client()
    client.create_collection("kept", models.VectorParams(size=8, distance=models.Distance.DOT))
    client.upsert("kept", [models.PointStruct(**point(1))], wait=False)

    assert engine.stop() == 0

    assert "stopped: everything written is on disk" in engine.log
    assert engine.start().client().count("kept").count == 1


def test_a_stopping_engine_waits_for_no_thread_that_has_nothing_to_do(make_engine: StartEngine) -> None:
    engine = make_engine().start()
    with engine.http() as http:
        http.put("/collections/a", json={"vectors": VECTORS}).raise_for_status()
        points = {"points": [point(i) for i in range(100)]}
        http.put("/collections/a/points?wait=true", json=points).raise_for_status()
        searches = {"searches": [{"query": point(i)["vector"]} for i in range(100)]}
        http.post("/collections/a/points/query/batch", json=searches).raise_for_status()
    assert engine.stop() == 0
    assert "does not end" not in engine.log


def test_a_stopping_engine_is_first_unready_and_answers_what_is_in_flight(make_engine: StartEngine) -> None:
    engine = make_engine().start()
    with engine.http() as http:
        http.put("/collections/busy", json={"vectors": VECTORS})
    load = Load(engine)
    load.wait_for(acknowledged=20)

    engine.signal(signal.SIGTERM)
    with engine.http() as http:
        engine.wait_until(lambda: http.get("/readyz").status_code == 503, "unready")
        assert http.get("/livez").status_code == 200
        assert http.get("/collections").headers["connection"] == "close"
    assert engine.wait(10) == 0

    load.finish()
    assert load.failures == [], "a request that was sent was not answered"
    assert load.told_to_leave == 4
    with engine.start().http() as http:
        stored = http.post("/collections/busy/points/scroll", json={"limit": 100_000}).json()["result"]
    assert {record["id"] for record in stored["points"]} == load.acknowledged


def test_a_second_signal_ends_the_engine_without_waiting_for_load_balancers(make_engine: StartEngine) -> None:
    engine = make_engine().start()
    engine.signal(signal.SIGINT)
    assert engine.wait() == 0


def test_many_clients_write_and_read_at_once(make_engine: StartEngine) -> None:
    engine = make_engine().start()
    engine.client().create_collection("many", models.VectorParams(size=8, distance=models.Distance.DOT))

    def work(worker: int) -> None:
        client = engine.client()
        for i in range(worker * 100, worker * 100 + 100, 10):
            client.upsert("many", [models.PointStruct(**point(j)) for j in range(i, i + 10)])
            found = client.query_points("many", query=[1.0] * 8, limit=5, with_payload=True).points
            assert len(found) == 5
            assert client.retrieve("many", [i])[0].payload == {"version": 0}
            client.delete("many", [i])

    with ThreadPoolExecutor(8) as workers:
        list(workers.map(work, range(8)))

    assert engine.client().count("many").count == 8 * 90


def test_large_requests_leave_no_memory_behind(make_engine: StartEngine) -> None:
    engine = make_engine({"server": {"request_memory_bytes": "32Mi"}}).start()
    vectors = [[float(i)] * 512 for i in range(4000)]
    batch = json.dumps({"batch": {"ids": list(range(4000)), "vectors": vectors}}).encode()
    assert len(batch) > 10_000_000

    def send(collection: str) -> int:
        with engine.http() as http:
            # On a busy machine, one may wait in vain for the memory that the others have.
            while (status := http.put(f"/collections/{collection}/points", content=batch).status_code) == 429:
                pass
            return status

    with engine.http() as http, ThreadPoolExecutor(6) as senders:
        http.put("/collections/large", json={"vectors": {"size": 512, "distance": "Dot"}})
        before = anonymous_bytes(http)
        assert set(senders.map(send, ["large"] * 6)) == {200}
        assert set(senders.map(send, ["nowhere"] * 6)) == {404}
        assert http.post(
            "/collections/large/points/scroll", json={"limit": 4000, "with_vector": True}
        ).is_success
        assert anonymous_bytes(http) - before < 30_000_000


def anonymous_bytes(http: httpx.Client) -> int:
    figure: int = http.get("/cluster/memory").json()["result"]["anonymous_rss_bytes"]
    return figure


class Load:
    """Writers, each upserting one point after the other on a connection that stays, until the engine closes it."""

    def __init__(self, engine: EngineProcess, *, writers: int = 4) -> None:
        self.acknowledged: set[int] = set()
        self.failures: list[Exception] = []
        self.told_to_leave = 0
        self._engine = engine
        self._progress = threading.Condition()
        self._threads = [
            threading.Thread(target=self._write, args=(range(n, 1_000_000, writers),)) for n in range(writers)
        ]
        for thread in self._threads:
            thread.start()

    def wait_for(self, *, acknowledged: int) -> None:
        with self._progress:
            enough = self._progress.wait_for(lambda: len(self.acknowledged) >= acknowledged, 30)
        assert enough, (self.failures, self._engine.log)

    def finish(self) -> None:
        for thread in self._threads:
            thread.join(30)

    def _write(self, numbers: range) -> None:
        with httpx.Client(base_url=self._engine.url, timeout=60) as http:
            for number in numbers:
                try:
                    answer = http.put("/collections/busy/points", json={"points": [point(number)]})
                    answer.raise_for_status()
                except Exception as error:  # noqa: BLE001
                    self.failures.append(error)
                    return
                with self._progress:
                    self.acknowledged.add(number)
                    self._progress.notify_all()
                    if answer.headers.get("connection") == "close":
                        self.told_to_leave += 1
                        return
