"""Segments made in the background: of a full head, of smaller segments, of one that lost much; then their indexes.

All of it is one move. A new segment is written from what was live in some parts of a view, which takes long
and stops nobody. Then, with the group commit paused, what was deleted or overwritten since is taken out again,
and the segment takes the parts' place: first in the manifest, then in the view. So a crash or a failure in
between leaves the old parts, and a folder that no manifest names.

Which segments are merged is `merge_policy`'s choice, what index a segment gets the planner's. Some of the work is only
done at rest, when no write has come for a while: a head that is not full is sealed, small segments are merged and
indexed. Until then the shard is busy, so that who waits for its end finds it as fast as it gets.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from vectorizer_engine.cache.memory_manager import Charge
from vectorizer_engine.collection.environment import ShardEnvironment
from vectorizer_engine.collection.indexing import WORTH_SEALING_BYTES, SegmentIndexes
from vectorizer_engine.collection.maintenance import Reminder
from vectorizer_engine.collection.merge_policy import FANOUT, Size, choose_merge, choose_merge_at_rest
from vectorizer_engine.collection.payload_indexes import PayloadIndexes
from vectorizer_engine.collection.view import CurrentView, Part, Source, View
from vectorizer_engine.errors import EngineError
from vectorizer_engine.index.base import Vectors
from vectorizer_engine.storage.commit import GroupCommit
from vectorizer_engine.storage.files import disk_errors
from vectorizer_engine.storage.head import Head
from vectorizer_engine.storage.live import LiveMask
from vectorizer_engine.storage.log import Log
from vectorizer_engine.storage.segment import Segment, StoredPoint
from vectorizer_engine.storage.segment_store import FileSegmentStore

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 1024
_BYTES_AT_ONCE = 4 * 1024**2
_SHORT_OF_MEMORY_SECONDS = 10.0
"""After so long it is tried again to build an index for which there was no memory."""

_AFTER_FAILURE_SECONDS = 30.0
"""After so long it is tried again to merge or index what the disk had refused: it may have space by then."""

_LEFTOVERS_SECONDS = 60.0
"""After so long leftovers of an earlier owner are removed, where nothing else was published meanwhile."""

_SETTLED_SECONDS = 10.0
"""When no head was sealed for so long, small segments are indexed though writes go on: more will not follow soon."""


class Stopping(Exception):
    """The job is given up; recovery will find what is left to do."""


class Compaction:
    """The background work of one shard. `seal` is for one thread at a time; so is what `schedule` starts."""

    def __init__(
        self,
        folder: Path,
        *,
        dimension: int,
        current: CurrentView,
        segments: FileSegmentStore,
        indexes: SegmentIndexes,
        payload_indexes: PayloadIndexes,
        log: Log,
        commit: GroupCommit,
        environment: ShardEnvironment,
        is_running: Callable[[], bool],
        flush: Callable[[], None],
    ) -> None:
        """*flush* has the head given to `seal`, however small it is. Raises EngineError where it cannot be now."""
        self._folder = folder
        self._dimension = dimension
        self._current = current
        self._segments = segments
        self._indexes = indexes
        self._payload_indexes = payload_indexes
        self._log = log
        self._commit = commit
        self._limits = environment.limits
        self._maintenance = environment.maintenance
        self._memory = environment.memory
        self._is_running = is_running
        self._files_changed = environment.changed_files(folder)
        self._flush = flush
        self._reminder = Reminder(environment.maintenance.merge_later, self.schedule)
        self._leftovers = Reminder(environment.maintenance.merge_later, self._remove_leftovers)
        self._last_seal = time.monotonic()
        self._last_merge = float("-inf")
        # Guards what follows.
        self._lock = threading.Lock()
        self._scheduled = False
        self._asked_again = False
        # Whether there is work that waits for rest. Set by any thread, and only together with a reminder.
        self._until_quiet = False

    @property
    def busy(self) -> bool:
        """Whether segments are being made or indexes built, or will be as soon as nothing is written."""
        return self._scheduled or self._until_quiet

    def seal(self, head: Head | None, charge: Charge, *, applied: int) -> None:
        """Put a segment in the place of *head*; the log is no longer needed up to record *applied*.

        *charge* has what the segment needs besides what the head holds. So heads can be sealed where nothing more
        can be reserved, which is when it has to be.

        Raises Stopping, StorageFull, StorageFailure.
        """
        with disk_errors(f"seal a segment in {self._folder}"):
            parts = [part for part in self._current.view.parts if part.source is head]
            self._rewrite(parts, applied=applied, reserved=charge)
        self._last_seal = time.monotonic()
        self._files_changed()

    def note_write(self) -> None:
        """To be called after a write: what it leaves to be done is done as soon as no other follows."""
        if not self._until_quiet and self._has_work_at_rest():
            self._wait_for_quiet()

    def schedule(self) -> None:
        """Merge and index what there is to merge and index, in the background."""
        if self._segments.has_leftovers:
            self._leftovers.ask(_LEFTOVERS_SECONDS)
        nothing_to_do = next(self._current.view.segments(), None) is None and not self._has_quiet_head()
        with self._lock:
            self._asked_again = self._scheduled
            if self._scheduled or nothing_to_do or not self._is_running():
                return
            self._scheduled = True
        self._maintenance.merge(self._run)

    def _run(self) -> None:
        """Seal a head that is at rest; index payloads, which is quick; merge what is to be merged; then index vectors.

        In this order, because a segment that is merged soon needs no index of its vectors.
        """
        tried: set[Segment] = set()
        unindexed: set[Segment] = set()
        self._until_quiet = False
        try:
            while True:
                self._check_running()
                at_rest = self._is_at_rest()
                if at_rest and self._has_quiet_head():
                    self._seal_quiet_head()
                    break
                if segment := self._choose_for_payload_indexes(unindexed):
                    unindexed.add(segment)
                    with disk_errors(f"index the payloads of a segment in {self._folder}"):
                        self._payload_indexes.build(segment, still_wanted=self._is_running)
                elif parts := self._choose_merge(at_rest=at_rest):
                    with disk_errors(f"merge segments in {self._folder}"):
                        self._rewrite(parts, applied=None)
                    self._last_merge = time.monotonic()
                elif segment := self._choose_for_index(tried):
                    tried.add(segment)
                    with disk_errors(f"index a segment in {self._folder}"):
                        self._indexes.build(segment, still_wanted=self._is_running)
                else:
                    if not at_rest and self._has_work_at_rest():
                        self._wait_for_quiet()
                    break
        except Stopping:
            pass
        except EngineError as error:
            if self._is_running():  # or its files were taken away in the middle of it
                logger.error("%s; the segments stay as they are, and it is tried again", str(error))
                self._reminder.ask(_AFTER_FAILURE_SECONDS)
        finally:
            self._files_changed()
            with self._lock:
                self._scheduled = False
                asked_again = self._asked_again
            if asked_again:  # by a segment that came after the last look
                self.schedule()

    def _remove_leftovers(self) -> None:
        """Publish what there is once more: what it does not name can go then."""
        if not self._segments.has_leftovers:
            return
        try:
            with disk_errors(f"publish the segments of {self._folder}"), self._commit.paused():
                self._publish((), None, None)
        except Stopping:
            pass
        except EngineError as error:
            logger.warning("what an earlier owner left stays in the store for now: %s", error)
            self._leftovers.ask(_LEFTOVERS_SECONDS)

    def _is_at_rest(self) -> bool:
        return self._current.seconds_since_write() >= self._limits.quiet_seconds

    def _wait_for_quiet(self) -> None:
        self._until_quiet = True
        self._reminder.ask(max(0.0, self._limits.quiet_seconds - self._current.seconds_since_write()))

    def _has_work_at_rest(self) -> bool:
        return self._has_quiet_head() or bool(self._choose_merge(at_rest=True))

    def _has_quiet_head(self) -> bool:
        """Whether there is a head that is sealed at rest."""
        parts = self._current.view.parts
        return (
            bool(parts)
            and isinstance(parts[-1].source, Head)
            and parts[-1].rows >= self._limits.quiet_head_points
        )

    def _seal_quiet_head(self) -> None:
        """Have it sealed. Sealing then has this scheduled again."""
        try:
            self._flush()
        except EngineError as error:
            logger.warning("a small head stays for now: %s", error)
            self._until_quiet = True
            self._reminder.ask(self._limits.quiet_seconds)

    def _choose_merge(self, *, at_rest: bool) -> list[Part]:
        parts = [part for _, part in self._current.view.segments()]
        sizes = [Size(part.rows, part.live.count) for part in parts]
        largest = min(
            self._indexes.largest_segment(self._dimension) or self._limits.segment_points,
            self._limits.segment_points,
        )
        chosen = choose_merge_at_rest(sizes, largest=largest) if at_rest else []
        if not self._indexes.affords(sum(sizes[index].live for index in chosen), self._dimension):
            chosen = []
        chosen = chosen or choose_merge(sizes, unit=self._limits.head_points, largest=largest)
        return [parts[index] for index in chosen]

    def _choose_for_payload_indexes(self, tried: set[Segment]) -> Segment | None:
        missing = self._payload_indexes.missing_in(self._current.view)
        if missing and tried.issuperset(missing):  # there is no memory for them at present
            self._reminder.ask(_SHORT_OF_MEMORY_SECONDS)
        return next((segment for segment in missing if segment not in tried), None)

    def _choose_for_index(self, tried: set[Segment]) -> Segment | None:
        """The largest segment that should have an index. Small ones wait for quiet: they may be merged soon."""
        wanting = {segment for segment, _ in self._current.view.segments() if self._indexes.wants(segment)}
        if wanting and wanting <= tried:  # somebody was quicker, whose memory is free by now
            self._reminder.ask(_SHORT_OF_MEMORY_SECONDS)
        wanting -= tried
        if not wanting:
            self._make_memory()
            return None
        largest = max(wanting, key=lambda segment: segment.count)
        # Where heads go on filling. One that was just merged waits for the next: writes may end here, and at rest it is
        # merged with what came behind, which would have its index built twice.
        going_on = self._last_seal > self._last_merge and largest.count >= FANOUT * self._limits.head_points
        if self._is_at_rest() or time.monotonic() - self._last_seal >= _SETTLED_SECONDS or going_on:
            return largest
        self._wait_for_quiet()
        return None

    def _make_memory(self) -> None:
        """Where an index has no room to be built, have a head sealed, which may make it, and look again later."""
        if any(self._indexes.lacks_memory(segment) for segment, _ in self._current.view.segments()):
            self._maintenance.relieve(self._memory, at_least=WORTH_SEALING_BYTES)
            self._reminder.ask(_SHORT_OF_MEMORY_SECONDS)

    def _rewrite(self, parts: Sequence[Part], *, applied: int | None, reserved: Charge | None = None) -> None:
        """Put one segment with what is live in *parts* in their place.

        With *applied*, the records up to that number are then no longer needed in the log.
        """
        view = View(tuple(parts))
        segment = self._segments.write(self._batches(view), reserved=reserved) if view.points else None
        try:
            if segment is not None:
                self._payload_indexes.build(segment, still_wanted=self._is_running)
                if any(old.index is not None for old, _ in view.segments()):
                    # Before it takes their place: who searches has an index all the while.
                    self._indexes.build(segment, still_wanted=self._is_running)
            with self._commit.paused():
                self._publish(parts, segment, applied)
        except BaseException:
            if segment is not None:
                self._indexes.discard(segment)
                self._segments.discard(segment)
            raise
        if segment is not None:
            self._payload_indexes.drop_stale(segment)  # other fields may be indexed than when it was written
        for old, _ in view.segments():
            self._indexes.discard(old)
            self._payload_indexes.discard(old)
            self._segments.discard(old)

    def _batches(self, view: View) -> Iterator[tuple[list[StoredPoint], Vectors]]:
        points: list[StoredPoint] = []
        rows: list[Vectors] = []
        nbytes = 0
        for point, place in view.scan():
            points.append(point)
            rows.append(place.part.vectors[place.offset])
            nbytes += len(point.payload) + rows[-1].nbytes
            if len(points) == _ROWS_AT_ONCE or nbytes >= _BYTES_AT_ONCE:
                self._check_running()
                yield points, np.stack(rows)
                points, rows, nbytes = [], [], 0
        if points:
            yield points, np.stack(rows)

    def _publish(self, parts: Sequence[Part], segment: Segment | None, applied: int | None) -> None:
        """Replace *parts* by *segment*, in the manifest and then in the view. Nothing else writes meanwhile."""
        self._check_running()
        replaced = {part.source: part for part in parts}
        kept = [part for part in self._current.view.parts if part.source not in replaced]
        if segment is not None:
            offsets = [offset for offset in segment.find(self._gone_since(replaced)) if offset is not None]
            live = LiveMask.from_deleted(b"", segment.count).without(offsets)
            kept.insert(0, Part(segment, segment.count, live))
        view = View(tuple(kept))
        applied = self._segments.manifest.applied if applied is None else applied
        self._segments.publish(
            [(source, part.live) for source, part in view.segments()],
            applied=applied,
            logged=self._log.next_number - 1,
        )
        self._current.publish(view)
        self._log.forget(through=applied)

    def _gone_since(self, before: dict[Source, Part]) -> list[bytes]:
        """The keys that were live in *before* and have since been deleted or overwritten."""
        keys: list[bytes] = []
        for part in self._current.view.parts:
            if part.source in before:
                gone = LiveMask(before[part.source].live.bits & ~part.live.bits, 0).offsets()
                keys.extend(stamp.key for stamp in part.source.stamps(gone.tolist()))
        return keys

    def _check_running(self) -> None:
        if not self._is_running():
            raise Stopping
