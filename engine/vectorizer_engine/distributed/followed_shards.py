"""The shards that this member reads along with their owners: for reads that any copy may answer, and for taking over.

The owner tells which frames it has written (`announcer`), so nothing is asked of the store while nothing is written.
A reader that cannot go on, as there is no memory for it or its log is damaged, is closed, and opened again after a
while. The shard's owner answers meanwhile.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Set
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from vectorizer_engine.collection.collection_reader import CollectionReader
from vectorizer_engine.collection.shard_reader import ShardReader
from vectorizer_engine.distributed.announcer import Frames
from vectorizer_engine.distributed.held_shard import ShardId
from vectorizer_engine.errors import EngineError, StorageFailure, StoreClosed
from vectorizer_engine.storage.log_tail import News, Outrun

logger = logging.getLogger(__name__)

AT_ONCE = 4
"""So many shards are opened or read on at a time."""

AGAIN_SECONDS = 5.0
"""After so long, a reader that could not go on is opened again."""

LOOK_SECONDS = 0.5
"""How often it is looked for readers that are to be opened: those of shards that were served here until now."""

MOST_KNOWN = 10_000
"""Of so many frames that were announced and not read yet the sizes are kept; then the log is listed instead."""

PUT_ASIDE_SECONDS = 2.0
"""How long it is waited for a reader that is to be closed to make room. It stays open then."""


class NoRoom(Exception):
    """There is no room for the copies on the volume. A reader takes only what is free."""


class OpenReader(NamedTuple):
    shard: ShardReader
    collection: CollectionReader


class Lag(NamedTuple):
    """How far the readers of a member are: how many there should be and are, and how far the last one is behind."""

    wanted: int
    open: int
    frames: int
    seconds: float


class _Followed:
    """One shard: its reader, if it is open, and what is known of its log and was not read yet."""

    def __init__(self) -> None:
        self.reader: OpenReader | None = None
        self.news: News | None = None
        self.end = 0
        self.behind_since: float | None = None
        self.busy = False
        self.not_before = 0.0
        self.last_use = 0.0

    def learn(self, news: News) -> None:
        end = news.first + len(news.sizes)
        before = self.news
        if before is not None:
            first, sizes = news.first, news.sizes
            if first == before.first + len(before.sizes):
                first, sizes = before.first, [*before.sizes, *sizes]
            news = News(first, sizes, indexes=news.indexes or before.indexes)
        self.news = news if len(news.sizes) <= MOST_KNOWN else News(end, (), news.indexes)
        self.end = max(end, self.end)
        self.note_lag()

    @property
    def behind(self) -> int:
        """How many frames were announced and not read."""
        return max(0, self.end - self.reader.shard.next_frame) if self.reader is not None else 0

    def note_lag(self) -> None:
        self.behind_since = (self.behind_since or time.monotonic()) if self.behind else None


class FollowedShards:
    """Any thread may call."""

    def __init__(
        self,
        open_reader: Callable[[ShardId], OpenReader],
        *,
        is_held: Callable[[ShardId], bool],
        closed: Callable[[ShardId], None],
    ) -> None:
        """*open_reader* raises EngineError, Outrun and NoRoom.

        Shards that are *is_held*, as this member serves them or is about to, are not opened. *closed* is called with
        each shard that is not followed any more.
        """
        self._open_reader = open_reader
        self._is_held = is_held
        self._closed_shard = closed
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="shard-reading")
        # Guards the rest, and tells of readers that were closed.
        self._changed = threading.Condition()
        self._wanted: Set[ShardId] = frozenset()
        self._followed: dict[ShardId, _Followed] = {}
        self._stop = threading.Event()
        self._looking = threading.Thread(target=self._look_after, name="readers", daemon=True)
        self._looking.start()

    def want(self, shards: Iterable[ShardId]) -> None:
        """From now on follow these and no others. Returns at once."""
        with self._changed:
            self._wanted = frozenset(shards)
            for shard in self._wanted | self._followed.keys():
                self._look_at(shard)

    def uses(self, shard: ShardId) -> bool:
        """Whether there is a reader of it, or one is about to be opened."""
        with self._changed:
            return shard in self._followed

    def find(self, shard: ShardId) -> CollectionReader | None:
        """What was read of *shard*, if it is followed at present. Its methods raise StoreClosed once it is not."""
        followed = self._followed.get(shard)
        reader = None if followed is None else followed.reader
        if followed is None or reader is None or reader.shard.is_closed:
            return None
        followed.last_use = time.monotonic()
        return reader.collection

    def open_now(self) -> dict[ShardId, CollectionReader]:
        with self._changed:
            readers = {shard: followed.reader for shard, followed in self._followed.items()}
        return {
            shard: reader.collection
            for shard, reader in readers.items()
            if reader is not None and not reader.shard.is_closed
        }

    def by_last_use(self) -> list[ShardId]:
        """Those that are open, the one first that nobody has read from for longest."""
        with self._changed:
            readers = [shard for shard, followed in self._followed.items() if followed.reader is not None]
            return sorted(readers, key=lambda shard: self._followed[shard].last_use)

    def announced(self, frames: Iterable[Frames]) -> None:
        """The owners of some shards have written *frames*. Returns at once."""
        with self._changed:
            for each in frames:
                shard = ShardId(each.token, each.shard)
                if (followed := self._followed.get(shard)) is not None:
                    followed.learn(News(each.first, each.sizes, each.indexes))
                    self._work_on(shard, followed)

    def give_up(self, shard: ShardId) -> None:
        """Close the reader of *shard*, which is about to be taken over: it holds no memory when this returns."""
        with self._changed:
            followed = self._followed.get(shard)
            if followed is None:
                return
            if followed.reader is not None:
                followed.reader.shard.close()
            self._changed.wait_for(lambda: not followed.busy)
            if followed.reader is not None:
                followed.reader.shard.close()
            self._followed.pop(shard, None)

    def put_aside(self, shard: ShardId) -> bool:
        """Close the reader of *shard*, as its copies are in the way. Whether it holds nothing any more.

        It is opened again when there is room.
        """
        with self._changed:
            followed = self._followed.get(shard)
            if followed is None or followed.reader is None:
                return False
            followed.reader.shard.close()
            followed.not_before = time.monotonic() + AGAIN_SECONDS
            if not self._changed.wait_for(lambda: not followed.busy, PUT_ASIDE_SECONDS):
                return False
            followed.reader = None
            followed.news = News(followed.end, ())
            return True

    @property
    def lag(self) -> Lag:
        """How far this member is with the shards that it reads along."""
        now = time.monotonic()
        with self._changed:
            wanted = [shard for shard in self._wanted if not self._is_held(shard)]
            known = [self._followed[shard] for shard in wanted if shard in self._followed]
            readers = [each for each in known if each.reader is not None]
            return Lag(
                len(wanted),
                len(readers),
                max((each.behind for each in readers), default=0),
                max(
                    (now - each.behind_since for each in readers if each.behind_since is not None),
                    default=0.0,
                ),
            )

    def close(self) -> None:
        self._stop.set()
        self.want(())
        self._looking.join()
        self._pool.shutdown()

    def _look_after(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            with self._changed:
                for shard in self._wanted:
                    self._look_at(shard)

    def _look_at(self, shard: ShardId) -> None:
        """Have it followed, or not any more, as it is wanted."""
        followed = self._followed.get(shard)
        if followed is None:
            if shard not in self._wanted or self._is_held(shard):
                return
            followed = self._followed[shard] = _Followed()
        elif shard not in self._wanted and followed.reader is not None:
            followed.reader.shard.close()  # what works on it ends sooner
        self._work_on(shard, followed)

    def _work_on(self, shard: ShardId, followed: _Followed) -> None:
        if not followed.busy and self._has_work(shard, followed):
            followed.busy = True
            self._pool.submit(self._work, shard, followed)

    def _has_work(self, shard: ShardId, followed: _Followed) -> bool:
        if followed.reader is not None and followed.reader.shard.is_closed:  # as its memory was wanted
            followed.reader = None
            followed.not_before = time.monotonic() + AGAIN_SECONDS
        if shard not in self._wanted:
            return True
        if followed.reader is None:
            return time.monotonic() >= followed.not_before and not self._is_held(shard)
        return followed.news is not None and time.monotonic() >= followed.not_before

    def _work(self, shard: ShardId, followed: _Followed) -> None:
        """Do what there is to be done, one step after the other."""
        while True:
            with self._changed:
                followed.note_lag()
                is_over = shard not in self._wanted
                if is_over or not self._has_work(shard, followed):
                    followed.busy = False
                    self._changed.notify_all()
                    break
                reader = followed.reader
                news, followed.news = followed.news, None
            try:
                if reader is None:
                    self._open(shard, followed)
                    reader = followed.reader
                if reader is not None and news is not None:
                    reader.shard.follow(news)
            except StorageFailure as error:
                logger.warning("shard %d of %s is not read on: %s", shard.number, shard.token, error)
                self._pause(followed)
            except (StoreClosed, NoRoom):
                self._failed(followed)
            except (EngineError, Outrun) as error:
                logger.warning("shard %d of %s is not read along: %r", shard.number, shard.token, error)
                self._failed(followed)
            except Exception:
                logger.exception("shard %d of %s is not read along: this is a bug", shard.number, shard.token)
                self._failed(followed)
        if is_over:
            self._forget(shard, followed)

    def _open(self, shard: ShardId, followed: _Followed) -> None:
        began = time.perf_counter()
        followed.reader = self._open_reader(shard)
        logger.info(
            "reading shard %d of %s along after %.3f s",
            shard.number,
            shard.token,
            time.perf_counter() - began,
        )

    def _failed(self, followed: _Followed) -> None:
        if followed.reader is not None:
            followed.reader.shard.close()
        self._pause(followed)

    def _pause(self, followed: _Followed) -> None:
        """Try again later. The sizes of what was to be read are not known any more."""
        with self._changed:
            followed.news = News(followed.end, (), indexes=True)
            followed.not_before = time.monotonic() + AGAIN_SECONDS

    def _forget(self, shard: ShardId, followed: _Followed) -> None:
        with self._changed:
            if followed.reader is not None:
                followed.reader.shard.close()
            if self._followed.get(shard) is followed:
                del self._followed[shard]
        self._closed_shard(shard)
