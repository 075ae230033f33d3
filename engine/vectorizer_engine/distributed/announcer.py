"""Telling the readers of shards what their owner has written to the log, so that they need not look for it.

What is told is which frames there are and how large they are; whoever reads the shard fetches them from the store.
Nothing hangs on it: a reader that missed something finds out with the next news that it has a gap, and lists the log.
"""

from __future__ import annotations

import logging
import threading

import msgspec

from vectorizer_engine.distributed.held_shard import ShardId
from vectorizer_engine.distributed.messages import FRAMES_PATH
from vectorizer_engine.distributed.peers import Peers
from vectorizer_engine.distributed.topology import KnownTopology, Topology

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 0.02
"""Between two rounds: what was written meanwhile is told together."""

ASK_SECONDS = 1.0
"""How long a member may take to answer."""

AGAIN_SECONDS = 1.0
"""After so long, members that did not answer are told how far each log has come."""


class Frames(msgspec.Struct, array_like=True):
    """The sizes of the frames from number `first` on, of the log of a shard.

    With `indexes`, there may be new indexes of its segments in the store.
    """

    token: str
    shard: int
    first: int
    sizes: list[int]
    indexes: bool = False


class Announcer:
    """Any thread may call."""

    def __init__(self, name: str, topology: KnownTopology, peers: Peers) -> None:
        """*name* is this member's."""
        self._name = name
        self._topology = topology
        self._peers = peers
        # Guards the rest.
        self._news = threading.Condition()
        self._written: dict[ShardId, Frames] = {}
        self._ends: dict[ShardId, int] = {}
        """The next number of each log that is written here."""
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)
        self._thread.start()
        topology.listen(self._published)

    def wrote(self, shard: ShardId, number: int, size: int) -> None:
        """The log of *shard* has got the frame of this *number*."""
        with self._news:
            self._ends[shard] = number + 1
            self._pending(shard, first=number).sizes.append(size)
            self._news.notify()

    def has_new_index(self, shard: ShardId) -> None:
        """An index of a segment of *shard* was put into the store."""
        with self._news:
            if shard in self._ends:
                self._pending(shard, first=self._ends[shard]).indexes = True
                self._news.notify()

    def forget(self, shard: ShardId) -> None:
        """*shard* is not written here any more."""
        with self._news:
            self._ends.pop(shard, None)
            self._written.pop(shard, None)

    def close(self) -> None:
        with self._news:
            self._closed = True
            self._news.notify()
        self._thread.join()

    def _published(self, topology: Topology) -> None:
        """Members that were not there before may read along."""
        with self._news:
            self._tell_ends()
            self._news.notify()

    def _tell_ends(self) -> None:
        for shard, end in self._ends.items():
            self._pending(shard, first=end).indexes = True

    def _pending(self, shard: ShardId, *, first: int) -> Frames:
        """What is to be told of *shard*; of nothing yet, from the frame *first* on."""
        return self._written.setdefault(shard, Frames(*shard, first, []))

    def _run(self) -> None:
        repeat = False
        while True:
            with self._news:
                self._news.wait_for(lambda: self._written or self._closed, AGAIN_SECONDS if repeat else None)
                if self._closed:
                    return
                if repeat:
                    self._tell_ends()
                written, self._written = self._written, {}
            repeat = not self._tell(list(written.values()))
            with self._news:
                self._news.wait_for(lambda: self._closed, PAUSE_SECONDS)

    def _tell(self, frames: list[Frames]) -> bool:
        """Whether all others have heard."""
        others = [each for each in self._topology.current.members if each.name != self._name]
        if not frames or not others:
            return True
        answers = self._peers.ask_each(
            others, "POST", FRAMES_PATH, msgspec.msgpack.encode(frames), seconds=ASK_SECONDS
        )
        for member, answer in zip(others, answers, strict=True):
            if answer is not None and answer.status != 200:
                logger.warning("%s was not told of frames: it answers %d", member.name, answer.status)
        return all(answer is not None and answer.status == 200 for answer in answers)
