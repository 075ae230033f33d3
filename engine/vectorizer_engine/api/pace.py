"""Which searches run on the event loop itself: those that come alone and have lately been brief.

Handing a request to a thread and back costs about 0.15 ms of processor time, a third of a small search. It is
worth it only where several requests can use several cores, or where a long search would keep the loop from
its other work.
"""

from __future__ import annotations

BRIEF_SECONDS = 0.002
"""For so long the loop may be busy with one search."""

_FADING = 0.5
"""A long search is remembered, and fades with each brief one that follows it."""

_MOST = 1_000

_Collection = tuple[str, str]
"""Its tenant and its name."""


class Pace:
    """How long the searches of each collection have lately taken. Belongs to one event loop."""

    def __init__(self) -> None:
        self._seconds: dict[_Collection, float] = {}

    def is_brief(self, collection: _Collection, body: bytes | bytearray) -> bool:
        """Whether this search will likely be brief. One with a filter reads payloads, and may not be."""
        seconds = self._seconds.get(collection)
        return seconds is not None and seconds <= BRIEF_SECONDS and b'"filter"' not in body

    def note(self, collection: _Collection, seconds: float) -> None:
        """A search of *collection* took *seconds*."""
        if len(self._seconds) >= _MOST and collection not in self._seconds:
            self._seconds.clear()  # they are learned again in a moment
        self._seconds[collection] = max(seconds, _FADING * self._seconds.get(collection, 0.0))
