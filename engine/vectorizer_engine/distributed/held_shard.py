"""One open shard of this member: used by several threads at a time, and closed when the last has done with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.shard import Shard

LEASE_SECONDS = 1.0
"""So long after the store was asked, a shard answers reads without asking again whether it is still this member's.
Whoever takes a shard over serves it only after that time has passed, so nobody reads an old value meanwhile."""

FINISH_SECONDS = 3.0
"""How long requests that have begun may go on when their shard is to be closed."""


class ShardId(NamedTuple):
    token: str
    number: int


class NotHeld(Exception):
    """Another member serves the shard, or will in a moment.

    *with_former*: this member will, and the former owner serves it until then.
    """

    def __init__(self, *, with_former: bool = False) -> None:
        super().__init__()
        self.with_former = with_former


class HeldShard:
    """An open shard, the collection that consists of it alone, and who writes its log."""

    def __init__(self, shard: Shard, collection: Collection, writer: bytes) -> None:
        self.collection = collection
        self._shard = shard
        self._writer = writer
        self._opened_at = time.monotonic()
        self._asking = threading.Lock()
        self._changed = threading.Condition()
        self._users = 0
        self._closing = False

    @property
    def writer(self) -> bytes | None:
        """Who wrote to the log, if what the owner before it may have promised to readers is over for certain."""
        return self._writer if time.monotonic() - self._opened_at > LEASE_SECONDS else None

    @contextmanager
    def used(self) -> Iterator[Collection]:
        """The collection, which is not closed while inside. Raises NotHeld where that has begun."""
        with self._changed:
            if self._closing:
                raise NotHeld
            self._users += 1
        try:
            yield self.collection
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()

    def confirm(self) -> None:
        """Make sure that the shard is still this member's. Raises Fenced, StoreClosed, StorageFailure."""
        with self._asking:  # or everybody would ask at once when the lease ends
            self._shard.confirm(within=LEASE_SECONDS)

    def close(self) -> None:
        """Let nobody in any more, and close it when those inside have left, or have had their time."""
        with self._changed:
            self._closing = True
            self._changed.wait_for(lambda: self._users == 0, FINISH_SECONDS)
        self._shard.close()
