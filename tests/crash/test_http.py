"""kill -9 of a serving engine while clients write over HTTP: nothing acknowledged is lost, nothing comes back.

What is held against what is `test_kill`'s; here the acknowledgement is an HTTP answer, as a user sees it.
VECTORIZER_CRASH_KILLS sets the number of kills.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from tests.crash.history import THREADS, History, PassingHistory, Point, Points
from tests.crash.writer import DIMENSION, NAME, PASSING, Kind, Step, operation, step, vector
from tests.engine.fixtures import EngineProcess

KILLS = int(os.environ.get("VECTORIZER_CRASH_KILLS", "5"))
WRITES_A_KILL = 200
POINTS = f"/collections/{NAME}/points"
PARAMS = {"vectors": {"size": DIMENSION, "distance": "Euclid"}}


class Writers:
    """One client for each history, writing until the engine is gone."""

    def __init__(
        self, engine: EngineProcess, histories: list[History | PassingHistory], *, kill_at: int
    ) -> None:
        self._engine = engine
        self._kill_at = kill_at
        self._lock = threading.Lock()
        self._seen = 0
        self._threads = [threading.Thread(target=self._write, args=(history,)) for history in histories]

    def run(self) -> int:
        """How many writes were acknowledged before the kill."""
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join()
        assert self._seen >= self._kill_at, self._engine.log
        return self._seen

    def _write(self, history: History | PassingHistory) -> None:
        pause = random.Random(history.next).random() * 0.003
        with httpx.Client(base_url=self._engine.url, timeout=60) as http:
            while True:
                try:
                    send(http, history).raise_for_status()
                except httpx.TransportError:
                    return
                history.acknowledge(history.next)
                with self._lock:
                    self._seen += 1
                    last = self._seen == self._kill_at
                if last:
                    time.sleep(pause)  # so that it does not die at an acknowledgement
                    self._engine.signal(signal.SIGKILL)


def send(http: httpx.Client, history: History | PassingHistory) -> httpx.Response:
    """The next operation of *history*. Every other one does not wait until it can be read."""
    number = history.next
    wait = {"wait": "true" if number % 2 else "false"}
    if isinstance(history, PassingHistory):
        match step(number):
            case Step.CREATE:
                return http.put(f"/collections/{PASSING}", json=PARAMS)
            case Step.FILL:
                return http.put(f"/collections/{PASSING}/points", params=wait, json=columns([0], number))
            case Step.DELETE:
                return http.delete(f"/collections/{PASSING}")
    ids, _, kind = operation(history.thread, number)
    match kind:
        case Kind.UPSERT:
            return http.put(POINTS, params=wait, json=columns(ids, number))
        case Kind.DELETE:
            return http.post(f"{POINTS}/delete", params=wait, json={"points": ids})
        case Kind.MARK:
            change = {"payload": {"mark": number}, "filter": {"must": [{"has_id": ids}]}}
            return http.post(f"{POINTS}/payload", params=wait, json=change)


def columns(ids: list[int], number: int) -> dict[str, Any]:
    count = len(ids)
    vectors, payloads = [vector(number).tolist()] * count, [{"number": number}] * count
    return {"batch": {"ids": ids, "vectors": vectors, "payloads": payloads}}


def read_back(engine: EngineProcess) -> tuple[list[Points], list[int] | None]:
    """The points found, by thread, and the numbers in the collection that comes and goes, if it is there."""
    points: list[Points] = [{} for _ in range(THREADS)]
    with engine.http() as http:
        for point, found in contents(http, NAME).items():
            points[point // 1000][point] = found
        if http.get(f"/collections/{PASSING}").status_code == 404:
            return points, None
        return points, [found.number for found in contents(http, PASSING).values()]


def contents(http: httpx.Client, name: str) -> Points:
    everything = {"limit": 10_000, "with_vector": True}
    records = http.post(f"/collections/{name}/points/scroll", json=everything).json()["result"]["points"]
    count = http.post(f"/collections/{name}/points/count", json={}).json()["result"]["count"]
    assert count == len(records)
    points: Points = {}
    for record in records:
        points[record["id"]] = Point(**record["payload"])
        assert record["vector"] == vector(points[record["id"]].number).tolist()
    return points


def test_every_write_acknowledged_over_http_survives_kill_9(tmp_path: Path) -> None:
    rng = random.Random(5)
    histories = [History(thread) for thread in range(THREADS)]
    passing = PassingHistory()
    engine = EngineProcess(tmp_path)
    acknowledged = 0
    try:
        engine.start()
        with engine.http() as http:
            http.put(f"/collections/{NAME}", json=PARAMS).raise_for_status()
        for _ in range(KILLS):
            writers = Writers(engine, [*histories, passing], kill_at=rng.randint(1, 2 * WRITES_A_KILL))
            acknowledged += writers.run()
            assert engine.wait() == -signal.SIGKILL
            found, passed = read_back(engine.start())
            for history in histories:
                history.settle(found[history.thread])
            passing.settle(passed)
    finally:
        engine.close()
    print(f"{KILLS} kills, {acknowledged} writes acknowledged over HTTP, none lost")  # noqa: T201 - the figure of the run
