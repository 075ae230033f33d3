"""Which key is worked next, and when: a pure data structure, told the time, that the queue drives.

What must stay true, whatever the order of calls:
- a key is never worked twice at once;
- an `add` while its key is worked leads to one more round after it, and many adds to just one;
- a key that failed waits twice as long as after its last failure, up to `LONGEST_BACKOFF`, unless something
  happened to it (`add`): an edit is worked at once, and still counts what failed before it;
- between the rounds of a key there is a short rest, in which the events that a round itself brings about gather, and
  which keeps somebody who undoes our changes as fast as we make them from keeping us busy;
- a key with nothing to do is forgotten.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable
from typing import Generic, TypeVar

FIRST_BACKOFF = 0.1
LONGEST_BACKOFF = 60.0
REST = 0.1

K = TypeVar("K", bound=Hashable)


class Schedule(Generic[K]):
    """Keys and when each is due. Times are seconds on the caller's monotonic clock."""

    def __init__(self) -> None:
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []  # has an entry for every (key, due), and outdated ones
        self._order = itertools.count()
        self._working: dict[K, float] = {}
        self._failures: dict[K, int] = {}
        self._resting: dict[K, float] = {}

    def add(self, key: K, now: float, *, after: float = 0.0) -> None:
        """Something happened to *key*: it is due *after* seconds from now, or sooner if it was already."""
        due = max(now + after, self._resting.get(key, now))
        if key not in self._due or due < self._due[key]:
            self._due[key] = due
            heapq.heappush(self._heap, (due, next(self._order), key))

    def take(self, now: float) -> K | None:
        """The key that has been due the longest, now being worked, or None if none is due."""
        held_back = []
        taken = None
        while self._heap and self._heap[0][0] <= now:
            entry = heapq.heappop(self._heap)
            due, _, key = entry
            if self._due.get(key) != due:
                continue
            if key in self._working:
                held_back.append(entry)
                continue
            del self._due[key]
            self._resting.pop(key, None)
            self._working[key] = now
            taken = key
            break
        for entry in held_back:
            heapq.heappush(self._heap, entry)
        return taken

    def done(self, key: K, now: float, *, again_after: float | None = None) -> None:
        """The round of *key* went well; it wants another one *again_after* seconds, if given."""
        del self._working[key]
        self._failures.pop(key, None)
        self._rest(key, now)
        if again_after is not None:
            self.add(key, now, after=again_after)
        if key not in self._due:
            del self._resting[key]

    def failed(self, key: K, now: float, *, retry_after: float | None = None) -> float:
        """The round of *key* failed. Returns the seconds until it is tried again, if nothing happens before."""
        del self._working[key]
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        self._rest(key, now)
        delay = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(failures, 32))
        delay = max(delay, retry_after or 0.0)
        self.add(key, now, after=delay)
        return delay

    def _rest(self, key: K, now: float) -> None:
        self._resting[key] = now + REST
        if (due := self._due.pop(key, None)) is not None:
            self.add(key, now, after=max(0.0, due - now))

    def interrupted(self, key: K, now: float) -> None:
        """The round of *key* was stopped from outside: whoever works next starts with it."""
        del self._working[key]
        self.add(key, now)

    def next_due(self) -> float | None:
        """When the next key that nobody works is due, or None."""
        while self._heap:
            due, _, key = self._heap[0]
            if self._due.get(key) != due:
                heapq.heappop(self._heap)
            elif key in self._working:
                return min((due for key, due in self._due.items() if key not in self._working), default=None)
            else:
                return due
        return None

    def depth(self, now: float) -> int:
        """How many keys are due and not being worked."""
        return sum(due <= now and key not in self._working for key, due in self._due.items())

    def longest_round(self, now: float) -> float:
        """Seconds for which the oldest of the rounds at work has been running."""
        return now - min(self._working.values(), default=now)

    @property
    def working(self) -> int:
        """How many keys are being worked."""
        return len(self._working)
