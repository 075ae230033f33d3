"""What clients did to points and what they were told, and whether that can have been one register for each point.

The verdict is porcupine's (see `linearizable/main.go`). A write whose answer does not say whether it was done may take
effect at any later time, or never.
"""

from __future__ import annotations

import json
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import httpx

from tests.engine.distributed.clients import Clients
from tests.engine.fixtures import EngineProcess
from tests.kube import binaries

ABSENT = 0
"""The value of a point that is not there."""

TIMEOUT_SECONDS = 20.0


class Operation(NamedTuple):
    """*end* None: nobody knows whether it was done, or will be. Times are nanoseconds of one clock."""

    point: int
    client: int
    writes: bool
    value: int
    call: int
    end: int | None


class History(Clients):
    """Clients that write, delete and read points one by one, each time through any of the *pods*."""

    def __init__(
        self, pods: Sequence[EngineProcess], collection: str, *, points: int, clients: int, seed: int
    ) -> None:
        super().__init__(clients)
        self.operations: list[Operation] = []
        self.outcomes: Counter[str] = Counter()
        self._pods = pods
        self._url = f"/collections/{collection}/points"
        self._points = points
        self._values = iter(range(1, 10**9))
        self._lock = threading.Lock()
        self._seed = seed

    def anomalies(self) -> list[str]:
        """The points whose operations have no order in which each reader saw the last write, with what was done."""
        lines = "".join(
            json.dumps(
                {
                    "point": str(each.point),
                    "client": each.client,
                    "writes": each.writes,
                    "value": each.value,
                    "call": each.call,
                    "return": each.end,
                }
            )
            + "\n"
            for each in self.operations
        )
        program = binaries.find("linearizable")
        verdicts = subprocess.run([program], input=lines, capture_output=True, text=True, check=True).stdout
        return [self._told(**json.loads(line)) for line in verdicts.splitlines()]

    def _told(self, point: str, verdict: str) -> str:
        done = sorted(
            (each for each in self.operations if str(each.point) == point), key=lambda each: each.call
        )
        return f"point {point}: {verdict}\n" + "\n".join(map(str, done))

    def _run(self, number: int) -> None:
        chosen = random.Random(f"{self._seed} {number}")
        with httpx.Client(timeout=TIMEOUT_SECONDS, verify=False) as http:
            while not self._stop.is_set():
                point = chosen.randrange(self._points)
                url = chosen.choice(self._pods).url + self._url
                kind = chosen.choices(("upsert", "delete", "read"), (4, 1, 5))[0]
                with self._lock:
                    value = next(self._values) if kind == "upsert" else ABSENT
                call = time.monotonic_ns()
                try:
                    answer = _REQUESTS[kind](http, url, point, value)
                except httpx.ConnectError:
                    self._note("refused")
                    time.sleep(0.02)
                    continue
                except httpx.TransportError as error:
                    self._note(type(error).__name__)
                    if kind != "read":
                        self.operations.append(Operation(point, number, True, value, call, None))
                    continue
                end = time.monotonic_ns()
                self._note(str(answer.status_code))
                if answer.status_code == 503:
                    continue  # which says that nothing was done
                if kind != "read":
                    known = answer.status_code == 200
                    self.operations.append(
                        Operation(point, number, True, value, call, end if known else None)
                    )
                elif answer.status_code == 200:
                    found = [each["payload"]["value"] for each in answer.json()["result"]]
                    value = found[0] if found else ABSENT
                    self.operations.append(Operation(point, number, False, value, call, end))

    def _note(self, outcome: str) -> None:
        with self._lock:
            self.outcomes[outcome] += 1


def _upsert(http: httpx.Client, url: str, point: int, value: int) -> httpx.Response:
    body = {"points": [{"id": point, "vector": [1.0, 2.0], "payload": {"value": value}}]}
    return http.put(f"{url}?wait=true", json=body)


def _delete(http: httpx.Client, url: str, point: int, value: int) -> httpx.Response:
    return http.post(f"{url}/delete?wait=true", json={"points": [point]})


def _read(http: httpx.Client, url: str, point: int, value: int) -> httpx.Response:
    return http.post(url, json={"ids": [point]})


_REQUESTS: dict[str, Callable[[httpx.Client, str, int, int], httpx.Response]] = {
    "upsert": _upsert,
    "delete": _delete,
    "read": _read,
}
