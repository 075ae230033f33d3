"""Histories of clients, taken while pods are killed, frozen and told different things, are linearizable for each point.

The long form: VECTORIZER_HISTORY_SECONDS=3600 VECTORIZER_HISTORY_SEED=1 python -m pytest -s --timeout=0 FILE
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.engine.distributed.history import ABSENT, History, Operation
from tests.engine.distributed.pods import Pods
from tests.kube.eventually import eventually

SECONDS = float(os.environ.get("VECTORIZER_HISTORY_SECONDS", "0"))
"""0: each fault once."""

SEED = int(os.environ.get("VECTORIZER_HISTORY_SEED", "7"))

NOWHERE = [{"name": "nobody", "address": "127.0.0.1:1"}]
"""Members before that nobody reaches, so that pods which are told so do not ask those that they knew."""


class Nemesis:
    """What goes wrong. Afterwards all pods run, and know of each other."""

    def __init__(self, pods: Pods, chosen: random.Random) -> None:
        self._pods = pods
        self._chosen = chosen
        self.faults = [self.kill, self.freeze, self.freeze_unnoticed, self.split, self.scale, self.kill_all]

    def kill(self) -> None:
        victim, *others = self._drawn()
        self._pods[victim].kill()
        self._pods.publish(*others)
        self._wait()
        self._pods.launch(victim)

    def kill_all(self) -> None:
        for each in self._drawn():
            self._pods[each].kill()
        self._pods.launch()

    def freeze(self) -> None:
        """Past its replacement."""
        victim, *others = self._drawn()
        self._pods[victim].signal(signal.SIGSTOP)
        self._pods.publish(*others)
        self._wait()
        self._pods[victim].signal(signal.SIGCONT)
        self._wait()

    def freeze_unnoticed(self) -> None:
        victim = self._drawn()[0]
        self._pods[victim].signal(signal.SIGSTOP)
        self._wait()
        self._pods[victim].signal(signal.SIGCONT)

    def split(self) -> None:
        """Two topologies at once, and no way from one side to the other but through the store."""
        alone, *others = self._drawn()
        self._pods.publish(alone, previous=NOWHERE)
        self._pods.publish(*others, previous=NOWHERE)
        self._wait()

    def scale(self) -> None:
        _, *others = self._drawn()
        self._pods.publish(*others, to=range(3))
        self._wait()

    def mend(self) -> None:
        self._pods.publish(0, 1, 2)
        time.sleep(0.3)

    def _drawn(self) -> list[int]:
        return self._chosen.sample(range(3), 3)

    def _wait(self) -> None:
        time.sleep(self._chosen.uniform(0.3, 1.6))


@pytest.mark.timeout(SECONDS + 300)
def test_every_point_is_a_register_whatever_happens_to_the_pods(tmp_path: Path) -> None:
    chosen = random.Random(SEED)
    # What is asked of them is speed, and most of them are killed: their coverage is not measured.
    pods = Pods(tmp_path, 3)
    try:
        pods.launch()
        pods.publish(0, 1, 2)
        pods.wait_until_ready()
        with pods[0].http() as http:
            params = {"vectors": {"size": 2, "distance": "Dot"}, "shard_number": 4, "replication_factor": 2}
            assert http.put("/collections/c", json=params).status_code == 200
        nemesis = Nemesis(pods, chosen)
        with History(pods.engines, "c", points=16, clients=5, seed=SEED) as history:
            deadline = time.monotonic() + SECONDS
            while True:
                for fault in chosen.sample(nemesis.faults, len(nemesis.faults)):
                    fault()
                    nemesis.mend()
                if time.monotonic() >= deadline:
                    break
        for engine in pods.engines:
            with engine.http() as http:
                eventually(lambda http=http: _all(http, {"consistency": "1"}) == _all(http, {}))  # type: ignore[misc]
        print(f"{len(history.operations)} operations, answers: {dict(history.outcomes)}")  # noqa: T201 - the figures of the run
        assert history.outcomes["200"] > 100
        assert history.anomalies() == []
        for engine in pods.engines:
            assert "this is a bug" not in engine.log, engine.log
            assert "Traceback" not in engine.log, engine.log
    finally:
        pods.close()


def _all(http: httpx.Client, parameters: dict[str, str]) -> Any:
    """All points, from whatever copies answer for them."""
    body = {"limit": 100, "with_vector": True}
    answer = http.post("/collections/c/points/scroll", params=parameters, json=body)
    return answer.raise_for_status().json()["result"]["points"]


def test_the_judge_of_histories_finds_what_is_wrong() -> None:
    history = History([], "c", points=2, clients=0, seed=0)
    history.operations = [
        Operation(0, 0, True, 1, call=0, end=10),
        Operation(0, 0, True, 2, call=20, end=None),
        Operation(0, 1, False, 2, call=30, end=40),
        Operation(0, 1, False, ABSENT, call=50, end=60),  # nobody has deleted it
        Operation(1, 0, True, 3, call=0, end=10),
        Operation(1, 0, True, 4, call=20, end=None),
        Operation(1, 1, False, 3, call=30, end=40),
        Operation(1, 1, False, 4, call=50, end=60),
    ]
    (anomaly,) = history.anomalies()
    assert anomaly.startswith("point 0: Illegal\n")
