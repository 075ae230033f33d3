"""One shard of this member, whose log it has claimed: open, or parked until somebody asks for it again.

While it is open it is used by several threads at a time. Parked, it holds no memory and no copies on the volume, and
the claim stays in force: only another member's claim can come behind it in the log, and is found as always.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import NamedTuple, Protocol, TypeVar

from vectorizer_engine.collection.collection import Collection
from vectorizer_engine.collection.shard import Shard
from vectorizer_engine.distributed.parked_collection import ParkedCollection
from vectorizer_engine.errors import EngineError, StorageFailure, StoreClosed, StoreCorrupt

logger = logging.getLogger(__name__)

LEASE_SECONDS = 1.0
"""So long after the store was asked, a shard answers reads without asking again whether it is still this member's.
Whoever takes a shard over serves it only after that time has passed, so nobody reads an old value meanwhile."""

FINISH_SECONDS = 3.0
"""How long requests that have begun may go on when their shard is to be closed."""

AGAIN_SECONDS = 1.0
"""A parked shard that could not be opened is not tried again sooner."""

T = TypeVar("T")


class ShardId(NamedTuple):
    token: str
    number: int


class NotHeld(Exception):
    """Another member serves the shard, or will in a moment; or it is being opened.

    *with_former*: this member will, and the former owner serves it until then.
    """

    def __init__(self, *, with_former: bool = False) -> None:
        super().__init__()
        self.with_former = with_former


class OpenShard(NamedTuple):
    """A shard, and the collection that consists of it alone."""

    shard: Shard
    collection: Collection


class Claim(Protocol):
    """A shard whose log is claimed by `writer`, whether it is open or not."""

    writer: bytes

    def open(self) -> OpenShard:
        """Open it again. Raises EngineError: Fenced where another member has taken it."""
        ...

    def settle(self, shard: Shard, *, within: float) -> None:
        """Make *shard* fit to be closed, and to be opened again soon. Raises EngineError."""
        ...

    def confirm(self, *, within: float) -> None:
        """See `ObjectLog`. Raises Fenced, StorageFailure."""
        ...


class HeldShard:
    """Any thread may call."""

    def __init__(self, claim: Claim, has: OpenShard | ParkedCollection, *, opening: Executor) -> None:
        """*has* is the shard, or what is known of one that was not opened yet. *opening* opens it again."""
        self._claim = claim
        self._opening = opening
        self._claimed_at = time.monotonic()
        self._asking = threading.Lock()
        # Guards the rest, and tells of its changes.
        self._changed = threading.Condition()
        self._has = has
        self._users = 0
        self._last_use = time.monotonic()
        self._working = False
        """Whether it is being opened, or parked."""
        self._failure: EngineError | None = None
        self._not_before = 0.0
        self._closing = False

    @property
    def writer(self) -> bytes | None:
        """Who wrote to the log, if what the owner before it may have promised to readers is over for certain."""
        return self._claim.writer if time.monotonic() - self._claimed_at > LEASE_SECONDS else None

    @property
    def is_parked(self) -> bool:
        return isinstance(self._has, ParkedCollection)

    @property
    def damage(self) -> str | None:
        """Why it cannot be opened again as it is."""
        return str(self._failure) if isinstance(self._failure, StoreCorrupt) else None

    @property
    def rest(self) -> tuple[bool, float]:
        """Sorts what is better parked first: where nothing goes on in the background, and then by the last use."""
        has = self._has
        return isinstance(has, OpenShard) and has.shard.busy, self._last_use

    @contextmanager
    def used(self, *, deadline: float = math.inf) -> Iterator[Collection]:
        """The collection, which is neither closed nor parked while inside.

        Raises NotHeld where it is being closed, or is not opened again until *deadline*; and why it cannot be opened.
        """
        with self._changed:
            if self._closing:
                raise NotHeld
            self._users += 1
        try:
            yield self._open_until(deadline)
        finally:
            with self._changed:
                self._users -= 1
                self._last_use = time.monotonic()
                self._changed.notify_all()

    @contextmanager
    def described(self, *, deadline: float) -> Iterator[Collection | ParkedCollection]:
        """`used` for those who only want to know what there is: it is opened only where that is not known."""
        with self._changed:
            if self._closing:
                raise NotHeld
            has = self._has
        if isinstance(has, ParkedCollection) and has.is_exact:
            yield has
            return
        with self.used(deadline=deadline) as collection:
            yield collection

    def describe(self, what: Callable[[Collection | ParkedCollection], T]) -> T:
        """*what* of the collection as it is at this moment. Opens nothing. Raises StoreClosed where it was closed."""
        while True:
            has = self._has
            try:
                return what(has.collection if isinstance(has, OpenShard) else has)
            except StoreClosed:
                if has is self._has:  # otherwise it was parked in this moment
                    raise

    def confirm(self) -> None:
        """Make sure that the shard is still this member's. Raises Fenced, StoreClosed, StorageFailure."""
        with self._asking:  # or everybody would ask at once when the lease ends
            if self._closing:
                raise StoreClosed("the shard is closed: another member is to serve it")
            self._claim.confirm(within=LEASE_SECONDS)

    def wake(self) -> None:
        """Begin to open it if it is parked."""
        with self._changed:
            self._begin_to_open()

    def park(self, *, within: float) -> bool:
        """Close it until it is asked for again, unless somebody uses it. Whether that was done.

        Raises EngineError where it cannot be made fit for that *within* so many seconds.
        """
        with self._changed:
            has, last_use = self._has, self._last_use
            if not isinstance(has, OpenShard) or self._users or self._closing:
                return False
        self._claim.settle(has.shard, within=within)
        with self._changed:
            if self._has is not has or self._users or self._closing or self._last_use != last_use:
                return False
            self._has = ParkedCollection.of(has.collection)
            self._working = True
        try:
            has.shard.close()
        finally:
            self._worked()
        return True

    def close(self) -> None:
        """Let nobody in any more, and close it when those inside have left, or have had their time."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._users == 0, FINISH_SECONDS)
            self._changed.wait_for(lambda: not self._working)
        if isinstance(self._has, OpenShard):
            self._has.shard.close()

    def _open_until(self, deadline: float) -> Collection:
        with self._changed:
            while not isinstance(self._has, OpenShard):
                if self._closing:
                    raise NotHeld
                if self._failure is not None and time.monotonic() < self._not_before:
                    raise self._failure.with_traceback(None)  # which would grow each time
                self._begin_to_open()
                left = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
                if not self._changed.wait_for(lambda: not self._working or self._closing, left):
                    raise NotHeld
            return self._has.collection

    def _begin_to_open(self) -> None:
        if (
            self.is_parked
            and not self._working
            and not self._closing
            and time.monotonic() >= self._not_before
        ):
            self._working, self._failure = True, None
            self._opening.submit(self._open)

    def _open(self) -> None:
        try:
            opened = self._claim.open()
        except EngineError as error:
            self._fail(error)
        except Exception:
            logger.exception("a parked shard cannot be opened: this is a bug")
            self._fail(StorageFailure("a shard cannot be opened: internal error; the engine's log says more"))
        else:
            with self._changed:
                if keeps := not self._closing:
                    self._has, self._last_use = opened, time.monotonic()
            if not keeps:
                opened.shard.close()
        finally:
            self._worked()

    def _fail(self, error: EngineError) -> None:
        logger.warning("a parked shard cannot be opened: %s", error)
        # Its words only: what it came from would keep alive all that was opened by then.
        error.__traceback__ = error.__cause__ = error.__context__ = None
        with self._changed:
            self._failure = error
            self._not_before = (
                math.inf if isinstance(error, StoreCorrupt) else time.monotonic() + AGAIN_SECONDS
            )

    def _worked(self) -> None:
        with self._changed:
            self._working = False
            self._changed.notify_all()
