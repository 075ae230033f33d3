"""kill -9 at random moments: every acknowledged write is there, nothing that was deleted comes back.

Proves recovery, not fsync: the page cache survives the process. For fsync see the disk that forgets.
VECTORIZER_CRASH_KILLS sets the number of kills, VECTORIZER_CRASH_WRITES how many writes there are to a kill
(`make crash` uses more of both).
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tests.crash.history import THREADS, History, PassingHistory, Point, Points
from tests.crash.writer import NAME, PASSING, open_folder, vector
from tests.engine.children import uncovered
from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.filters import compile_filter

KILLS = int(os.environ.get("VECTORIZER_CRASH_KILLS", "30"))
WRITES_A_KILL = int(os.environ.get("VECTORIZER_CRASH_WRITES", "334"))

MIDDLE = WRITES_A_KILL * KILLS // THREADS // 2
LATER = compile_filter({"must": [{"key": "number", "range": {"gte": MIDDLE}}]})
"""A filter that the payload index answers, and that takes some of the points as long as the writers go on."""


def write_and_kill(folder: Path, histories: list[History | PassingHistory], rng: random.Random) -> int:
    """Run the writer, kill it, and take note of what it acknowledged. Returns how many writes that were."""
    starts = [str(history.next) for history in histories]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.crash.writer", str(folder), *starts],
        stdout=subprocess.PIPE,
        env=uncovered(),  # a process that is killed tells nothing about its coverage
    ) as process:
        assert process.stdout is not None
        seen = 0
        kill_at = rng.randint(1, 2 * WRITES_A_KILL)
        for line in process.stdout:
            thread, number = map(int, line.split())
            histories[thread].acknowledge(number)
            seen += 1
            if seen == kill_at:
                time.sleep(rng.random() * 0.003)  # so that it does not die at an acknowledgement
                process.kill()
        process.wait()
    assert seen >= kill_at, "the writer ended by itself"
    return seen


def read_back(folder: Path) -> tuple[list[Points], list[int] | None]:
    """The points found, by thread, and the numbers in the collection that comes and goes, if it is there."""
    store, collection = open_folder(folder)
    try:
        assert store.damaged == {}
        names = {found.name for found in store.collections()}
        assert names <= {NAME, PASSING}
        points: list[Points] = [{} for _ in range(THREADS)]
        stored = contents(collection)
        for point, found in stored.items():
            points[point // 1000][point] = found
        assert collection.count(LATER) == sum(found.number >= MIDDLE for found in stored.values())
        if PASSING not in names:
            return points, None
        return points, [found.number for found in contents(store.collection(PASSING)).values()]
    finally:
        store.close()


def contents(collection: Collection) -> Points:
    assert collection.info().problems == ()
    records, following = collection.scroll(limit=10_000)
    assert following is None
    points: Points = {}
    for record in records:
        assert isinstance(record.id, int)
        assert record.payload is not None
        assert record.vector is not None
        points[record.id] = Point(**record.payload)
        np.testing.assert_array_equal(record.vector, vector(points[record.id].number))
    return points


def test_every_acknowledged_write_survives_kill_9(tmp_path: Path) -> None:
    rng = random.Random(4)
    histories = [History(thread) for thread in range(THREADS)]
    passing = PassingHistory()
    acknowledged = 0
    kills = 0
    while kills < KILLS or acknowledged < KILLS * WRITES_A_KILL:
        acknowledged += write_and_kill(tmp_path, [*histories, passing], rng)
        kills += 1
        found, passed = read_back(tmp_path)
        for history in histories:
            history.settle(found[history.thread])
        passing.settle(passed)
    print(f"{kills} kills, {acknowledged} acknowledged writes, none lost")  # noqa: T201 - the figure of the run
