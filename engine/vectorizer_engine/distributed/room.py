"""Keeps the copies on a member's volume under their limit: whatever is used least is closed, and its copies go.

First go copies of shards that are served here no more, then those of shards that are read along, then those of shards
that are served: they are parked, the one first that nobody has asked for longest. What is used at the moment stays,
and one shard that is larger than the limit is served all the same.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from vectorizer_engine.distributed.copies import Copies
from vectorizer_engine.errors import EngineError
from vectorizer_engine.storage.files import disk_errors

logger = logging.getLogger(__name__)

MAKE_SECONDS = 5.0
"""So long it is tried to close others, where the store is away and none can be. Then there is more than may be."""

AGAIN_SECONDS = 1.0
"""After so long it is tried again, where there is more than may be."""


class Giving(IntEnum):
    """Who makes room: copies that nobody serves do always."""

    UNSERVED = 0
    READERS = 1
    OWNERS = 2


class Giver(NamedTuple):
    """A shard that may be closed to make room. `close` says whether it is, and raises EngineError.

    It is given the seconds that it may take.
    """

    folder: Path
    giving: Giving
    close: Callable[[float], bool]


class Room:
    """Any thread may call."""

    def __init__(
        self,
        copies: Copies,
        *,
        is_used: Callable[[Path], bool],
        givers: Callable[[], Iterable[Giver]],
    ) -> None:
        """*is_used* says whether the shard in a folder is served or read here, or about to be.

        *givers* are to be asked in this order, and have nothing to do with each other.
        """
        self._copies = copies
        self._is_used = is_used
        self._givers = givers
        # Held by whoever makes room.
        self._turn = threading.Lock()
        self._told: set[Path] = set()
        """Those that were said to be larger than the limit."""
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._keep, name="copies", daemon=True)
        self._thread.start()

    def take(self, folder: Path, nbytes: int, *, giving: Giving) -> bool:
        """Have room for *nbytes* in *folder*, which are about to be fetched, and count them until `filled`.

        False where there is none without closing more than *giving* allows; owners are given it all the same. Raises
        OSError.
        """
        with self._turn:
            self._make(folder, nbytes, giving)
            fits = self._copies.excess(folder, nbytes) <= 0
            if fits or giving is Giving.OWNERS:
                self._copies.expect(folder, nbytes)
        if not fits and giving is Giving.OWNERS:
            self._tell(folder, nbytes)
        return fits

    def filled(self, folder: Path) -> None:
        """Nothing is fetched to *folder* any more."""
        self._copies.expect_no_more(folder)
        self._look()

    def changed(self, folder: Path) -> None:
        """Files were made or removed in *folder*."""
        self._copies.measure(folder)
        self._look()

    def tidy(self) -> None:
        """Remove copies that nobody serves and there is no room for. Raises OSError."""
        with self._turn:
            self._copies.make_room(self._is_used)

    def close(self) -> None:
        self._closed = True
        self._wake.set()
        self._thread.join()

    def _look(self) -> None:
        if self._copies.excess() > 0:
            self._wake.set()

    def _keep(self) -> None:
        while not self._closed:
            self._wake.wait(AGAIN_SECONDS if self._copies.excess() > 0 else None)
            self._wake.clear()
            if self._closed:
                return
            try:
                with disk_errors("make room on the volume"), self._turn:
                    self._make(None, 0, Giving.OWNERS)
            except EngineError as error:
                logger.warning("%s", error)

    def _make(self, folder: Path | None, nbytes: int, giving: Giving) -> None:
        self._copies.make_room(self._is_used, folder, nbytes)
        if self._copies.excess(folder, nbytes) <= 0:
            return
        deadline = time.monotonic() + MAKE_SECONDS
        for giver in self._givers():
            left = deadline - time.monotonic()
            if giver.giving > giving or left <= 0 or self._closed:
                return
            if giver.folder == folder or not self._copies.has(giver.folder):
                continue
            try:
                if not giver.close(left):
                    continue
            except EngineError as error:
                logger.info("%s does not make room: %s", giver.folder, error)
                continue
            self._copies.remove(giver.folder)
            logger.info("removed the copies in %s, to make room", giver.folder)
            if self._copies.excess(folder, nbytes) <= 0:
                return

    def _tell(self, folder: Path, nbytes: int) -> None:
        limit = self._copies.limit
        if nbytes > limit and folder not in self._told:
            self._told.add(folder)
            logger.warning(
                "the segments of %s are %d bytes, more than the %d that copies may take "
                "(storage.object_store.max_copies_bytes, or three quarters of the volume): they are fetched all the "
                "same; enlarge the volume, or give the collection more shards",
                folder,
                nbytes,
                limit,
            )
