"""kill -9 at random moments: every acknowledged write is there, nothing that was deleted comes back.

Proves recovery, not fsync: the page cache survives the process. For fsync see the disk that forgets.
VECTORIZER_CRASH_KILLS sets the number of kills (`make crash` uses more).
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tests.crash.writer import NAME, Operation, open_folder, operation, vector

KILLS = int(os.environ.get("VECTORIZER_CRASH_KILLS", "30"))
WRITES_A_KILL = 334
THREADS = 4


class History:
    """What one thread of the writer did: the operations that were acknowledged, and perhaps one more."""

    def __init__(self, thread: int) -> None:
        self.thread = thread
        self.next = 0
        self.points: dict[int, int] = {}

    def carry_out(self, step: Operation, points: dict[int, int]) -> dict[int, int]:
        changed = dict(points)
        for point in step.ids:
            if step.deletes:
                changed.pop(point, None)
            else:
                changed[point] = step.number
        return changed

    def acknowledge(self, number: int) -> None:
        assert number == self.next
        self.points = self.carry_out(operation(self.thread, number), self.points)
        self.next += 1

    def settle(self, found: dict[int, int]) -> None:
        """Hold what was found against what was acknowledged; the operation under way may have been done."""
        if found == self.points:
            return
        done = self.carry_out(operation(self.thread, self.next), self.points)
        assert found == done, f"thread {self.thread} after operation {self.next - 1}"
        self.points = done
        self.next += 1


def write_and_kill(folder: Path, histories: list[History], rng: random.Random) -> int:
    """Run the writer, kill it, and take note of what it acknowledged. Returns how many writes that were."""
    starts = [str(history.next) for history in histories]
    # A process that is killed tells nothing about its coverage, and writes slower while it is measured.
    uncovered = {name: setting for name, setting in os.environ.items() if not name.startswith("COV")}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.crash.writer", str(folder), *starts],
        stdout=subprocess.PIPE,
        env=uncovered,
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


def read_back(folder: Path) -> dict[int, dict[int, int]]:
    """The points found, by thread: id and the number of the operation that wrote it."""
    store, collection = open_folder(folder)
    try:
        assert store.damaged == {}
        assert collection.info().problems == ()
        assert {found.name for found in store.collections()} <= {NAME, "passing"}
        records, following = collection.scroll(limit=10_000, with_vector=True)
        assert following is None
        points: dict[int, dict[int, int]] = {thread: {} for thread in range(THREADS)}
        for record in records:
            assert isinstance(record.id, int)
            assert record.payload is not None
            assert record.vector is not None
            number = record.payload["number"]
            np.testing.assert_array_equal(record.vector, vector(number))
            points[record.id // 1000][record.id] = number
        return points
    finally:
        store.close()


def test_every_acknowledged_write_survives_kill_9(tmp_path: Path) -> None:
    rng = random.Random(4)
    histories = [History(thread) for thread in range(THREADS)]
    acknowledged = 0
    kills = 0
    while kills < KILLS or acknowledged < KILLS * WRITES_A_KILL:
        acknowledged += write_and_kill(tmp_path, histories, rng)
        kills += 1
        found = read_back(tmp_path)
        for history in histories:
            history.settle(found[history.thread])
    print(f"{kills} kills, {acknowledged} acknowledged writes, none lost")  # noqa: T201 - the figure of the run
