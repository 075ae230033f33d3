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

import httpx

from tests.crash.test_kill import THREADS, History
from tests.crash.writer import BATCH, DIMENSION, NAME, operation, vector
from tests.engine.fixtures import EngineProcess

KILLS = int(os.environ.get("VECTORIZER_CRASH_KILLS", "5"))
WRITES_A_KILL = 200
POINTS = f"/collections/{NAME}/points"


class Writers:
    """One client for each history, writing until the engine is gone."""

    def __init__(self, engine: EngineProcess, histories: list[History], *, kill_at: int) -> None:
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

    def _write(self, history: History) -> None:
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


def send(http: httpx.Client, history: History) -> httpx.Response:
    """The next operation of *history*. Every other one does not wait until it can be read."""
    number = history.next
    step = operation(history.thread, number)
    wait = {"wait": "true" if number % 2 else "false"}
    if step.deletes:
        return http.post(f"{POINTS}/delete", params=wait, json={"points": step.ids})
    columns = {
        "ids": step.ids,
        "vectors": [vector(number).tolist()] * BATCH,
        "payloads": [{"number": number}] * BATCH,
    }
    return http.put(POINTS, params=wait, json={"batch": columns})


def read_back(engine: EngineProcess) -> dict[int, dict[int, int]]:
    """The points found, by thread: id and the number of the operation that wrote it."""
    points: dict[int, dict[int, int]] = {thread: {} for thread in range(THREADS)}
    with engine.http() as http:
        everything = {"limit": 10_000, "with_vector": True}
        result = http.post(f"{POINTS}/scroll", json=everything).json()["result"]
        count = http.post(f"{POINTS}/count", json={}).json()["result"]["count"]
    assert count == len(result["points"])
    for record in result["points"]:
        number = record["payload"]["number"]
        assert record["vector"] == vector(number).tolist()
        points[record["id"] // 1000][record["id"]] = number
    return points


def test_every_write_acknowledged_over_http_survives_kill_9(tmp_path: Path) -> None:
    rng = random.Random(5)
    histories = [History(thread) for thread in range(THREADS)]
    engine = EngineProcess(tmp_path)
    acknowledged = 0
    try:
        engine.start()
        with engine.http() as http:
            params = {"size": DIMENSION, "distance": "Euclid"}
            http.put(f"/collections/{NAME}", json={"vectors": params}).raise_for_status()
        for _ in range(KILLS):
            acknowledged += Writers(engine, histories, kill_at=rng.randint(1, 2 * WRITES_A_KILL)).run()
            assert engine.wait() == -signal.SIGKILL
            found = read_back(engine.start())
            for history in histories:
                history.settle(found[history.thread])
    finally:
        engine.close()
    print(f"{KILLS} kills, {acknowledged} writes acknowledged over HTTP, none lost")  # noqa: T201 - the figure of the run
