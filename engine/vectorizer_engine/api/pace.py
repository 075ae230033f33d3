"""Which searches run on the event loop itself: those that have lately been brief.

Handing a request to a thread and back costs about 0.15 ms of processor time, more than a small search. It is worth it
only where several requests can use several cores, or where a long search would keep the loop from its other work.

What counts is the processor time of a search, not how long it took: a busy machine makes any of them long now and
then, and a thread would change nothing about that. Waiting for the disk is another matter, and what threads are for:
each page that had to be read counts as `PAGE_SECONDS`. So while an index comes into memory, or does not stay there, the
loop waits for one search in a few, and the others wait in threads.
"""

from __future__ import annotations

import resource
import time

BRIEF_SECONDS = 0.002
"""For so long the loop may be busy with one search that comes alone."""

BRIEFER_SECONDS = 0.0005
"""And with each of several that come at the same time: up to here a core is better used without handing over."""

PAGE_SECONDS = 0.001
"""What reading a page from a disk may take."""

_FADING = 0.5
"""A long search is remembered, and fades with each brief one that follows it."""

_MOST = 1_000

_Collection = tuple[str, str]
"""Its tenant and its name."""

_THIS_THREAD = getattr(resource, "RUSAGE_THREAD", None)


class Effort:
    """What the current thread does from now on."""

    __slots__ = ("_faults", "_processor")

    def __init__(self) -> None:
        self._faults = _disk_reads()
        self._processor = time.thread_time()

    def seconds(self) -> float:
        """Of the processor, and of waiting for pages of mapped files."""
        return time.thread_time() - self._processor + PAGE_SECONDS * (_disk_reads() - self._faults)


def _disk_reads() -> int:
    """Pages that this thread had to wait for so far. 0 where the system does not tell (macOS)."""
    return 0 if _THIS_THREAD is None else resource.getrusage(_THIS_THREAD).ru_majflt


class Pace:
    """What searches of each collection have lately taken. For one event loop; `note` may be called by any thread."""

    def __init__(self) -> None:
        self._seconds: dict[_Collection, float] = {}

    def is_brief(self, collection: _Collection, body: bytes | bytearray, *, alone: bool) -> bool:
        """Whether this search will likely be brief. One with a filter reads payloads, and may not be."""
        seconds = self._seconds.get(collection)
        longest = BRIEF_SECONDS if alone else BRIEFER_SECONDS
        return seconds is not None and seconds <= longest and b'"filter"' not in body

    def forget(self, collection: _Collection) -> None:
        """Have the next search of *collection* go to a thread, and be measured."""
        self._seconds.pop(collection, None)

    def note(self, collection: _Collection, seconds: float) -> None:
        """A search of *collection* took so much `Effort`."""
        if len(self._seconds) >= _MOST and collection not in self._seconds:
            self._seconds.clear()  # they are learned again in a moment
        self._seconds[collection] = max(seconds, _FADING * self._seconds.get(collection, 0.0))
