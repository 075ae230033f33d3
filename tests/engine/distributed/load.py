"""Clients that write and read without pause, and keep what each pod answered them."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from tests.engine.distributed.clients import Clients
from tests.engine.fixtures import EngineProcess


@dataclass
class Outcome:
    """What came of a run: seconds that reads and writes took, what failed, and the last value of each point."""

    reads: list[float] = field(default_factory=list)
    writes: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    written: dict[int, int] = field(default_factory=dict)

    @staticmethod
    def percentile(seconds: list[float], percent: float) -> float:
        return float(np.percentile(seconds, percent))


class Load(Clients):
    """Threads that upsert points of their own and search, each request through another of the *pods* that are open.

    As a Service does, a request goes only to pods that are ready, and goes to another one where the connection is
    refused: `pods` may be changed at any time.
    """

    def __init__(
        self, pods: Sequence[EngineProcess], collection: str, *, dimension: int, threads: int = 3
    ) -> None:
        super().__init__(threads)
        self.pods = list(pods)
        self.outcome = Outcome()
        self._collection = collection
        self._dimension = dimension
        self._step = threads

    def settle(self) -> Outcome:
        """Begin to measure anew; what was written is kept. Returns what was measured so far."""
        before = self.outcome
        self.outcome = Outcome(written=before.written)
        return before

    def _run(self, number: int) -> None:
        chosen = random.Random(number)
        vectors = np.random.default_rng(number)
        value = 0
        with httpx.Client(timeout=60) as client:
            while not self._stop.is_set():
                point = number + self._step * chosen.randrange(200)
                value += 1
                vector = vectors.normal(size=self._dimension).tolist()
                body = {"points": [{"id": point, "vector": vector, "payload": {"value": value}}]}
                if self._ask(client, chosen, "PUT", "?wait=true", body, self.outcome.writes) is not None:
                    self.outcome.written[point] = value
                query = {"query": vector, "limit": 5}
                self._ask(client, chosen, "POST", "/query", query, self.outcome.reads)
                found = self._ask(client, chosen, "POST", "", {"ids": [point]}, self.outcome.reads)
                expected = self.outcome.written.get(point)
                if found is not None and expected is not None:
                    values = [each["payload"]["value"] for each in found["result"]]
                    if values != [expected]:
                        self.outcome.failures.append(f"point {point} has {values}, expected {expected}")

    def _ask(
        self,
        client: httpx.Client,
        chosen: random.Random,
        method: str,
        path: str,
        body: dict[str, Any],
        seconds: list[float],
    ) -> Any:
        while True:
            pod = chosen.choice(self.pods)
            url = f"{pod.url}/collections/{self._collection}/points{path}"
            began = time.perf_counter()
            try:
                answer = client.request(method, url, json=body)
            except httpx.ConnectError:
                continue
            except httpx.TransportError as error:
                self.outcome.failures.append(f"{method} {path} to {url}: {error!r}")
                return None
            seconds.append(time.perf_counter() - began)
            if answer.status_code != 200:
                self.outcome.failures.append(f"{method} {path} to {url}: {answer.text}")
                return None
            return answer.json()
