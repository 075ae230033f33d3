"""Searches that are read in one turn of the event loop are run together.

Clients that search at the same time have their requests read one after the other. Where these differ in their vectors
only, they are as good as one batch: most of what a search costs besides its walk through the index is then paid once.
Nothing is waited for: what was read is run as soon as the loop has read all that had come.

Only searches come here that will be brief, and whatever goes wrong with one is left to the usual way, which says what.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vectorizer_engine.api.answers import FREE_BYTES
from vectorizer_engine.api.pace import BRIEFER_SECONDS, Pace
from vectorizer_engine.api.search import Search, run_together
from vectorizer_engine.collection.records import Scored

MOST = 32
"""Searches of a round: for a few milliseconds, nothing else is read or sent."""


@dataclass(slots=True)
class Asked:
    """A search, the tenant and the name of its collection, and what gets its hits, or None where something is wrong."""

    search: Search
    collection: tuple[str, str]
    give: Callable[[Sequence[Scored] | None], None]


class Rounds:
    """For one event loop."""

    def __init__(self, pace: Pace) -> None:
        """*pace* is told how long searches took."""
        self._pace = pace
        self._asked: list[Asked] = []
        self._nbytes = 0

    def add(self, asked: Asked) -> bool:
        """Have a search run soon. False where its hits hold more memory than is free to each answer."""
        nbytes = asked.search.nbytes
        if nbytes > FREE_BYTES:
            return False
        if self._nbytes + nbytes > FREE_BYTES or len(self._asked) == MOST:
            self._run()
        if not self._asked:
            asyncio.get_running_loop().call_soon(self._run)
        self._asked.append(asked)
        self._nbytes += nbytes
        return True

    def _run(self) -> None:
        asked, self._asked, self._nbytes = self._asked, [], 0
        alike: dict[tuple[tuple[str, str], bytes], list[Asked]] = {}
        for each in asked:
            alike.setdefault((each.collection, each.search.plan.key()), []).append(each)
        for (collection, _), group in alike.items():
            found = self._found(collection, group)
            for each, hits in zip(group, found, strict=True):
                each.give(hits)

    def _found(
        self, collection: tuple[str, str], group: list[Asked]
    ) -> Sequence[Sequence[Scored]] | list[None]:
        began = time.perf_counter()
        try:
            found = run_together([each.search for each in group])
        except Exception:  # noqa: BLE001 - it comes again, to whoever is asked the usual way
            return [None] * len(group)
        seconds = (time.perf_counter() - began) / len(group)
        if seconds <= BRIEFER_SECONDS:
            self._pace.note(collection, seconds)
        else:  # or the machine was busy: it is measured more closely the next time
            self._pace.forget(collection)
        return found
