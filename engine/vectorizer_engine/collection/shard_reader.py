"""A shard that another member writes: its segments as of the newest checkpoint, and what its log holds since.

Frame by frame the log is applied to heads, by the steps of whoever recovers. These heads are never sealed: a checkpoint
says that the owner has made segments of its own. Then the view is built anew beside the old one, of the checkpoint's
segments and of the frames that it does not cover, and takes its place.

A reader takes memory only where it is there. Where a write or another shard wants it, the reader is closed: its shard
has an owner, which answers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from vectorizer_engine.cache.memory_manager import CacheType, Charge
from vectorizer_engine.collection.data_folder import token_of
from vectorizer_engine.collection.environment import ShardEnvironment
from vectorizer_engine.collection.operations import decode_operation
from vectorizer_engine.collection.payload_indexes import PayloadIndexes
from vectorizer_engine.collection.readable_shard import ReadableShard
from vectorizer_engine.collection.types import CollectionParams
from vectorizer_engine.collection.view import CurrentView, Part, View
from vectorizer_engine.collection.write_path import WritePath
from vectorizer_engine.storage.files import disk_errors
from vectorizer_engine.storage.followed_segments import FollowedSegments
from vectorizer_engine.storage.head import POINT_BYTES, Head
from vectorizer_engine.storage.log_tail import News
from vectorizer_engine.storage.object_frame import Checkpoint, Frame
from vectorizer_engine.storage.segment import Segment
from vectorizer_engine.storage.segment_folder import bytes_of_segment


class ShardReader(ReadableShard):
    """Any thread may call."""

    _segments: FollowedSegments

    def __init__(
        self,
        folder: Path,
        params: CollectionParams,
        environment: ShardEnvironment,
        *,
        admit: Callable[[int], None] = lambda nbytes: None,
    ) -> None:
        """Read all that there is of the shard that *folder* holds copies of.

        *admit* is told how many bytes they will be before they are fetched, and raises where there is no room. Raises
        that, Outrun, StoreCorrupt, CacheMemoryLimitExceeded, StorageFull, StorageFailure.
        """
        super().__init__(folder, params, environment, rebuild=lambda: None)
        self._environment = environment
        self._dimension = params.dimension
        # Held by whoever reads the log, or closes.
        self._turn = threading.Lock()
        self._has_let_go = False
        assert environment.shared is not None, "other shards have one process that writes and reads them"
        with disk_errors(f"read {folder}"):
            self._segments, self._tail = environment.shared.open_to_read(
                environment.segment_place(folder, params), token_of(folder.parent)
            )
            self._payload_indexes = PayloadIndexes(
                {}, memory=environment.memory, files=environment.files, scratch=environment.scratch
            )
        self._heads = self._heads_on(View())
        admit(self._segments.nbytes(self._tail.checkpoint.state))
        self._maintenance.register(self)
        try:
            with disk_errors(f"read {folder}"):
                self._begin_at(self._tail.checkpoint)
            self.follow()
        except BaseException:
            self.close()
            raise

    @property
    def last_number(self) -> int:
        return (self._tail.next_record or 1) - 1

    @property
    def next_frame(self) -> int:
        """The number of the first frame that was not read yet."""
        return self._tail.next

    @property
    def busy(self) -> bool:
        return False

    @property
    def head_bytes(self) -> int:
        """Heap bytes of what was read of the log."""
        return self._heads.nbytes

    def flush(self, *, within: float) -> None:
        """Give all memory back: it is wanted elsewhere, and the shard's owner answers for it."""
        self.close()

    def follow(self, news: News | None = None) -> None:
        """Read on, up to what is known and what *news* tells of.

        Raises StorageFailure where the store is away, which can be tried again; Outrun and StoreCorrupt where another
        reader is to be opened; StoreClosed, CacheMemoryLimitExceeded, StorageFull and StorageFailure where what was
        read cannot be held, and the reader is closed for that.
        """
        try:
            with self._turn, disk_errors(f"read the log of {self._folder}"):
                for frame, checkpoint in self._tail.follow(news):
                    try:
                        if checkpoint is not None:
                            self._begin_at(checkpoint)
                        self._apply(self._heads, frame, after=0)
                    except BaseException:
                        self.close()  # or it would go on without this frame
                        raise
                if news is not None and news.indexes:
                    self._look_for_indexes()
        finally:
            self._let_go_if_closed()

    def close(self) -> None:
        self._closed.set()
        self._maintenance.forget(self)
        self._let_go_if_closed()

    def _begin_at(self, checkpoint: Checkpoint) -> None:
        """Have a view of what *checkpoint* names, and of what was read that is not in it."""
        opened = self._segments.open(checkpoint.state)
        self._payload_indexes.schema = self._segments.manifest.payload_schema
        self._open_indexes(segment for segment, _ in opened)
        heads = self._heads_on(View(tuple(Part(segment, segment.count, live) for segment, live in opened)))
        try:
            for frame in self._tail.reread():
                self._apply(heads, frame, after=checkpoint.applied)
        except BaseException:
            heads.close()
            raise
        before, self._heads, self._current = self._heads, heads, heads.current
        before.close()
        for segment in self._segments.superseded():
            self._indexes.discard(segment)
            self._payload_indexes.discard(segment)
            self._segments.discard(segment)
        self._files_changed()

    def _look_for_indexes(self) -> None:
        segments = [segment for segment, _ in self._current.view.segments()]
        if any(self._indexes.wants(each) or self._payload_indexes.missing(each) for each in segments):
            self._segments.fetch_indexes()
            self._open_indexes(segments)

    def _open_indexes(self, segments: Iterable[Segment]) -> None:
        for segment in segments:
            if segment.index is None:
                self._indexes.open_existing(segment)
            self._payload_indexes.open_existing(segment)

    def _heads_on(self, view: View) -> _Heads:
        points = self._head_points(self._dimension, self._environment.limits)
        return _Heads(view, self._environment, dimension=self._dimension, points=points)

    def _apply(self, heads: _Heads, frame: Frame, *, after: int) -> None:
        for number, data in enumerate(frame.records(), start=frame.first):
            if number > after:
                self._check_open()
                decode_operation(data, heads.path, self._admit).apply_again(number)

    def _admit(self, points: int) -> Charge:
        needed = points * POINT_BYTES + bytes_of_segment(points)
        charge = self.memory.reserve(CacheType.METADATA, needed)
        if charge is None:
            raise self.memory.limit_exceeded(f"{points} points of a shard that another member writes", needed)
        return charge

    def _let_go_if_closed(self) -> None:
        """Unless somebody is at it, who calls this afterwards."""
        while self._closed.is_set() and not self._has_let_go and self._turn.acquire(blocking=False):
            try:
                self._has_let_go = True
                self._indexes.close()
                self._verdicts.clear()
                self._segments.close()
                self._heads.close()
                self._current = CurrentView()
            finally:
                self._turn.release()


class _Heads:
    """What was read of the log since a checkpoint. In the place of a log and of who seals, it lets full heads be."""

    crowded = False

    def __init__(self, view: View, environment: ShardEnvironment, *, dimension: int, points: int) -> None:
        """What is read is applied to *view*. A head takes so many *points*."""
        self.current = CurrentView()
        self.current.publish(view)
        self.path = WritePath(
            self.current, self, self, dimension=dimension, environment=environment, head_points=lambda: points
        )
        self._full: list[Charge] = []

    @property
    def nbytes(self) -> int:
        return self.path.head_bytes + sum(charge.nbytes for charge in self._full)

    def roll(self) -> None: ...

    def submit(self, head: Head | None, charge: Charge, *, applied: int) -> None:
        self._full.append(charge)

    def close(self) -> None:
        for charge in self._full:
            charge.release()
        self.path.close()
