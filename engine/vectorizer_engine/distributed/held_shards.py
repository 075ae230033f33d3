"""The shards that this member serves: taken when they become its own, given up when another member has them.

Opening takes a shard over from whoever had it, so it happens only where the topology says so. Whoever had it is asked
first to let go, and serves it until then: see `succession`. A shard that is not this member's any more is kept, and
served to whoever comes by, until that happens or its log says that it was taken.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Set
from concurrent.futures import Future, ThreadPoolExecutor, wait
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Protocol

from vectorizer_engine.distributed.held_shard import HeldShard, NotHeld, ShardId
from vectorizer_engine.errors import EngineError, Fenced, StorageFailure, StoreClosed, StoreCorrupt

logger = logging.getLogger(__name__)

AT_ONCE = 4
"""So many shards are opened at a time, and so many closed."""

AGAIN_SECONDS = 1.0
"""A shard that could not be opened, or was taken by another member, is not opened again sooner. Two members that
both believe it is theirs would otherwise take it from each other all the time."""

LOOK_SECONDS = 5.0
"""How often it is looked, where nobody asks for them, after shards that were lost to another member and should not be,
and whether those that should be another member's were taken."""


class Succession(Protocol):
    """What precedes the opening of a shard that another member may have."""

    def is_with_former(self, shard: ShardId) -> bool:
        """Whether there is such a member, and it answers."""
        ...

    def prepare(self, shard: ShardId, still_wanted: Callable[[], bool]) -> None:
        """Get ready for it while the other member serves it."""
        ...

    def take_from_former(self, shard: ShardId) -> bytes | None:
        """Have the other member let go. Returns the writer that did. Raises NotHeld where it keeps the shard."""
        ...


