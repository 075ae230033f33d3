"""How many wait for a member that does not answer.

A member that is frozen takes requests and answers none, and each of those who wait for it holds a thread of this one,
which others need. So while nothing comes from a member, a few requests are waited for, which find out when it goes on;
for others it counts as gone. A member that is merely slow answers somebody now and then.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SILENT_SECONDS = 2.5
"""So long nothing comes from a member that is asked, until it counts as silent. Half of what a read may take."""

MOST_WAITING = 8
"""So many requests wait for a silent member. Half of the threads that write, an eighth of those that read."""


class TooManyWait(Exception):
    """The member does not answer, and was not asked."""


class Silence:
    """Who waits for which member, by its name. Any thread may call."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: defaultdict[str, int] = defaultdict(int)
        self._heard: dict[str, float] = {}

    @contextmanager
    def waiting_for(self, member: str) -> Iterator[None]:
        """While inside, *member* is waited for. Raises TooManyWait."""
        with self._lock:
            if self._waiting[member] >= MOST_WAITING and self._is_silent(member):
                raise TooManyWait(
                    f"{member} has answered nobody for more than {SILENT_SECONDS:g} s, and {MOST_WAITING} requests "
                    "wait for it"
                )
            if not self._waiting[member]:
                self._heard[member] = self._clock()
            self._waiting[member] += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting[member] -= 1

    def heard(self, member: str) -> None:
        """It has answered somebody, or will not."""
        with self._lock:
            self._heard[member] = self._clock()

    def is_crowded(self, member: str) -> bool:
        """Whether more wait for it than should, so that who can ask again gives up."""
        with self._lock:
            return self._waiting[member] > MOST_WAITING and self._is_silent(member)

    def _is_silent(self, member: str) -> bool:
        return self._clock() - self._heard.get(member, self._clock()) > SILENT_SECONDS
