"""Clocks that are set, and clocks that differ: real engines, whose time of day the test decides.

What they do not decide by it is looked for in the sources: `test_clock.py`.
"""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from hatch_build import compiler

from tests.engine.distributed.pods import Pods
from tests.engine.fixtures import EngineProcess, running_engine

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the clock is preloaded as on Linux")

SOURCE = Path(__file__).with_name("settable_clock.cpp")
YEAR = 365 * 24 * 3600
JUMPS = [10 * YEAR, -20 * YEAR, 1, -1, 0]
"""By how many seconds a clock is ahead, one after the other."""

MOST_PROCESSES = 1 << 22


class Clocks:
    """The time of day of processes that are started with this `environment`."""

    def __init__(self, folder: Path) -> None:
        library, self._file = folder / "clock.so", folder / "clocks"
        subprocess.run([*compiler(), "-O1", "-shared", "-fPIC", SOURCE, "-o", library], check=True)
        with self._file.open("wb") as file:
            file.truncate(8 * MOST_PROCESSES)
        self.environment: Mapping[str, str] = {"LD_PRELOAD": str(library), "SETTABLE_CLOCK": str(self._file)}

    def set(self, engine: EngineProcess, ahead: int) -> None:
        """Have its clock be so many seconds ahead of this process'."""
        with self._file.open("r+b") as file:
            file.seek(8 * engine.pid)
            file.write(struct.pack("<q", ahead))


@pytest.fixture(scope="module")
def clocks(tmp_path_factory: pytest.TempPathFactory) -> Clocks:
    return Clocks(tmp_path_factory.mktemp("clocks"))


def years_in(log: str) -> set[int]:
    return {int(year) for year in re.findall(r"^(\d{4})-\d\d-\d\dT", log, re.MULTILINE)}


def write(http: httpx.Client, numbers: Iterator[int], count: int = 20) -> list[int]:
    points = [{"id": next(numbers), "vector": [1.0, n]} for n in range(count)]
    http.put("/collections/c/points?wait=true", json={"points": points}).raise_for_status()
    return [point["id"] for point in points]


def stored(http: httpx.Client) -> list[int]:
    """All ids, and that a search finds as many."""
    body: dict[str, Any] = {"limit": 10_000}
    points = (
        http.post("/collections/c/points/scroll", json=body).raise_for_status().json()["result"]["points"]
    )
    found = http.post("/collections/c/points/query", json={"query": [1.0, 0.0], **body}).raise_for_status()
    assert len(found.json()["result"]["points"]) == len(points)
    return [point["id"] for point in points]


def test_an_engine_whose_clock_is_set_goes_on_as_before(tmp_path: Path, clocks: Clocks) -> None:
    this_year = datetime.now(UTC).year
    with running_engine(tmp_path, environment=clocks.environment) as engine:
        numbers = iter(range(10_000))
        written: list[int] = []
        with engine.http() as http:
            http.put("/collections/c", json={"vectors": {"size": 2, "distance": "Dot"}}).raise_for_status()
            for jump in JUMPS:
                clocks.set(engine, jump)
                written += write(http, numbers)
                assert stored(http) == written
        clocks.set(engine, 10 * YEAR)
        assert engine.stop() == 0
        engine.start()  # earlier than what was written, by its own clock
        clocks.set(engine, -20 * YEAR)
        with engine.http() as http:
            written += write(http, numbers)
            assert stored(http) == written
        engine.kill()
        engine.start()
        with engine.http() as http:
            assert stored(http) == written
        assert max(years_in(engine.log)) > this_year + 8, "the clock was set, as its log shows"


def test_pods_whose_clocks_differ_and_are_set_lose_nothing_and_serve_nothing_old(
    tmp_path: Path, clocks: Clocks
) -> None:
    pods = Pods(tmp_path, 3, environment=clocks.environment)
    try:
        pods.launch()
        for engine, ahead in zip(pods.engines, (0, 5 * YEAR, -5 * YEAR), strict=True):
            clocks.set(engine, ahead)
        pods.publish(0, 1, 2)
        pods.wait_until_ready()
        numbers = iter(range(10_000))
        written: list[int] = []
        with pods[0].http() as http:
            params = {"vectors": {"size": 2, "distance": "Dot"}, "shard_number": 4, "replication_factor": 2}
            http.put("/collections/c", json=params).raise_for_status()
        for turn, jump in enumerate(JUMPS):
            clocks.set(pods[turn % 3], jump)
            for engine in pods.engines:
                with engine.http() as http:
                    written += write(http, numbers, 5)
            for engine in pods.engines:
                with engine.http() as http:
                    assert stored(http) == written
        pods[2].kill()
        clocks.set(pods[0], -20 * YEAR)
        clocks.set(pods[1], 10 * YEAR)
        pods.publish(0, 1)
        pods.wait_until_ready(0, 1)
        for number in (0, 1):
            with pods[number].http() as http:
                written += write(http, numbers)
                assert stored(http) == written
        for engine in pods.engines:
            assert "Traceback" not in engine.log
    finally:
        pods.close()