class HeldShards:
    """Any thread may call."""

    def __init__(
        self,
        open_shard: Callable[[ShardId, bytes | None], HeldShard],
        succession: Succession,
        *,
        closed: Callable[[ShardId], None],
    ) -> None:
        """*open_shard* gets the writer that is known to have let go of it, and raises EngineError.

        *closed* is called with each shard that was closed.
        """
        self._open_shard = open_shard
        self._succession = succession
        self._closed_shard = closed
        # Apart, so that shards that close slowly, as their store is away, keep nobody from opening others.
        self._opening = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="shard-opening")
        self._closing = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="shard-closing")
        # Guards the rest. Taken twice where a shard has been closed before anybody could be told.
        self._lock = threading.RLock()
        self._wanted: Set[ShardId] = frozenset()
        self._held: dict[ShardId, Future[HeldShard]] = {}
        self._with_former: set[ShardId] = set()
        """Those that are being opened, and that another member still serves."""
        self._leaving: dict[ShardId, Future[None]] = {}
        self._not_before: dict[ShardId, float] = {}
        self._stop = threading.Event()
        self._looking = threading.Thread(target=self._look_after, name="shards", daemon=True)
        self._looking.start()

    def want(self, shards: Iterable[ShardId], *, existing: Callable[[ShardId], bool]) -> None:
        """From now on serve these; others only until their new owner has them, if they are *existing* at all.

        Returns at once.
        """
        with self._lock:
            self._wanted = frozenset(shards)
            for each in self._wanted:
                self._take(each)
            for each in self._held.keys() - self._wanted:
                if not existing(each) or not self._is_served(each):
                    self._leave(each)
            now = time.monotonic()
            self._not_before = {each: until for each, until in self._not_before.items() if until > now}

    def uses(self, shard: ShardId) -> bool:
        """Whether it is served here, is to be, or was until a moment ago."""
        with self._lock:
            return shard in self._wanted or shard in self._held

    def serves(self, shard: ShardId) -> bool:
        """Whether it is served here, open or parked, whosever it is to be."""
        with self._lock:
            return self._is_served(shard)

    def wake(self, shard: ShardId) -> None:
        """Begin to open it if it is parked."""
        with self._lock:
            held = self._held[shard].result() if self._is_served(shard) else None
        if held is not None:
            held.wake()

    def get(self, shard: ShardId, *, deadline: float) -> HeldShard:
        """The shard, once it is this member's. Raises NotHeld, and EngineError where it cannot be opened."""
        with self._lock:
            if shard in self._wanted:
                self._take(shard)
            future = self._held.get(shard)
            if future is None or shard in self._with_former:
                raise NotHeld(with_former=future is not None)
        try:
            return future.result(max(0.0, deadline - time.monotonic()))
        except (FutureTimeout, StoreClosed):  # Fenced is one
            raise NotHeld from None

    def lost(self, shard: ShardId, held: HeldShard) -> None:
        """Another member has taken *shard*, which was *held* here."""
        with self._lock:
            if self._is_served(shard) and self._held[shard].result() is held:
                self._not_before[shard] = time.monotonic() + AGAIN_SECONDS
                self._leave(shard)

    def release(self, shard: ShardId, *, seconds: float) -> bytes | None:
        """Let go of a shard that another member is to serve; nobody reads or writes it here any more afterwards.

        Returns the writer of its log, if there is one, and what it may have promised to readers is over. Raises
        NotHeld where the shard is this member's own, and StorageFailure where that takes more than so many seconds.
        """
        with self._lock:
            if shard in self._wanted:
                raise NotHeld
            future = self._held.get(shard)
            if future is not None:
                self._leave(shard)
            leaving = self._leaving.get(shard)
        if leaving is not None and wait((leaving,), seconds).not_done:
            raise StorageFailure(f"shard {shard.number} of {shard.token} is still being closed: ask again")
        if future is None or future.exception() is not None:
            return None
        return future.result().writer

    def served_now(self) -> dict[ShardId, HeldShard]:
        """Those that are served at this moment, open or parked."""
        with self._lock:
            return {shard: future.result() for shard, future in self._held.items() if self._is_served(shard)}

    def waiting(self) -> int:
        """How many are to be served and are not open yet. Damaged ones are not counted: they would be for ever."""
        with self._lock:
            return sum(
                1
                for each in self._wanted
                if each not in self._held or not self._held[each].done() or _may_work_now(self._held[each])
            )

    def leaving(self) -> int:
        """How many are still open that other members are to serve."""
        with self._lock:
            return len(self._held.keys() - self._wanted) + len(self._leaving)

    def damaged(self) -> dict[ShardId, str]:
        """Those that cannot be opened as they are, and why."""
        with self._lock:
            done = {each: future for each, future in self._held.items() if future.done()}
        why = {each: _damage(future) for each, future in done.items()}
        return {each: reason for each, reason in why.items() if reason is not None}

    def close(self) -> None:
        """Finish what is being written, and let go of all."""
        self._stop.set()
        with self._lock:
            self._wanted = frozenset()
            for each in list(self._held):
                self._leave(each)
        self._opening.shutdown()
        self._closing.shutdown()
        self._looking.join()

    def _is_served(self, shard: ShardId) -> bool:
        future = self._held.get(shard)
        if future is None or not future.done() or future.exception() is not None:
            return False
        return future.result().damage is None

    def _take(self, shard: ShardId) -> None:
        """Begin to open *shard*, unless that was done, or failed a moment ago."""
        future = self._held.get(shard)
        may_begin = future is None or (future.done() and _may_work_now(future))
        if self._stop.is_set() or not may_begin or time.monotonic() < self._not_before.get(shard, 0.0):
            return
        self._held[shard] = self._opening.submit(self._open, shard, self._leaving.get(shard))

    def _open(self, shard: ShardId, leaving: Future[None] | None) -> HeldShard:
        if leaving is not None:
            wait((leaving,))
        began = time.perf_counter()
        try:
            held = self._open_shard(shard, self._succeed(shard))
        except Exception as error:
            with self._lock:
                self._not_before[shard] = time.monotonic() + AGAIN_SECONDS
            if isinstance(error, NotHeld):
                logger.info("shard %d of %s stays where it is", shard.number, shard.token)
                raise
            if isinstance(error, EngineError):
                logger.warning("shard %d of %s cannot be served: %s", shard.number, shard.token, error)
                raise
            logger.exception("shard %d of %s cannot be served: this is a bug", shard.number, shard.token)
            raise StorageFailure(
                f"shard {shard.number} cannot be opened: internal error; the engine's log says more"
            ) from error
        logger.info(
            "serving shard %d of %s after %.3f s", shard.number, shard.token, time.perf_counter() - began
        )
        return held

    def _succeed(self, shard: ShardId) -> bytes | None:
        """Take the shard from whoever serves it, as late as possible. Returns the writer that let go of it."""
        if not self._succession.is_with_former(shard):
            return None
        with self._lock:
            self._with_former.add(shard)
        try:
            self._succession.prepare(shard, lambda: shard in self._wanted)
        finally:
            with self._lock:
                self._with_former.discard(shard)
        if shard not in self._wanted:
            raise NotHeld
        return self._succession.take_from_former(shard)

    def _leave(self, shard: ShardId) -> None:
        leaving = self._closing.submit(self._close, shard, self._held.pop(shard))
        self._leaving[shard] = leaving
        leaving.add_done_callback(lambda _: self._has_left(shard, leaving))

    def _has_left(self, shard: ShardId, leaving: Future[None]) -> None:
        with self._lock:
            if self._leaving.get(shard) is leaving:
                del self._leaving[shard]

    def _close(self, shard: ShardId, future: Future[HeldShard]) -> None:
        wait((future,))
        if future.exception() is not None:
            return
        try:
            future.result().close()
            self._closed_shard(shard)
        except Exception:
            # What was acknowledged is in the store; and the shard may be opened again.
            logger.exception("shard %d of %s was not closed in order", shard.number, shard.token)

    # --- without being asked -----------------------------------------------------------------------------

    def _look_after(self) -> None:
        looked = time.monotonic()
        while not self._stop.wait(AGAIN_SECONDS):
            is_time = time.monotonic() - looked >= LOOK_SECONDS
            with self._lock:
                for each in self._wanted:
                    if each in self._held or is_time:  # those that were lost are not fought for so often
                        self._take(each)
            if is_time:
                looked = time.monotonic()
                self._leave_what_was_taken()

    def _leave_what_was_taken(self) -> None:
        with self._lock:
            others = {each for each in self._held.keys() - self._wanted if self._is_served(each)}
            opened = {each: self._held[each].result() for each in others}
        for shard, held in opened.items():
            try:
                held.confirm()
            except Fenced:
                self.lost(shard, held)
            except EngineError as error:
                logger.info("whether shard %d of %s was taken is not known: %s", *reversed(shard), error)


def _damage(future: Future[HeldShard]) -> str | None:
    error = future.exception()
    if error is None:
        return future.result().damage
    return str(error) if isinstance(error, StoreCorrupt) else None


def _may_work_now(future: Future[HeldShard]) -> bool:
    """Whether opening failed for a reason that may be over."""
    error = future.exception()
    return error is not None and not isinstance(error, StoreCorrupt)
