"""A shared log as somebody reads it who does not own it: from the newest checkpoint on, frame after frame.

Nothing is claimed and nothing written, so its owner does not notice. Frames are found in one order, and each has one
content while it exists (docs/specs/SHARED_STORE.md), so what is read is what the next owner would replay.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from vectorizer_engine.errors import StoreCorrupt
from vectorizer_engine.storage.log_objects import frame_name, list_frames, read_frame, read_newest_checkpoint
from vectorizer_engine.storage.object_frame import Checkpoint, Frame, Kind, decode_checkpoint
from vectorizer_engine.storage.object_store import ObjectMissing, ObjectStore, repeated
from vectorizer_engine.storage.read_ahead import read_ahead


class News(NamedTuple):
    """The sizes of the frames from number *first* on, as the owner of a log tells them.

    With *indexes*, there may be new ones of segments that are old.
    """

    first: int
    sizes: Sequence[int]
    indexes: bool = False


class Outrun(Exception):
    """Frames were forgotten before they were read: begin again at the newest checkpoint."""


class LogTail:
    """The log of the shard at *prefix*. One thread at a time may use it."""

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        """Begin at the newest checkpoint. Raises StoreCorrupt, Outrun and OSError."""
        self._store = store
        self._prefix = f"{prefix}/log"
        sizes = repeated(lambda: list_frames(store, self._prefix))
        try:
            self._newest, self.checkpoint = repeated(
                lambda: read_newest_checkpoint(store, self._prefix, sizes)
            )
        except ObjectMissing:
            raise Outrun from None
        # Those of the frames from `checkpoint.start` on, read or not. `next` is the first that was not.
        self._sizes = array("Q", self._without_gap(self.checkpoint.start, sizes))
        self.next = self.checkpoint.start
        self.next_record: int | None = None
        """The number that the next record gets; None until a frame was read."""

    def follow(self, news: News | None = None) -> Iterator[tuple[Frame, Checkpoint | None]]:
        """What was not read yet of the frames that are known, and of those that *news* tells of.

        A checkpoint comes with what it says; from then on it is where `reread` begins. Raises StoreCorrupt, Outrun and
        OSError; what was read before counts.
        """
        if news is not None:
            self._learn(news)
        first = self.next
        for frame in self._read(first, self._sizes[first - self.checkpoint.start :]):
            if self.next_record is not None and frame.first != self.next_record:
                raise StoreCorrupt(
                    f"{frame_name(self._prefix, frame.number)} goes on with record {frame.first}, expected "
                    f"{self.next_record}: restore the collection from a snapshot"
                )
            self.next, self.next_record = frame.number + 1, frame.next_record
            checkpoint = None
            if frame.kind is Kind.CHECKPOINT and frame.number > self._newest:
                self._newest = frame.number
                checkpoint = decode_checkpoint(frame)
                del self._sizes[: checkpoint.start - self.checkpoint.start]
                self.checkpoint = checkpoint
            yield frame, checkpoint

    def reread(self) -> Iterator[Frame]:
        """Those that the checkpoint needs, as far as they were read. Raises as `follow` does."""
        start = self.checkpoint.start
        return self._read(start, self._sizes[: self.next - start])

    def _learn(self, news: News) -> None:
        known = self.checkpoint.start + len(self._sizes)
        if news.first > known:
            listed = repeated(lambda: list_frames(self._store, self._prefix, after=known - 1))
            self._sizes.extend(self._without_gap(known, listed))
        else:
            self._sizes.extend(news.sizes[known - news.first :])

    def _without_gap(self, first: int, sizes: dict[int, int]) -> list[int]:
        """The sizes from *first* on. Raises Outrun where one in between is not there."""
        numbers = range(first, max(sizes, default=0) + 1)
        try:
            return [sizes[number] for number in numbers]
        except KeyError:
            raise Outrun from None

    def _read(self, first: int, sizes: Sequence[int]) -> Iterator[Frame]:
        try:
            yield from read_ahead(self._reader(first), sizes)
        except ObjectMissing:
            raise Outrun from None

    def _reader(self, first: int) -> Callable[[int], Frame]:
        return lambda index: repeated(lambda: read_frame(self._store, self._prefix, first + index))
